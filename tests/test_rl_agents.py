"""Agents against hand calculations and against slow direct versions."""

from __future__ import annotations

import itertools
import json
import math
import warnings

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from rl.confidence import UCB, Thompson
from rl.knobs import KnobState, knob_episode
from rl.model import ModelSettings, RewardModel
from rl.model_tuner import DynaQ
from rl.policies import EpsilonGreedy
from rl.samplers import EpsilonGreedySampler
from rl.space import Knob, SearchSpace
from rl.tuners import JointBandit, KnobBandits, QLearning, RandomSettings, all_legal, roll_out

TWO = SearchSpace([Knob("a", ("x", "y")), Knob("b", (1, 2))])
MIXED = SearchSpace(
    [
        Knob("a", ("x", "y", "z")),
        Knob("noise", (0.0, 50.0)),
        Knob("snr", (0.0, 10.0, 20.0), when={"noise": (50.0,)}),
        Knob("m", (40, 64)),
    ]
)
AGENTS = {
    "random": RandomSettings,
    "bandits": KnobBandits,
    "ucb bandits": lambda space: KnobBandits(space, policy=UCB()),
    "thompson bandits": lambda space: KnobBandits(space, policy=Thompson()),
    "joint": JointBandit,
    "one-step": lambda space: QLearning(space, state="prefix", n=1, replays=3),
    "monte carlo": QLearning,
    "dyna-q": DynaQ,
    "ucb": lambda space: DynaQ(space, ucb=1.0),
}


