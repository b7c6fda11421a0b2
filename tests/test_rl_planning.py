"""Planning against the textbook's gridworlds, hand calculations and Gymnasium's tables."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.environments import GridWorld, random_walk
from rl.mdp import FiniteMDP, policy_matrix, random_mdp
from rl.planning import (
    compare,
    evaluate,
    evaluate_iteratively,
    evaluate_q,
    improve,
    policy_iteration,
    value_iteration,
)


def grid(height, width, moves, reward, terminal, discount, jumps=None):
    """Return a gridworld whose walls bounce; `reward(s, bounced)`; `jumps` {cell: (to, reward)}."""
    n = height * width
    p, r = np.zeros((n, len(moves), n)), np.zeros((n, len(moves)))
    for s in range(n):
        for a, (down, right) in enumerate(moves):
            row, column = s // width + down, s % width + right
            inside = 0 <= row < height and 0 <= column < width
            to, gained = (row * width + column if inside else s), reward(not inside)
            if jumps and s in jumps:
                to, gained = jumps[s]
            p[s, a, to], r[s, a] = 1.0, gained
    ends = np.isin(np.arange(n), terminal)
    return FiniteMDP(p, r, terminal=ends, discount=discount)


MOVES = [(-1, 0), (1, 0), (0, -1), (0, 1)]


def small_grid():
    """Sutton & Barto, example 4.1."""
    return grid(4, 4, MOVES, lambda bounced: -1.0, [0, 15], 1.0)


def jumping_grid():
    """Sutton & Barto, examples 3.5 and 3.8: A jumps to A' for +10, B to B' for +5."""
    jumps = {1: (21, 10.0), 3: (13, 5.0)}
    return grid(5, 5, MOVES, lambda bounced: -1.0 if bounced else 0.0, [], 0.9, jumps)


def uniform(mdp):
    return np.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions)


def test_acting_at_random_in_the_textbooks_grids() -> None:
    figure_4_1 = [0, -14, -20, -22, -14, -18, -20, -20, -20, -20, -18, -14, -22, -20, -14, 0]
    mdp = small_grid()
    assert np.allclose(evaluate(mdp, uniform(mdp)), figure_4_1)
    assert np.allclose(evaluate_iteratively(mdp, uniform(mdp)), figure_4_1, atol=1e-7)
    figure_3_2 = [
        [3.3, 8.8, 4.4, 5.3, 1.5],
        [1.5, 3.0, 2.3, 1.9, 0.5],
        [0.1, 0.7, 0.7, 0.4, -0.4],
        [-1.0, -0.4, -0.4, -0.6, -1.2],
        [-1.9, -1.3, -1.2, -1.4, -2.0],
    ]
    mdp = jumping_grid()
    assert np.abs(evaluate(mdp, uniform(mdp)).reshape(5, 5) - figure_3_2).max() <= 0.05001


@pytest.mark.parametrize("solve", [value_iteration, policy_iteration])
def test_the_optimum_of_the_textbooks_grid(solve) -> None:
    figure_3_5 = [
        [22.0, 24.4, 22.0, 19.4, 17.5],
        [19.8, 22.0, 19.8, 17.8, 16.0],
        [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0],
        [14.4, 16.0, 14.4, 13.0, 11.7],
    ]
    found = solve(jumping_grid())
    assert np.abs(found.v.reshape(5, 5) - figure_3_5).max() <= 0.05001
    # of the corner below A, up and right are both optimal, and down and left are not
    assert found.greedy()[20].tolist() == [True, False, False, True]


def test_three_sweeps_from_zero_are_the_textbooks() -> None:
    mdp, v = small_grid(), np.zeros(16)
    for _ in range(3):
        v = mdp.backup_v(uniform(mdp), v)
    # Sutton & Barto, figure 4.1, k = 3: -2.4 -2.9 -3.0, to one digit and truncated there
    assert v[1] == pytest.approx(-2.4375)
    assert v[2] == pytest.approx(-2.9375)
    assert v[3] == -3.0


@given(st.integers(0, 10_000), st.floats(0.1, 0.95))
def test_solutions_are_fixed_points_and_agree(seed: int, discount: float) -> None:
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, discount=discount)
    policy = rng.dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)
    v, q = evaluate(mdp, policy), evaluate_q(mdp, policy)
    assert np.allclose(mdp.backup_v(policy, v), v)
    assert np.allclose(mdp.backup_q(policy, q), q)
    assert np.allclose((policy * q).sum(1), v)
    assert np.allclose(evaluate_iteratively(mdp, policy), v, atol=1e-7)
    by_value, by_policy = value_iteration(mdp), policy_iteration(mdp)
    assert np.allclose(by_value.v, by_policy.v, atol=1e-7)
    assert np.allclose(mdp.optimal_backup_q(by_policy.q), by_policy.q)
    assert np.allclose(mdp.optimal_backup_v(by_policy.v), by_policy.v)
    # no policy is better, and improving one never harms it
    assert (v <= by_policy.v + 1e-9).all()
    better = improve(mdp, v)
    assert compare(mdp, better, policy) in ("better", "equal")
    assert compare(mdp, by_policy.policy, by_value.policy) == "equal"


@given(st.integers(0, 10_000), st.floats(0.1, 0.95))
def test_the_value_is_the_average_return_of_many_walks(seed: int, discount: float) -> None:
    """Against the discounted sum of expected rewards by powers of P: no Bellman equation."""
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, discount=discount)
    policy = rng.integers(mdp.n_actions, size=mdp.n_states)
    at = np.arange(mdp.n_states)
    p, r = mdp.transitions[at, policy], mdp.expected_rewards[at, policy]
    total, after = np.zeros(mdp.n_states), np.eye(mdp.n_states)
    for t in range(600):
        total += discount**t * (after @ r)
        after = after @ p
    assert np.allclose(evaluate(mdp, policy), total, atol=1e-6)


def test_what_is_said_of_terminal_states_is_not_read() -> None:
    mdp = small_grid()
    v = evaluate(mdp, uniform(mdp))
    claimed = np.where(mdp.terminal, 99.0, v)
    assert np.array_equal(mdp.action_values(claimed), mdp.action_values(v))
    assert np.allclose(mdp.backup_v(uniform(mdp), claimed), v)


def test_policies_are_ordered_in_part_only() -> None:
    # two states of their own; in each, action 0 is worth 1 and action 1 is worth 0
    p = np.zeros((3, 2, 3))
    p[:, :, 2] = 1.0
    r = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    mdp = FiniteMDP(p, r, terminal=np.array([False, False, True]))
    both, first, second, none = (np.array([*pair, 0]) for pair in ([0, 0], [0, 1], [1, 0], [1, 1]))
    assert compare(mdp, both, first) == "better"
    assert compare(mdp, none, first) == "worse"
    assert compare(mdp, first, second) == "incomparable"
    assert compare(mdp, first, policy_matrix(first, mdp)) == "equal"


def test_gymnasiums_tables_are_read() -> None:
    lake = gymnasium.make("FrozenLake-v1", map_name="4x4").unwrapped
    mdp = FiniteMDP.from_table(lake.P, discount=0.99, start=lake.initial_state_distrib)
    assert mdp.n_states == 17
    assert mdp.start[0] == 1.0
    # the value of the 4 x 4 lake's start, as published with many a tutorial
    assert value_iteration(mdp).v[0] == pytest.approx(0.542, abs=5e-4)
    cliff = gymnasium.make("CliffWalking-v1").unwrapped
    walk = FiniteMDP.from_table(cliff.P)
    assert policy_iteration(walk).v[36] == -13.0
    # in the lake's table several outcomes of one action lead to one state
    assert np.allclose(mdp.transitions[0, 0, [0, 4]], [2 / 3, 1 / 3])


def test_outcomes_that_meet_share_their_expected_reward() -> None:
    table = {0: {0: [(0.25, 0, 8.0, False), (0.25, 0, 0.0, False), (0.5, 0, 2.0, True)]}}
    mdp = FiniteMDP.from_table(table, discount=0.5)
    assert mdp.rewards[0, 0].tolist() == [4.0, 2.0]
    # V = .5 (4 + .5 V) + .5 * 2
    assert evaluate(mdp, np.array([0, 0]))[0] == pytest.approx(4.0)


@pytest.mark.parametrize("solve", [policy_iteration, value_iteration])
def test_without_a_discount_the_policy_ends_where_every_action_is_worth_the_same(solve) -> None:
    """Where only the goal is rewarded, all actions of a state are worth 1; one leads nearer."""
    to_the_right = solve(random_walk().mdp).policy
    assert to_the_right[1:-1].tolist() == [1] * 19
    row = GridWorld("S..G", step_reward=0.0, goal_reward=1.0).mdp
    solution = solve(row)
    assert solution.policy[:3].tolist() == [1, 1, 1]
    assert evaluate(row, solution.policy)[:3].tolist() == [1.0, 1.0, 1.0]
    lake = gymnasium.make("FrozenLake-v1", is_slippery=False).unwrapped
    mdp = FiniteMDP.from_table(lake.P, start=lake.initial_state_distrib)
    assert solve(mdp).v[0] == 1.0
    walk, state = [0], 0
    for _ in range(6):  # the shortest way across 4 by 4 cells
        _, state, _, _ = lake.P[state][int(solve(mdp).policy[state])][0]
        walk.append(state)
    assert walk[-1] == 15


def test_a_policy_that_ends_is_taken_as_it_comes() -> None:
    """Ties of a grid with a price on each step all lead nearer: the first of them stays."""
    mdp = GridWorld("S..\n...\n..G").mdp
    q = value_iteration(mdp).q
    assert np.array_equal(value_iteration(mdp).policy, q.argmax(1))


def test_what_breaks_a_rule_is_refused() -> None:
    p, r, no_end = np.ones((2, 1, 2)) / 2, np.zeros((2, 1)), np.zeros(2, bool)
    with pytest.raises(ValueError, match=r"transitions\[1, 0\].*sum to 1"):
        FiniteMDP(np.array([[[1.0, 0.0]], [[0.7, 0.7]]]), r, terminal=no_end)
    with pytest.raises(ValueError, match=r"\(2, 1\).*n_states"):
        FiniteMDP(r, r, terminal=no_end)
    with pytest.raises(ValueError, match=r"rewards has the shape \(3,\)"):
        FiniteMDP(p, np.zeros(3), terminal=no_end)
    with pytest.raises(ValueError, match="terminal has the shape"):
        FiniteMDP(p, r, terminal=np.zeros(3, bool))
    with pytest.raises(ValueError, match=r"discount=1\.5"):
        FiniteMDP(p, r, terminal=no_end, discount=1.5)
    with pytest.raises(ValueError, match="start must be"):
        FiniteMDP(p, r, terminal=no_end, start=np.array([0.5, 0.6]))
    mdp = FiniteMDP(p, r, terminal=no_end)
    with pytest.raises(ValueError, match="never reaches the end"):
        evaluate(mdp, np.array([0, 0]))
    with pytest.raises(ValueError, match="takes action 3 in state 1"):
        policy_matrix(np.array([0, 3]), mdp)
    with pytest.raises(ValueError, match="rows must be probabilities"):
        policy_matrix(np.array([[0.5], [1.0]]), mdp)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        policy_matrix(np.array([0.5, 1.0, 1.0]), mdp)
    growing = FiniteMDP(p, r + 1, terminal=no_end)
    with pytest.raises(ValueError, match="still changes after 50 sweeps"):
        value_iteration(growing, most_sweeps=50)
    with pytest.raises(ValueError, match="still changes after 50 sweeps"):
        evaluate_iteratively(growing, np.array([0, 0]), most_sweeps=50)
