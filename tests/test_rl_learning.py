"""Returns, targets, tables and policies against hand calculations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.knobs import KnobState, knob_episode, setting_of
from rl.mdp import discounted_return
from rl.policies import (
    GREEDY,
    EpsilonGreedy,
    Exponential,
    Linear,
    RandomThen,
    Softmax,
    greedy_actions,
)
from rl.space import Knob, SearchSpace, SpaceError
from rl.targets import n_step, one_step, returns
from rl.values import ActionValues

SPACE = SearchSpace(
    [Knob("a", ("x", "y")), Knob("b", (1, 2, 3), when={"a": ("y",)}), Knob("c", (0.0, 0.5))]
)
ALL = np.ones(3, dtype=bool)


def test_the_reward_comes_at_the_end_and_absent_knobs_are_no_step() -> None:
    episode = knob_episode(SPACE, {"a": "y", "b": 3, "c": 0.5}, 0.7)
    assert episode.rewards == (0.0, 0.0, 0.7)
    assert [step.action for step in episode] == [1, 2, 1]
    assert [step.terminal for step in episode] == [False, False, True]
    assert episode.transitions[1].state == KnobState((("a", "y"),), "b")
    assert setting_of(episode) == {"a": "y", "b": 3, "c": 0.5}
    assert len(knob_episode(SPACE, {"a": "x", "c": 0.5}, 0.7)) == 2
    with pytest.raises(SpaceError, match="lacks b"):
        knob_episode(SPACE, {"a": "y", "c": 0.5}, 0.7)


def test_returns_by_hand() -> None:
    # Sutton & Barto, exercise 3.8: discount .5, rewards -1 2 6 3 2 give 2, 6, 8, 4, 2
    rewards = [-1.0, 2.0, 6.0, 3.0, 2.0]
    assert returns(rewards, discount=0.5).tolist() == [2.0, 6.0, 8.0, 4.0, 2.0]
    assert discounted_return(rewards, 0.5) == 2.0


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=8),
    st.integers(1, 9),
    st.floats(0, 1),
)
def test_n_step_targets_are_one_step_targets_applied_backwards(
    rewards: list[float], n: int, discount: float
) -> None:
    values = [float(i) for i in range(len(rewards))]
    found = n_step(rewards, values, n=n, discount=discount)
    end = len(rewards)
    for t in range(end):
        reach = min(t + n, end)
        target = values[reach] if reach < end else 0.0
        for k in range(reach - 1, t - 1, -1):
            target = one_step(rewards[k], target, discount=discount, terminal=k == end - 1)
        assert found[t] == pytest.approx(target)
    assert np.allclose(
        n_step(rewards, values, n=None, discount=discount), returns(rewards, discount=discount)
    )


def test_n_step_refuses_a_horizon_of_nothing() -> None:
    with pytest.raises(ValueError, match="n=0"):
        n_step([1.0], [0.0], n=0)
    with pytest.raises(ValueError, match="2 values for 1 rewards"):
        n_step([1.0], [0.0, 0.0], n=1)


def test_sample_averages_are_means_and_constant_steps_fade() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=50)
    mean, fading = ActionValues(3), ActionValues(3, step_size=0.5, initial=8.0)
    for target in targets:
        mean.update("s", 1, target)
        fading.update("s", 1, target)
    assert mean.values("s")[1] == pytest.approx(targets.mean())
    assert mean.counts("s").tolist() == [0, 50, 0]
    weights = 0.5 * 0.5 ** np.arange(50)[::-1]
    assert fading.values("s")[1] == pytest.approx(targets @ weights + 8 * 0.5**50)
    assert fading.values("s")[0] == 8.0


def test_untried_actions_are_not_the_best_and_tables_survive_json() -> None:
    q = ActionValues(lambda state: 2 if state == "s" else 3)
    assert q.best("s") == 0.0
    q.update("s", 0, -5.0)
    q.update(("b", (("a", "x"),)), 2, 1.0)
    assert q.best("s") == -5.0
    q.add("moved", [1.0, 0.0, 0.0])
    assert q.best("moved") == 0.0  # by no action taken
    again = ActionValues.from_json(json.loads(json.dumps(q.to_json())), 3)
    assert list(again) == list(q) == ["s", ("b", (("a", "x"),)), "moved"]
    assert again.values(("b", (("a", "x"),))).tolist() == [0.0, 0.0, 1.0]
    assert again.counts("s").tolist() == [1.0, 0.0]


def test_epsilon_greedy_probabilities_by_hand() -> None:
    q, n = np.array([1.0, 3.0, 3.0]), np.array([1.0, 1.0, 1.0])
    p = EpsilonGreedy(epsilon=0.3).probabilities(q, n, ALL, 0)
    assert p.tolist() == pytest.approx([0.1, 0.45, 0.45])
    p = EpsilonGreedy(epsilon=0.3).probabilities(q, n, np.array([True, True, False]), 0)
    assert p.tolist() == pytest.approx([0.15, 0.85, 0.0])


def test_unvisited_actions_count_as_asked() -> None:
    q, n = np.array([0.0, -1.0, -2.0]), np.array([0.0, 4.0, 4.0])
    assert greedy_actions(q, n, ALL, "first").tolist() == [True, False, False]
    assert greedy_actions(q, n, ALL, "initial").tolist() == [True, False, False]
    assert greedy_actions(q, n, ALL, "last").tolist() == [False, True, False]
    assert GREEDY.probabilities(q, 0 * n, ALL, 0).tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="no action is legal"):
        greedy_actions(q, n, ~ALL)


@pytest.mark.parametrize(
    "policy", [EpsilonGreedy(0.2), Softmax(0.7), EpsilonGreedy(RandomThen(5, 0.0))]
)
@pytest.mark.parametrize("step", [0, 9])
def test_probabilities_sum_to_one_and_match_frequencies(policy, step: int) -> None:
    rng = np.random.default_rng(3)
    q, n = np.array([0.5, 1.0, -1.0]), np.array([3.0, 1.0, 2.0])
    p = policy.probabilities(q, n, ALL, step)
    assert p.sum() == pytest.approx(1.0)
    drawn = np.bincount([policy.act(q, n, ALL, step, rng) for _ in range(4000)], minlength=3)
    assert np.abs(drawn / 4000 - p).max() < 0.03  # four standard errors of a share


def test_schedules_by_hand() -> None:
    assert [Linear(1.0, 0.2, 4)(t) for t in (0, 2, 4, 9)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert [Exponential(1.0, 0.2, 3)(t) for t in (0, 3, 6)] == pytest.approx([1.0, 0.6, 0.4])
    assert [RandomThen(2, 0.1)(t) for t in (0, 1, 2)] == [1.0, 1.0, 0.1]


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilon=1.5"):
        EpsilonGreedy(1.5)
    with pytest.raises(ValueError, match="unvisited='optimistic' is not one of"):
        EpsilonGreedy(0.1, unvisited="optimistic")
    with pytest.raises(ValueError, match="temperature=0"):
        Softmax(0.0).probabilities(np.zeros(3), np.zeros(3), ALL, 0)
    with pytest.raises(ValueError, match="step_size=2"):
        ActionValues(2, step_size=2)