def episodes_of(space: SearchSpace, n: int, seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    return [knob_episode(space, space.decode(c), rng.normal()) for c in space.draw(rng, n)]


def test_one_step_q_learning_by_hand() -> None:
    # Scores 1 and 3 are -1 and +1 standardised. step_size .5, discount 1.
    episodes = [
        knob_episode(TWO, {"a": "x", "b": 1}, 1.0),
        knob_episode(TWO, {"a": "x", "b": 2}, 3.0),
    ]
    agent = QLearning(TWO, state="prefix", n=1, step_size=0.5).fit(episodes)
    start = agent.key(KnobState((), "a"))
    after_x = agent.key(KnobState((("a", "x"),), "b"))
    # episode 1: Q(start, x) += .5 (0 - 0), nothing known of after_x; Q(after_x, 1) = .5 * -1
    # episode 2: target max Q(after_x) = -.5 over what was tried: Q(start, x) = -.25
    #            Q(after_x, 2) = .5 * 1
    assert agent.q.values(start).tolist() == [-0.25, 0.0]
    assert agent.q.values(after_x).tolist() == [-0.5, 0.5]
    # replayed: Q(start, x) = -.25 + .5 (.5 + .25) = .125, then Q(after_x, 1) = -.75;
    #           Q(start, x) = .125 + .5 (.5 - .125) = .3125, then Q(after_x, 2) = .75
    agent = QLearning(TWO, state="prefix", n=1, step_size=0.5, replays=2).fit(episodes)
    assert agent.q.values(start)[0] == 0.3125
    assert agent.q.values(after_x).tolist() == [-0.75, 0.75]
    assert agent.greedy() == {"a": "x", "b": 2}


def test_whole_episode_q_learning_is_the_average_score() -> None:
    episodes = episodes_of(MIXED, 40)
    rewards = np.array([sum(e.rewards) for e in episodes])
    z = (rewards - rewards.mean()) / rewards.std()
    agent = QLearning(MIXED, state="previous").fit(episodes)
    for state, action in {(s.state, s.action) for e in episodes for s in e}:
        key = agent.key(state)
        same = [any(agent.key(s.state) == key and s.action == action for s in e) for e in episodes]
        assert agent.q.values(key)[action] == pytest.approx(z[same].mean())


def test_bandits_average_by_value_and_give_the_standard_error() -> None:
    scores = {("x", 1): 0.2, ("x", 2): 0.6, ("y", 1): 0.9}
    episodes = [knob_episode(TWO, {"a": a, "b": b}, r) for (a, b), r in scores.items()]
    agent = KnobBandits(TWO).fit(episodes)
    x, y = agent.beliefs()["a"]
    assert (x["value"], x["count"], y["count"]) == ("x", 2, 1)
    assert x["estimate"] == pytest.approx(0.4)
    assert x["sd"] == pytest.approx(np.std([0.2, 0.6], ddof=1) / np.sqrt(2))
    assert y["estimate"] == pytest.approx(0.9)
    assert y["sd"] is None
    assert agent.greedy() == {"a": "y", "b": 2}


def test_depth_states_with_whole_episodes_are_the_bandits() -> None:
    episodes = episodes_of(MIXED, 30)
    bandits, q = KnobBandits(MIXED).fit(episodes), QLearning(MIXED, state="depth").fit(episodes)
    for knob in MIXED.knobs:
        key = q.key(KnobState((), knob.name))
        assert np.allclose(q.q.values(key), bandits.q.values(knob.name))


def _features(space: SearchSpace, codes: np.ndarray, settings: ModelSettings) -> np.ndarray:
    """Indicators of every knob value and of every pair of them, weighted as the kernel is."""
    one_hot = [np.eye(n + 1)[codes[:, i]] for i, n in enumerate(space.n_values)]
    k = len(one_hot)
    pairs = [
        np.einsum("ni,nj->nij", one_hot[i], one_hot[j]).reshape(len(codes), -1)
        for i, j in itertools.combinations(range(k), 2)
    ]
    return np.hstack(
        [np.sqrt(settings.main / k) * np.hstack(one_hot),
         np.sqrt(settings.pair / len(pairs)) * np.hstack(pairs)]
    )  # fmt: skip


def test_the_reward_model_is_ridge_regression_on_values_and_pairs() -> None:
    settings = ModelSettings(main=3.0, pair=1.5, noise=0.4)
    rng = np.random.default_rng(2)
    codes, fresh = MIXED.draw(rng, 25), MIXED.draw(rng, 12)
    rewards = rng.normal(5.0, 3.0, size=25)
    model = RewardModel(MIXED, codes, rewards, settings=settings)
    x, x_new = (_features(MIXED, c, settings) for c in (codes, fresh))
    mean, sd = model.posterior(fresh)
    z = (rewards - rewards.mean()) / rewards.std()
    ridge = Ridge(alpha=settings.noise, fit_intercept=False).fit(x, z)
    assert np.allclose(mean, rewards.mean() + rewards.std() * ridge.predict(x_new))
    precision = np.eye(x.shape[1]) + x.T @ x / settings.noise
    variance = np.einsum("ni,ij,nj->n", x_new, np.linalg.inv(precision), x_new)
    assert np.allclose(sd, rewards.std() * np.sqrt(variance))


def test_pending_settings_lower_the_doubt_and_leave_the_expectation() -> None:
    rng = np.random.default_rng(4)
    codes, pending = MIXED.draw(rng, 15), MIXED.draw(rng, 3)
    rewards = rng.normal(size=15)
    alone = RewardModel(MIXED, codes, rewards)
    shared = RewardModel(MIXED, codes, rewards, pending=pending)
    everywhere = np.array([MIXED.encode(s) for s in MIXED.settings()])
    assert np.allclose(alone.posterior(everywhere)[0], shared.posterior(everywhere)[0])
    assert (shared.posterior(pending)[1] < alone.posterior(pending)[1]).all()


def test_beliefs_of_the_reward_model_are_the_linear_model_s() -> None:
    # without pairs a value's worth does not depend on the other knobs, so it can be had exactly
    space = SearchSpace([Knob("a", (1, 2, 3)), Knob("b", (1, 2))])
    settings = ModelSettings(pair=1e-12)
    rng = np.random.default_rng(5)
    codes = space.draw(rng, 20)
    rewards = rng.normal(size=20) + codes[:, 0]
    agent = DynaQ(space, model=settings).fit(
        [knob_episode(space, space.decode(c), r) for c, r in zip(codes, rewards, strict=True)]
    )
    x = np.sqrt(settings.main / 2) * np.hstack([np.eye(4)[codes[:, 0]], np.eye(3)[codes[:, 1]]])
    covariance = np.linalg.inv(np.eye(7) + x.T @ x / settings.noise)
    contrast = np.zeros((3, 7))
    contrast[:, :3] = np.sqrt(settings.main / 2) * (np.eye(3) - 1 / 3)
    sds = rewards.std() * np.sqrt(np.diag(contrast @ covariance @ contrast.T))
    z = (rewards - rewards.mean()) / rewards.std()
    means = rewards.std() * contrast @ covariance @ x.T @ z / settings.noise
    rows = agent.beliefs()["a"]
    estimates = np.array([row["estimate"] for row in rows])
    assert np.allclose(estimates - estimates.mean(), means, atol=1e-5)
    assert np.allclose([row["sd"] for row in rows], sds, atol=1e-5)
    assert [row["count"] for row in rows] == np.bincount(codes[:, 0], minlength=3).tolist()


def test_planning_finds_what_listing_every_setting_finds() -> None:
    everywhere = np.array([MIXED.encode(s) for s in MIXED.settings()])
    for seed in range(10):
        agent = DynaQ(MIXED, ucb=1.0).fit(episodes_of(MIXED, 12, seed))
        mean, sd = agent.model.posterior(everywhere)
        best = MIXED.decode(everywhere[int(np.argmax(mean))])
        assert agent.predict([agent.greedy()])[0] == pytest.approx(agent.predict([best])[0])
        tried = {tuple(code) for code in agent.model.codes.tolist()}
        free = np.array([tuple(code) not in tried for code in everywhere.tolist()])
        wanted = everywhere[free][int(np.argmax((mean + sd)[free]))]
        assert agent.propose(tried, {}) == MIXED.decode(wanted)


def test_plans_end_in_no_setting_that_was_tried_so_often_or_is_being_tried() -> None:
    best = MIXED.default()
    score = knob_episode(MIXED, best, 9.0)  # promising enough to be the plan again
    settings = [s for s in MIXED.settings() if s != best]
    episodes = [knob_episode(MIXED, s, i % 3) for i, s in enumerate(settings[::2])]

    def planned(tries: int | None, n: int, pending: tuple[dict, ...] = ()) -> dict:
        agent = DynaQ(MIXED, tries=tries).fit([*episodes, *[score] * n], pending)
        return MIXED.decode(agent.plan())

    assert planned(None, 5, (best,)) == best
    assert planned(2, 1) == best
    assert planned(2, 2) != best
    assert planned(2, 1, (best,)) != best
    assert planned(3, 1, (best,)) != best
    assert planned(1, 1) != best


def test_planned_actions_have_the_value_of_the_best_completion() -> None:
    agent = DynaQ(MIXED).fit(episodes_of(MIXED, 15, 3))
    chosen: dict = {}
    while (knob := MIXED.next_knob(chosen)) is not None:
        state = KnobState(tuple(chosen.items()), knob.name)
        best = []
        for value in knob.values:
            ends = list(MIXED.settings({**chosen, knob.name: value}))
            best.append(agent.predict(ends)[0].max())
        planned = int(np.argmax(agent.action_values(state, knob)))
        assert planned == int(np.argmax(best))
        chosen[knob.name] = knob.values[planned]
    assert chosen == agent.greedy()


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_is_a_function_of_its_episodes(name: str) -> None:
    episodes = episodes_of(MIXED, 20)
    fresh = AGENTS[name](MIXED).fit(episodes)
    used = AGENTS[name](MIXED).fit(episodes_of(MIXED, 9, seed=8))
    roll_out(used, np.random.default_rng(0), 3)
    used.fit(episodes)
    assert json.dumps(fresh.beliefs()) == json.dumps(used.beliefs())
    assert fresh.greedy() == used.greedy()
    for seed in range(20):
        one, other = (roll_out(a, np.random.default_rng(seed), 30) for a in (fresh, used))
        assert one == other
        MIXED.check(one)


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_acts_on_no_experience_keeps_to_legal_values_and_to_what_is_fixed(
    name: str,
) -> None:
    agent = AGENTS[name](MIXED).fit([])
    MIXED.check(agent.greedy())
    rng = np.random.default_rng(0)
    legal = np.array([False, True, False])
    assert agent.act(KnobState((), "a"), MIXED["a"], legal, rng, 0) == 1
    fixed = {"noise": 50.0, "snr": 20.0}
    assert fixed.items() <= roll_out(agent, rng, 0, fixed).items()
    assert set(agent.beliefs()) == {knob.name for knob in MIXED.knobs}


@pytest.mark.parametrize("name", [n for n in AGENTS if n != "random"])
def test_scores_in_another_unit_change_no_choice(name: str) -> None:
    episodes = episodes_of(MIXED, 20)
    scaled = [
        knob_episode(MIXED, dict(e.transitions[-1].next_state.chosen), 1e4 * sum(e.rewards) - 7e5)
        for e in episodes
    ]
    agents = [AGENTS[name](MIXED).fit(e) for e in (episodes, scaled)]
    for seed in range(10):
        one, other = (roll_out(a, np.random.default_rng(seed), 30) for a in agents)
        assert one == other


def test_acting_explores_with_probability_epsilon() -> None:
    space = SearchSpace([Knob("a", (1, 2, 3, 4))])
    for kind in (KnobBandits, DynaQ):
        agent = kind(space, policy=EpsilonGreedy(0.4)).fit(
            [knob_episode(space, {"a": v}, float(v)) for v in (1, 2, 3, 4)]
        )
        rng = np.random.default_rng(0)
        knob = space["a"]
        drawn = [agent.act(KnobState((), "a"), knob, all_legal(knob), rng, 0) for _ in range(3000)]
        shares = np.bincount(drawn, minlength=4) / 3000
        assert np.abs(shares - [0.1, 0.1, 0.1, 0.7]).max() < 0.035


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="state='all'"):
        QLearning(TWO, state="all")
    with pytest.raises(ValueError, match="replays=0"):
        QLearning(TWO, replays=0)


