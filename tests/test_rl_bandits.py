"""Bandits against hand calculations, their own probabilities, and one another."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rl.bandits import (
    UCB1,
    EpsilonGreedyBandit,
    Exp3S,
    GradientBandit,
    ThompsonBandit,
    draw,
)
from rl.confidence import UCB
from rl.many import run_testbed
from rl.policies import EpsilonGreedy, Linear

BUILDERS = {
    "epsilon-greedy": lambda **more: EpsilonGreedyBandit(3, **more),
    "decaying": lambda **more: EpsilonGreedyBandit(3, epsilon=Linear(1.0, 0.1, 20), **more),
    "constant": lambda **more: EpsilonGreedyBandit(3, step_size=0.2, **more),
    "optimistic": lambda **more: EpsilonGreedyBandit(
        3, epsilon=0.0, step_size=0.1, initial=5.0, **more
    ),
    "ucb": lambda **more: UCB1(3, c=2.0, **more),
    "thompson": lambda **more: ThompsonBandit(3, prior=2.0, **more),
    "gradient": lambda **more: GradientBandit(3, **more),
    "gradient, no baseline": lambda **more: GradientBandit(3, baseline=False, **more),
    "exp3.s": lambda **more: Exp3S(3, low=-4.0, high=4.0, **more),
}
WORTHS = np.array([0.0, 0.5, 1.5])


def play(bandit, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        action = bandit.act()
        bandit.update(action, WORTHS[action] + rng.standard_normal(bandit.runs))
    return bandit


@pytest.mark.parametrize("name", BUILDERS)
def test_arms_are_drawn_with_the_probabilities_that_are_told(name) -> None:
    bandit = play(BUILDERS[name](runs=1, seed=3), 12)
    p = bandit.probabilities()[0]
    assert p.sum() == pytest.approx(1.0)
    assert (p >= 0).all()
    drawn = np.bincount([int(bandit.act()[0]) for _ in range(4000)], minlength=3) / 4000
    assert np.abs(drawn - p).max() < 0.035  # four and a half standard errors of a share


@pytest.mark.parametrize("name", BUILDERS)
def test_the_best_arm_is_found(name) -> None:
    bandit = play(BUILDERS[name](runs=300, seed=3), 400)
    share = bandit.n[:, 2].mean() / 400
    assert share > (0.4 if name == "exp3.s" else 0.6)
    assert (bandit.n.sum(1) == 400).all()


@pytest.mark.parametrize("name", BUILDERS)
def test_a_restored_bandit_goes_on_as_if_nothing_had_been(name) -> None:
    bandit = play(BUILDERS[name](runs=2, seed=3), 25)
    text = json.dumps(bandit.to_json(), allow_nan=False)
    twin = type(bandit).from_json(json.loads(text))
    play(bandit, 25, seed=1)
    play(twin, 25, seed=1)
    assert bandit.to_json() == twin.to_json()


def test_estimates_by_hand() -> None:
    mean, fading = EpsilonGreedyBandit(2), EpsilonGreedyBandit(2, step_size=0.5, initial=8.0)
    for bandit in (mean, fading):
        for reward in (1.0, 2.0, 6.0):
            bandit.update(np.array([0]), np.array([reward]))
    assert mean.q.tolist() == [[3.0, 0.0]]
    # 8 -> 4.5 -> 3.25 -> 4.625
    assert fading.q.tolist() == [[4.625, 8.0]]
    assert mean.n.tolist() == [[3.0, 0.0]]


def test_greedy_arms_share_and_schedules_count_steps() -> None:
    bandit = EpsilonGreedyBandit(4, epsilon=Linear(1.0, 0.2, 2), runs=2)
    bandit.q[:] = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]]
    assert np.allclose(bandit.probabilities(), 0.25)
    for _ in range(2):
        bandit.update(np.array([2, 2]), np.array([-5.0, -5.0]))
    assert np.allclose(bandit.probabilities(), [[0.45, 0.45, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]])


def test_rows_act_as_the_policies_of_one_state_do() -> None:
    """Against rl.policies and rl.confidence, which are written for one state."""
    rng = np.random.default_rng(5)
    legal = np.ones(5, bool)
    for _ in range(20):
        q, n = rng.normal(size=(3, 5)), rng.integers(1, 9, size=(3, 5)).astype(float)
        greedy, ucb = EpsilonGreedyBandit(5, epsilon=0.3, runs=3), UCB1(5, c=2.0, runs=3)
        n *= 40 / n.sum(1, keepdims=True)
        for bandit in (greedy, ucb):
            bandit.q, bandit.n, bandit.t = q, n, 40
        for row in range(3):
            known = (q[row], n[row], legal, 0)
            expected = EpsilonGreedy(0.3).probabilities(*known)
            assert np.allclose(greedy.probabilities()[row], expected)
            assert np.allclose(ucb.probabilities()[row], UCB(2.0).probabilities(*known))


def test_ucb_tries_every_arm_first_and_doubt_fades() -> None:
    bandit = play(UCB1(3, runs=50, seed=1), 3)
    assert (bandit.n == 1).all()
    bandit = UCB1(2, c=1.0)
    bandit.q, bandit.n, bandit.t = np.array([[0.2, 0.0]]), np.array([[90.0, 10.0]]), 100
    assert bandit.probabilities().tolist() == [[0.0, 1.0]]  # .2 + .226 against 0 + .679


def test_the_gradient_step_by_hand() -> None:
    bandit = GradientBandit(2, step_size=0.5)
    bandit.update(np.array([0]), np.array([4.0]))  # the baseline is 4, itself included
    assert bandit.preferences.tolist() == [[0.0, 0.0]]
    bandit.update(np.array([1]), np.array([6.0]))  # baseline 5, pi = 1/2
    assert bandit.preferences.tolist() == [[-0.25, 0.25]]
    plain = GradientBandit(2, step_size=0.5, baseline=False)
    plain.update(np.array([0]), np.array([4.0]))
    assert plain.preferences.tolist() == [[1.0, -1.0]]


def test_the_gradient_bandits_mean_step_is_the_gradient_of_the_mean_reward() -> None:
    """By finite differences of sum_a pi(a) q(a): what the method is derived from (2.8)."""
    h, worths, step = np.array([0.3, -0.2, 0.5]), np.array([1.0, 2.0, 4.0]), 1e-6

    def mean_reward(h):
        p = np.exp(h) / np.exp(h).sum()
        return p @ worths

    expected = [(mean_reward(h + d) - mean_reward(h - d)) / (2 * step) for d in step * np.eye(3)]
    moved = np.zeros(3)
    for arm in range(3):
        bandit = GradientBandit(3, step_size=1.0, baseline=False)
        bandit.preferences[:] = h
        p = bandit.probabilities()[0]
        bandit.update(np.array([arm]), worths[arm : arm + 1])
        moved += p[arm] * (bandit.preferences[0] - h)
    assert np.allclose(moved, expected, atol=1e-7)


def test_exp3s_by_hand_and_its_credit_is_unbiased() -> None:
    bandit = Exp3S(2, gamma=0.5, alpha=0.1, low=0.0, high=2.0)
    assert bandit.probabilities().tolist() == [[0.5, 0.5]]
    bandit.update(np.array([1]), np.array([1.0]))  # scaled to 1/2, over p = 1/2: 1
    grown = 0.5 * math.exp(0.5 * 1.0 / 2)
    given = math.e * 0.1 / 2 * 1.0
    weights = np.array([0.5 + given, grown + given])
    assert np.allclose(bandit.weights, weights / weights.sum())
    assert np.allclose(bandit.probabilities(), 0.5 * bandit.weights + 0.25)
    bandit.update(np.array([1]), np.array([99.0]))  # counts as 2
    assert np.isfinite(bandit.weights).all()


def test_exp3s_follows_a_change_that_averages_do_not() -> None:
    def share_after_change(bandit):
        rng = np.random.default_rng(1)
        worths, taken = np.array([0.8, 0.2]), 0.0
        for t in range(2000):
            if t == 1000:
                worths = worths[::-1]
            action = bandit.act()
            bandit.update(action, (rng.random(bandit.runs) < worths[action]).astype(float))
            taken += (action == 1).mean() * (t >= 1400)
        return taken / 600

    exp3s = share_after_change(Exp3S(2, gamma=0.05, alpha=0.001, runs=100, seed=1))
    averages = share_after_change(EpsilonGreedyBandit(2, epsilon=0.05, runs=100, seed=1))
    assert exp3s > 0.75
    assert averages < exp3s - 0.1


def test_draws_follow_their_rows() -> None:
    p = np.tile([[0.1, 0.0, 0.9], [0.5, 0.5, 0.0]], (3000, 1))
    drawn = draw(p, np.random.default_rng(0)).reshape(3000, 2)
    assert set(drawn[:, 0]) == {0, 2}
    assert set(drawn[:, 1]) == {0, 1}
    assert (drawn[:, 0] == 2).mean() == pytest.approx(0.9, abs=0.025)


def test_runs_are_independent_and_the_testbed_measures_what_it_says() -> None:
    found = run_testbed(EpsilonGreedyBandit(10, epsilon=1.0, runs=400), steps=50, mean=3.0, seed=2)
    assert found.rewards.mean() == pytest.approx(3.0, abs=0.1)
    assert found.optimal.mean() == pytest.approx(0.1, abs=0.02)
    bandit = EpsilonGreedyBandit(10, runs=400)
    run_testbed(bandit, steps=50)
    assert np.corrcoef(bandit.q)[np.triu_indices(400, 1)].mean() == pytest.approx(0.0, abs=0.05)


def test_a_bandit_and_a_world_of_one_seed_draw_other_numbers() -> None:
    bandit = EpsilonGreedyBandit(3, seed=5)
    assert bandit.rng.random() != np.random.default_rng(5).random()


def test_impossible_parameters_are_refused() -> None:
    for build, message in (
        (lambda: EpsilonGreedyBandit(0), "k=0"),
        (lambda: EpsilonGreedyBandit(3, epsilon=2.0), "epsilon=2"),
        (lambda: EpsilonGreedyBandit(3, step_size=0.0), "step_size=0"),
        (lambda: UCB1(3, c=-1.0), "c=-1"),
        (lambda: ThompsonBandit(3, prior=0.0), "prior=0"),
        (lambda: GradientBandit(3, step_size=0.0), "step_size=0"),
        (lambda: Exp3S(3, gamma=0.0), "gamma=0"),
        (lambda: Exp3S(3, low=1.0, high=1.0), "low=1"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
