"""Policies that are learnt, and how actions are drawn: by hand and by finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl.agents import run
from rl.choices import Lambda
from rl.confidence import UCB, Thompson
from rl.control import Control
from rl.environments import random_walk
from rl.policies import (
    Drawers,
    EpsilonGreedy,
    Linear,
    Power,
    Softmax,
    from_json,
    to_json,
)
from rl.policy_gradient import PolicyGradient
from rl.traces import trace_of
from rl.values import ActionValues

MONTE_CARLO = {"frequency": "episode", "depth": "episode"}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def walked(agent, *rewards):
    """Take the agent through states 0, 1, ... with action 0 each time."""
    agent.start(0)
    for t, reward in enumerate(rewards):
        agent._action = 0
        agent.step(reward, t + 1, terminal=t == len(rewards) - 1)
    return agent


def test_reinforce_by_hand() -> None:
    """Two steps, rewards 0 and 8, discount 1/2: G = 4 and 8; the second step counts half."""
    agent = walked(PolicyGradient(2, update="reinforce", step_size=0.1, discount=0.5), 0.0, 8.0)
    # step_size * discount^t * G * (1 - 1/2)
    assert agent.preferences.read(0) == pytest.approx([0.2, -0.2])
    assert agent.preferences.read(1) == pytest.approx([0.1 * 0.5 * 8 / 2, -0.1 * 0.5 * 8 / 2])


def test_reinforce_with_baseline_by_hand() -> None:
    agent = PolicyGradient(2, update="reinforce-with-baseline", step_size=0.1,
                           value_step_size=0.5, discount=0.5)  # fmt: skip
    agent.v.add(0, [1.0])
    walked(agent, 0.0, 8.0)
    assert agent.preferences.read(0)[0] == pytest.approx(0.1 * (4 - 1) / 2)
    assert agent.preferences.read(1)[0] == pytest.approx(0.1 * 0.5 * (8 - 0) / 2)
    assert agent.v.read(0) == [1 + 0.5 * (4 - 1)]
    assert agent.v.read(1) == [4.0]


def test_one_step_actor_critic_by_hand() -> None:
    agent = PolicyGradient(2, step_size=0.1, value_step_size=0.5, discount=0.5)
    agent.v.add(1, [6.0])
    walked(agent, 2.0, 8.0)
    # errors: 2 + .5 * 6 - 0 = 5, then 8 - 6 = 2 with weight discount^1
    assert agent.preferences.read(0)[0] == pytest.approx(0.1 * 5 / 2)
    assert agent.preferences.read(1)[0] == pytest.approx(0.1 * 0.5 * 2 / 2)
    assert (agent.v.read(0), agent.v.read(1)) == ([2.5], [7.0])


def test_actor_critic_with_traces_by_hand() -> None:
    """Sutton & Barto, 13.5, episodic with traces: z fades by discount * lambda."""
    agent = PolicyGradient(2, depth=Lambda(0.8), step_size=0.1, value_step_size=0.5, discount=0.5)
    agent.v.add(1, [6.0])
    walked(agent, 2.0, 8.0)
    errors = 5.0, 2.0
    assert agent.v.read(0) == pytest.approx([0.5 * (errors[0] + 0.4 * errors[1])])
    assert agent.v.read(1) == pytest.approx([6 + 0.5 * errors[1]])
    assert agent.preferences.read(0)[0] == pytest.approx(0.1 * (errors[0] + 0.4 * errors[1]) / 2)
    assert agent.preferences.read(1)[0] == pytest.approx(0.1 * 0.5 * errors[1] / 2)


def test_the_gradient_is_that_of_the_logarithm_of_the_policy() -> None:
    agent = PolicyGradient(3, update="reinforce", step_size=1.0)
    agent.preferences.add(0, [0.3, -0.4, 0.1])
    before, tiny = np.array(agent.preferences.read(0)), 1e-6

    def log_probability(h):
        return h[0] - np.log(np.exp(h).sum())

    expected = [
        (log_probability(before + d) - log_probability(before - d)) / (2 * tiny)
        for d in tiny * np.eye(3)
    ]
    walked(agent, 1.0)
    assert np.allclose(agent.preferences.read(0) - before, expected, atol=1e-8)


def test_what_is_not_legal_is_neither_done_nor_moved() -> None:
    agent = PolicyGradient(3, update="reinforce")
    mask = [True, False, True]
    assert agent.probabilities(0, mask).tolist() == [0.5, 0.0, 0.5]
    drawn = {agent.start(0, mask) for _ in range(50)}
    assert drawn == {0, 2}
    agent.step(1.0, 1, terminal=True)
    assert agent.preferences.read(0)[1] == 0.0
    control = Control(3, policy=EpsilonGreedy(0.9, unvisited="initial"))
    assert {control.start(0, mask) for _ in range(80)} == {0, 2}
    assert control.probabilities(0, mask).tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert control.greedy(0, [False, False, True]) == 2


def test_the_short_corridor_wants_a_stochastic_policy() -> None:
    """Sutton & Barto, example 13.1: all states look alike and one of them is reversed; the best
    goes right with probability .59, worth -11.6; REINFORCE finds it, no greedy one can."""
    agent = PolicyGradient(2, update="reinforce-with-baseline", step_size=2**-9,
                           value_step_size=2**-6, features=lambda s: np.ones(1), n_features=1,
                           seed=1)  # fmt: skip
    returns = []
    for _ in range(1000):
        state, total = 0, 0.0
        action = agent.start(state)
        while state != 3 and total > -1000:
            right = (action == 1) != (state == 1)
            state = max(state + (1 if right else -1), 0)
            total -= 1
            action = agent.step(-1.0, state, terminal=state == 3, truncated=total == -1000)
        returns.append(total)
    assert agent.probabilities(0)[1] == pytest.approx(0.59, abs=0.13)
    assert np.mean(returns[-400:]) == pytest.approx(-11.6, abs=1.5)


def test_fast_choices_have_the_same_probabilities() -> None:
    rng = np.random.default_rng(3)
    for epsilon in (0.0, 0.4, Linear(0.8, 0.2, 10)):
        policy = EpsilonGreedy(epsilon, unvisited="initial")
        for q in ([1.0, 3.0, 3.0, -math.inf], [0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, 5.0]):
            legal = np.array(q) > -math.inf
            p = policy.probabilities(np.array(q), np.ones(4), legal, 5)
            drawn = np.bincount([policy.choose(q, 5, rng) for _ in range(4000)], minlength=4)
            assert np.abs(drawn / 4000 - p).max() < 0.036
            assert (drawn[~legal] == 0).all()


def test_traces_by_hand() -> None:
    table = ActionValues(2, step_size=0.5)
    trace = trace_of(table)
    trace.add("s", [1.0, 0.0])
    trace.decay(0.5)
    trace.add("s", [1.0, 0.0])
    trace.add("t", [0.0, 2.0])
    assert [trace.along("s", 0), trace.along("t", 1), trace.along("t", 0)] == [1.5, 2.0, 0.0]
    trace.replace("s", 0)
    assert trace.along("s", 0) == 1.0
    trace.apply(2.0)
    assert table.read("s") == [2.0, 0.0]
    assert table.read("t") == [0.0, 4.0]
    trace.decay(0.0)
    trace.apply(9.0)
    assert table.read("s") == [2.0, 0.0]


def test_step_sizes_fade_with_the_visits_of_a_pair() -> None:
    table = ActionValues(1, step_size=Power(1.0, 1.0))
    for target in (1.0, 2.0, 6.0):
        table.update("s", 0, target)
    assert table.read("s") == [3.0]
    assert [Power(0.5, 2.0)(t) for t in (0, 1, 3)] == [0.5, 0.125, 0.03125]
    again = ActionValues.from_json(table.to_json(), 1)
    assert again.step_size == Power(1.0, 1.0)


def test_policies_survive_json() -> None:
    policy = EpsilonGreedy(Linear(1.0, 0.1, 50), unvisited="initial")
    assert from_json(to_json(policy)) == policy
    with pytest.raises(ValueError, match="no policy or schedule 'Bold'"):
        from_json({"name": "Bold"})
    with pytest.raises(ValueError, match="cannot be written"):
        to_json(print)


def test_monte_carlo_control_of_the_walk_goes_right() -> None:
    agent = Control(2, update="sarsa", step_size=None, discount=0.9, **MONTE_CARLO)
    run(agent, random_walk(5), episodes=200, seed=2)
    assert [agent.greedy(s) for s in range(1, 6)] == [1] * 5


@pytest.mark.parametrize(
    "policy", [EpsilonGreedy(0.3), Softmax(0.5), UCB(1.0), Thompson(1.0)], ids=lambda p: str(p)[:6]
)
def test_a_drawer_draws_what_act_does_with_the_same_numbers(policy):
    q, n = np.array([0.1, 0.4, 0.4, -1.0]), np.array([3.0, 9.0, 2.0, 1.0])
    legal = np.array([True, True, True, False])
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    draw = policy.drawer(q, n, legal, 7)
    drawn = [draw(one) for _ in range(200)]
    assert drawn == [policy.act(q, n, legal, 7, other) for _ in range(200)]
    assert 3 not in drawn


def test_kept_drawers_follow_the_step_and_what_is_legal():
    policy = EpsilonGreedy(Linear(1.0, 0.0, 10))
    table = ActionValues(2)
    table.update("state", 0, 0.0)
    table.update("state", 1, 1.0)
    kept = Drawers(policy, table)
    both, first = np.array([True, True]), np.array([True, False])
    rng = np.random.default_rng(0)

    def share(step, legal):
        return np.mean([kept.get("state", legal, step)(rng) for _ in range(2000)])

    assert share(0, both) == pytest.approx(0.5, abs=0.05)
    assert share(10, both) == 1
    assert share(10, first) == 0
    assert share(0, both) == pytest.approx(0.5, abs=0.05)
