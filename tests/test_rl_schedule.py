"""Agents for a schedule: each against a hand calculation, and where the best arm changes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rl.bandits import EpsilonGreedyBandit, Exp3S, SlidingWindowUCB
from rl.schedule import BanditPicker, QPicker, make_picker, settled_chances

NAMES = ("exp3s", "epsilon-greedy", "ucb-window", "q-learning")
HERE = (0, 0)


def one(value):
    return np.array([value])


# By hand


def test_ucb_over_a_window_forgets_what_left_it():
    bandit = SlidingWindowUCB(2, c=0.5, window=3)
    assert bandit.probabilities()[0].tolist() == [0.5, 0.5]
    for arm, reward in ((0, 1.0), (1, 0.2), (0, 0.0)):
        bandit.update(one(arm), one(reward))
    assert bandit.q[0].tolist() == [0.5, 0.2]
    # 0: .5 + .5 sqrt(ln 3 / 2) = .871; 1: .2 + .5 sqrt(ln 3) = .724
    assert bandit.probabilities()[0].tolist() == [1.0, 0.0]
    bandit.update(one(0), one(-1.0))  # pushes out the first reward, 1
    assert bandit.q[0].tolist() == [-0.5, 0.2]
    assert bandit.n[0].tolist() == [2.0, 1.0]
    assert bandit.probabilities()[0].tolist() == [0.0, 1.0]
    for _ in range(3):  # arm 0 leaves the window altogether and is as if never tried
        bandit.update(one(1), one(1.0))
    assert bandit.n[0].tolist() == [0.0, 3.0]
    assert bandit.probabilities()[0].tolist() == [1.0, 0.0]


def test_a_window_as_long_as_the_run_is_ucb1s():
    from rl.bandits import UCB1

    rng = np.random.default_rng(4)
    ours, theirs = SlidingWindowUCB(3, c=0.8, window=60, runs=2), UCB1(3, c=0.8, runs=2)
    for _ in range(60):
        expected = theirs.probabilities()
        np.testing.assert_array_equal(ours.probabilities(), expected)
        arms, rewards = expected.argmax(1), rng.standard_normal(2).round(2)
        ours.update(arms, rewards)
        theirs.update(arms, rewards)
        np.testing.assert_allclose(ours.q, theirs.q)


@pytest.mark.parametrize(("bad", "told"), [({"c": -1.0}, "c=-1"), ({"window": 2}, "window=2")])
def test_a_window_too_short_or_a_negative_weight_is_refused(bad, told):
    with pytest.raises(ValueError, match=told):
        SlidingWindowUCB(3, **bad)


def test_the_epsilon_greedy_agent_moves_by_a_constant_step_and_keeps_its_floor():
    picker = make_picker("epsilon-greedy", (4,), seed=3)
    worth = [0.0] * 4
    for reward in (1.0, -0.5, 0.25):
        (arm,) = picker.pick(HERE)
        picker.observe(reward, HERE)
        worth[arm] += 0.2 * (reward - worth[arm])
    belief = picker.belief(HERE)
    assert belief["worth"][0] == pytest.approx(worth)
    assert min(belief["chance"][0]) == pytest.approx(0.15 / 4)
    for _ in range(500):
        picker.pick(HERE)
        picker.observe(1.0, HERE)
    assert min(picker.belief(HERE)["chance"][0]) >= 0.15 / 4 - 1e-12  # it never dies out


def test_the_exp3s_agent_moves_its_weights_as_auer_et_al_say():
    picker = make_picker("exp3s", (3,), seed=1)
    gamma, alpha, weights = 0.6, 0.005, [1.0] * 3
    for reward in (0.5, -1.0, 1.0):
        chance = [(1 - gamma) * w / sum(weights) + gamma / 3 for w in weights]
        assert picker.belief(HERE)["chance"][0] == pytest.approx(chance)
        (arm,) = picker.pick(HERE)
        picker.observe(reward, HERE)
        share = math.e * alpha / 3 * sum(weights)
        scaled = (reward + 1) / 2 / chance[arm]
        weights[arm] *= math.exp(gamma * scaled / 3)
        weights = [w + share for w in weights]
    bandit = picker.bandits[0]
    assert bandit.weights[0] == pytest.approx(np.array(weights) / sum(weights))


def test_the_q_learning_agent_bootstraps_from_the_state_that_it_comes_to():
    picker = QPicker((2,), epsilon=0.0, step_size=0.5, discount=0.5, seed=0)
    (arm,) = picker.pick((0, 0))
    picker.observe(1.0, (1, 0))  # Q = .5 (1 + .5 * 0)
    assert picker.belief((0, 0))["worth"][0][arm] == 0.5
    (after,) = picker.pick((1, 0))
    picker.observe(-1.0, (0, 0))  # -.5 + .5 * .5 * max Q(0, 0)
    assert picker.belief((1, 0))["worth"][0][after] == pytest.approx(-0.5 + 0.125)
    assert picker.belief((2, 2))["worth"][0] == [0.0, 0.0]


# Settled


@pytest.mark.parametrize("name", NAMES)
def test_a_settled_agent_explores_no_more(name):
    picker = make_picker(name, (3,), seed=2)
    for _ in range(60):
        (arm,) = picker.pick(HERE)
        picker.observe([-1.0, 0.9, -0.2][arm], HERE)
    assert {picker.pick(HERE, settled=True) for _ in range(200)} == {(1,)}
    assert picker.belief(HERE, settled=True)["chance"] == [[0.0, 1.0, 0.0]]
    assert max(picker.belief(HERE)["chance"][0]) <= 1.0


def test_an_arm_never_tried_is_not_settled_on():
    bandit = EpsilonGreedyBandit(3, step_size=0.2)
    assert settled_chances(bandit)[0].tolist() == pytest.approx([1 / 3] * 3)
    bandit.update(one(2), one(-1.0))
    assert settled_chances(bandit)[0].tolist() == [0.0, 0.0, 1.0]
    picker = QPicker((3,), seed=0)
    (arm,) = picker.pick(HERE)
    picker.observe(-1.0, HERE)
    assert picker.pick(HERE, settled=True) == (arm,)


# Worlds that change


def played(picker, worths, *, seed, noise=0.3):
    """Return the mean worth of what a picker picked; worths: (steps, arms)."""
    rng, got = np.random.default_rng(seed), []
    for row in worths:
        (arm,) = picker.pick(HERE)
        got.append(row[arm])
        picker.observe(float(np.clip(row[arm] + noise * rng.standard_normal(), -1, 1)), HERE)
    return float(np.mean(got))


def changing(steps=300, arms=5):
    """Return worths of which another arm is the best in each third."""
    worths = np.full((steps, arms), -0.4)
    for third in range(3):
        worths[third * steps // 3 : (third + 1) * steps // 3, 2 * third] = 0.6
    return worths


@pytest.mark.parametrize("name", NAMES)
def test_every_agent_beats_uniform_where_the_best_arm_changes(name):
    """Drawn evenly an arm is worth -.2; the best single arm, held throughout, -.067. EXP3.S, which
    picks evenly six times in ten, cannot pass that one by much; the others can."""
    worths = changing()
    assert worths.mean() == pytest.approx(-0.2)
    single = worths.mean(0).max()
    got = [played(make_picker(name, (5,), seed=seed), worths, seed=seed) for seed in range(20)]
    least = np.mean(got) - 2 * np.std(got) / math.sqrt(20)
    assert least > (-0.2 + 0.08 if name == "exp3s" else single)


def test_a_constant_step_follows_a_change_that_an_average_misses():
    worths = np.zeros((400, 2))
    worths[:200, 0], worths[200:, 1], worths[200:, 0] = 0.5, 0.3, -0.1
    moving, still = [], []
    for seed in range(20):
        for found, step_size in ((moving, 0.2), (still, None)):
            picker = BanditPicker(
                (2,),
                lambda k, s, step=step_size: EpsilonGreedyBandit(
                    k, epsilon=0.15, step_size=step, seed=s
                ),
                seed=seed,
            )
            found.append(played(picker, worths, seed=seed))
    assert np.mean(moving) > np.mean(still) + 0.05


def test_q_learning_picks_by_the_state_what_no_bandit_can():
    picker = make_picker("q-learning", (2,), seed=0)
    rng = np.random.default_rng(0)
    state = (0, 0)
    for _ in range(600):
        (arm,) = picker.pick(state)
        good = arm == state[1]
        state, reward = (0, int(rng.integers(2))), 0.8 if good else -0.8
        picker.observe(reward, state)
    assert picker.pick((0, 0), settled=True) == (0,)
    assert picker.pick((0, 1), settled=True) == (1,)


@pytest.mark.parametrize("name", NAMES)
def test_factors_learn_side_by_side_from_one_reward(name):
    picker = make_picker(name, (3, 2), seed=5)
    for _ in range(250):
        first, second = picker.pick(HERE)
        picker.observe((first == 2) + 0.6 * (second == 0) - 0.6, HERE)
    assert picker.pick(HERE, settled=True) == (2, 0)


def test_the_factors_agents_do_not_draw_the_same_numbers():
    picker = make_picker("epsilon-greedy", (8, 8), seed=0)
    picks = [picker.pick(HERE) for _ in range(60)]
    assert sum(a == b for a, b in picks) < 30


# Going on


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after_pick", [False, True])
def test_an_agent_goes_on_from_json_as_if_it_had_never_stopped(name, after_pick):
    rng = np.random.default_rng(8)
    rewards = rng.uniform(-1, 1, 60)
    states = [(int(a), int(b)) for a, b in rng.integers(3, size=(61, 2))]

    def play(picker, steps, begun=False):
        picks = []
        for t in steps:
            if not begun:
                picks.append(picker.pick(states[t]))
            begun = False
            picker.observe(float(rewards[t]), states[t + 1])
        return picks

    whole = make_picker(name, (4, 3), seed=7)
    expected = play(whole, range(60))
    first = make_picker(name, (4, 3), seed=7)
    play(first, range(25))
    if after_pick:
        first.pick(states[25])
    made = json.loads(json.dumps(first.to_json()))
    again = make_picker(name, (4, 3), seed=99)
    again.restore(made)
    picks = play(again, range(25, 60), begun=after_pick)
    assert picks == expected[25 + after_pick :]
    assert again.to_json() == whole.to_json()


# Misuse


def test_an_unknown_agent_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"'greedy'.*exp3s, epsilon-greedy, ucb-window, q-learning"
    ):
        make_picker("greedy", (3,))


@pytest.mark.parametrize("sizes", [(), (1,), (3, 1)])
def test_a_factor_of_one_arm_is_refused(sizes):
    with pytest.raises(ValueError, match="at least 2 arms"):
        make_picker("exp3s", sizes)


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_before_any_pick_is_refused(name):
    with pytest.raises(ValueError, match="before anything was picked"):
        make_picker(name, (3,)).observe(0.5, HERE)


def test_exp3s_is_built_for_rewards_from_minus_one_to_one():
    bandit = make_picker("exp3s", (3,)).bandits[0]
    assert isinstance(bandit, Exp3S)
    assert (bandit.low, bandit.high) == (-1.0, 1.0)