def test_ucb_by_hand() -> None:
    q, n = np.array([1.0, 0.5, 0.0]), np.array([50.0, 40.0, 10.0])
    legal = np.ones(3, dtype=bool)
    # bounds with c = 2: 1 + 2 sqrt(ln 100 / 50) = 1.607, .5 + .679 = 1.179, 2 sqrt(.4605) = 1.357
    assert UCB(2.0).probabilities(q, n, legal, 0).tolist() == [1, 0, 0]
    # with c = 5: 2.517, 2.197, 3.393
    assert UCB(5.0).probabilities(q, n, legal, 0).tolist() == [0, 0, 1]
    assert UCB(0.0).probabilities(q, n, legal, 0).tolist() == [1, 0, 0]
    assert UCB(5.0).probabilities(q, n, np.array([True, True, False]), 0).tolist() == [1, 0, 0]
    assert UCB(1.0).probabilities(q, np.array([5.0, 0, 0]), legal, 0).tolist() == [0, 0.5, 0.5]
    with pytest.raises(ValueError, match="c=-1"):
        UCB(-1)


def test_thompson_takes_an_action_as_often_as_it_is_the_best() -> None:
    q, n = np.array([0.5, 0.2, -0.1, 9.0]), np.array([30.0, 4.0, 0.0, 5.0])
    legal = np.array([True, True, True, False])
    policy, rng = Thompson(0.5), np.random.default_rng(0)
    expected = policy.probabilities(q, n, legal, 0)
    assert expected.sum() == pytest.approx(1)
    counts = np.bincount([policy.act(q, n, legal, 0, rng) for _ in range(20000)], minlength=4)
    np.testing.assert_allclose(counts / 20000, expected, atol=0.015)
    # two actions alone: P(first better) = Phi(difference / root of the summed variances)
    mean, sd = policy.posterior(q, n)
    two = policy.probabilities(q, n, np.array([True, True, False, False]), 0)
    z = (mean[0] - mean[1]) / np.hypot(sd[0], sd[1])
    assert two[0] == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), abs=1e-3)
    # doubt about one action that the others' spread is far too wide to see
    sharp = policy.probabilities(np.array([0.1, 0.0]), np.array([1e6, 1e6]), legal[:2], 0)
    assert sharp[0] == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="prior=0"):
        Thompson(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = np.array([0.5, -np.inf]), np.array([3.0, 0.0]), np.array([True, False])
        assert policy.probabilities(*values, 0).tolist() == [1.0, 0.0]
        assert policy.act(*values, 0, rng) == 0


def test_joint_arms_know_whole_settings_only() -> None:
    episodes = [
        knob_episode(TWO, {"a": "x", "b": 1}, 1.0),
        knob_episode(TWO, {"a": "y", "b": 2}, 3.0),
        knob_episode(TWO, {"a": "y", "b": 2}, 2.0),
    ]
    agent = JointBandit(TWO, policy=EpsilonGreedy(0.2, unvisited="last")).fit(episodes)
    assert agent.greedy() == {"a": "y", "b": 2}
    rng = np.random.default_rng(1)
    drawn = [tuple(roll_out(agent, rng, 0).values()) for _ in range(4000)]
    n = TWO.size()
    share = drawn.count(("y", 2)) / 4000
    assert share == pytest.approx(0.8 + 0.2 / n, abs=0.03)
    assert drawn.count(("y", 1)) / 4000 == pytest.approx(0.2 / n, abs=0.02)
    assert agent.fit(episodes).q.max() == pytest.approx(np.mean([1, 0]) / np.std([1, 3, 2]))
    late = JointBandit(TWO, step_size=0.25).fit(episodes)
    z = (np.array([3.0, 2.0]) - 2) / np.std([1, 3, 2])
    assert late.q.max() == pytest.approx(0.25 * z[0] + 0.25 * (z[1] - 0.25 * z[0]))
    assert EpsilonGreedySampler(joint=True, step_size=0.25).agent(TWO).step_size == 0.25
    with pytest.raises(ValueError, match="step_size=2"):
        JointBandit(TWO, step_size=2)
    many = [Knob(f"k{i}", (0, 1), when={"p": (2,)}) for i in range(16)]
    with pytest.raises(ValueError, match=r"196,608 combinations.*joint=False"):
        JointBandit(SearchSpace([Knob("p", (0, 1, 2)), *many]))


def test_who_knows_nothing_recommends_the_default() -> None:
    assert RandomSettings(TWO).greedy() == TWO.default()
