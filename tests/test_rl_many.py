"""Many runs at once against one run at a time."""

from __future__ import annotations

import numpy as np
import pytest

from rl.agents import run
from rl.control import Control
from rl.environments import GridWorld, MDPEnv, cliff_walk, maximisation_bias
from rl.many import run_many
from rl.mdp import FiniteMDP, random_mdp
from rl.policies import EpsilonGreedy

UPDATES = ("sarsa", "expected-sarsa", "q-learning", "double-q-learning")


@pytest.mark.parametrize("update", UPDATES[:3])
def test_without_chance_it_is_the_same_run(update) -> None:
    """Greedy from values that never tie, in a world without chance: nothing is left to draw."""
    environment = cliff_walk(discount=0.9)
    initial = np.random.default_rng(3).normal(scale=0.01, size=(48, 4))
    many = run_many(environment.mdp, runs=3, episodes=8, update=update, epsilon=0.0, step_size=0.5,
                    initial=initial)  # fmt: skip
    agent = Control(4, update=update, step_size=0.5, discount=0.9,
                    policy=EpsilonGreedy(0.0, unvisited="initial"))  # fmt: skip
    for state in range(48):
        agent.function.add(state, initial[state])
    one = run(agent, environment, episodes=8)
    for row in range(3):
        assert many.returns[row].tolist() == one.returns.tolist()
        assert many.lengths[row].tolist() == one.lengths.tolist()
        assert np.allclose(many.q[row], [agent.q(s) for s in range(48)], rtol=1e-12)


@pytest.mark.parametrize("update", UPDATES)
def test_with_chance_it_is_the_same_on_average(update) -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(6), size=(6, 3)) * 0.8
    p[:, :, 5] += 0.2
    mdp = FiniteMDP(p, rng.normal(size=(6, 3)), terminal=np.arange(6) == 5, discount=0.9)
    sd, legal = np.full((6, 3), 0.5), rng.random((6, 3)) < 0.7
    legal[:, 0] = True
    many = run_many(mdp, runs=800, episodes=25, update=update, epsilon=0.2, step_size=0.3,
                    reward_sd=sd, legal=legal)  # fmt: skip
    returns, q = [], []
    for seed in range(200):
        agent = Control(3, update=update, step_size=0.3, discount=0.9, seed=seed,
                        policy=EpsilonGreedy(0.2, unvisited="initial"))  # fmt: skip
        environment = MDPEnv(mdp, reward_sd=sd, legal=legal)
        returns.append(run(agent, environment, episodes=25, seed=seed).returns)
        q.append([agent.q(s) for s in range(5)])
    q = np.array(q)
    for one, other in ((np.array(returns).mean(0), many.returns.mean(0)),):
        error = np.array(returns).std(0) * np.sqrt(1 / 200 + 1 / 800)
        assert (np.abs(one - other) < 4.5 * error + 1e-9).all()
    seen = np.where(legal[:5], many.q[:, :5], 0.0)
    error = q.std(0) * np.sqrt(1 / 200 + 1 / 800)
    assert (np.abs(q.mean(0) - seen.mean(0))[legal[:5]] < 4.5 * error[legal[:5]] + 1e-9).all()


def test_every_run_has_all_its_episodes_and_none_more() -> None:
    many = run_many(cliff_walk().mdp, runs=7, episodes=5, step_size=0.5, seed=4)
    assert (many.lengths >= 13).all()
    assert many.q.shape == (7, 48, 4)
    assert len({tuple(row) for row in many.lengths}) > 1  # runs are not copies
    bias = maximisation_bias()
    first = run_many(bias.mdp, runs=300, episodes=4, epsilon=1.0, legal=bias.legal,
                     reward_sd=bias.reward_sd).first_actions  # fmt: skip
    assert set(first.ravel()) == {0, 1}
    assert first.mean() == pytest.approx(0.5, abs=0.07)


def test_double_q_learning_judges_one_tables_choice_by_the_other() -> None:
    """Example 6.7: whoever judges his own choice of the best goes left for long."""
    bias = maximisation_bias()
    left = {
        update: run_many(bias.mdp, runs=400, episodes=60, update=update, legal=bias.legal,
                         reward_sd=bias.reward_sd, seed=2).first_actions[:, 40:].mean()
        for update in ("q-learning", "double-q-learning")
    }  # fmt: skip
    assert left["q-learning"] > 0.7
    assert left["double-q-learning"] < 0.3


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no terminal state"):
        run_many(random_mdp(np.random.default_rng(0)), runs=1, episodes=1)
    with pytest.raises(ValueError, match="update='td'"):
        run_many(cliff_walk().mdp, runs=1, episodes=1, update="td")
    for more in ({"runs": 0, "episodes": 1}, {"runs": 1, "episodes": 0}):
        with pytest.raises(ValueError, match="=0 must be at least 1"):
            run_many(cliff_walk().mdp, **more)
    with pytest.raises(ValueError, match=r"from state 0, .* no end can be reached"):
        run_many(GridWorld("S#G").mdp, runs=2, episodes=2)
    with pytest.raises(ValueError, match=r"from state 0, .* no end can be reached"):
        run_many(GridWorld("SG").mdp, runs=2, episodes=2, legal=np.array([[1, 0, 1, 1], [1] * 4]))


@pytest.mark.parametrize("update", UPDATES)
def test_a_terminal_state_may_allow_no_action(update) -> None:
    p = np.zeros((2, 2, 2))
    p[:, :, 1] = 1.0
    mdp = FiniteMDP(p, np.array([[1.0, 2.0], [0.0, 0.0]]), terminal=np.array([False, True]))
    legal = np.array([[True, False], [False, False]])
    many = run_many(mdp, runs=20, episodes=5, update=update, legal=legal, epsilon=0.5)
    assert (many.returns == 1.0).all()
    assert np.isfinite(many.q[:, 0, 0]).all()
