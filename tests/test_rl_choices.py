"""The three choices: every legal combination learns, identities between them hold to rounding,
illegal ones say why, and agents go on from JSON as if nothing had been."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.agents import run
from rl.choices import Choices, Lambda
from rl.confidence import UCB, Thompson
from rl.control import Control
from rl.dyna import DynaQ, PrioritisedSweeping
from rl.environments import MDPEnv, dyna_maze, maximisation_bias, random_walk
from rl.mdp import FiniteMDP
from rl.policies import EpsilonGreedy, Exponential, Power, Softmax
from rl.policy_gradient import PolicyGradient
from rl.prediction import Prediction
from rl.space import Knob, SearchSpace
from rl.tictactoe import TicTacToe

WALK = np.full((7, 2), 0.5)


def walk():
    return random_walk(5, left_reward=0.0)


def one_hot(n):
    return lambda state: np.eye(n)[state]


def episodic(seed: int, n_states: int = 5, n_actions: int = 2) -> FiniteMDP:
    """Return a random MDP whose every action ends the episode with probability 1/4 or more."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n_states + 1), size=(n_states + 1, n_actions))
    p = 0.75 * p
    p[:, :, n_states] += 0.25
    rewards = rng.normal(size=(n_states + 1, n_actions))
    ends = np.arange(n_states + 1) == n_states
    return FiniteMDP(p, rewards, terminal=ends, discount=0.9)


def learnt(choices, seed, episodes=30, **more):
    """Return V of a stochastic policy on a random episodic MDP."""
    mdp = episodic(seed)
    policy = np.random.default_rng(seed).dirichlet(np.ones(2), size=6)
    agent = Prediction(policy, discount=0.9, seed=seed, **choices, **more)
    run(agent, MDPEnv(mdp), episodes=episodes, seed=seed)
    return agent.values(5)


def learnt_q(choices, seed, episodes=30, **more):
    agent = Control(2, discount=0.9, seed=seed, policy=EpsilonGreedy(0.3, unvisited="initial"),
                    **choices, **more)  # fmt: skip
    run(agent, MDPEnv(episodic(seed)), episodes=episodes, seed=seed)
    return np.array([agent.q(s) for s in range(5)])


def close(first, second):
    return np.allclose(first, second, rtol=1e-10, atol=1e-12)


MONTE_CARLO = {"frequency": "episode", "depth": "episode"}
SEEDS = st.integers(0, 10_000)


@given(SEEDS)
@settings(max_examples=25)
def test_lambda_0_is_one_step(seed: int) -> None:
    td_0 = learnt({}, seed)
    assert not close(td_0, 0 * td_0)
    for trace in ("accumulating", "replacing", "dutch"):
        assert close(learnt({"depth": Lambda(0.0, trace)}, seed), td_0)
    assert close(learnt({"depth": Lambda(0.0), "frequency": 3}, seed),
                 learnt({"depth": 1, "frequency": 3}, seed))  # fmt: skip
    for update in ("sarsa", "expected-sarsa", "q-learning"):
        one = learnt_q({"update": update}, seed)
        assert close(learnt_q({"update": update, "depth": Lambda(0.0)}, seed), one)


@given(SEEDS)
@settings(max_examples=25)
def test_lambda_1_is_monte_carlo(seed: int) -> None:
    monte_carlo = learnt(MONTE_CARLO, seed)
    # forward: the lambda return with lambda = 1 is the return
    assert close(learnt({"frequency": "episode", "depth": Lambda(1.0)}, seed), monte_carlo)
    # backward, while the episode runs: true online TD(1), equal at each episode's end
    assert close(learnt({"depth": Lambda(1.0, "dutch")}, seed), monte_carlo)
    # and so with one feature for each state
    features = {"features": one_hot(6), "n_features": 6}
    assert close(learnt({"depth": Lambda(1.0, "dutch")}, seed, **features), monte_carlo)
    offline = learnt_q({"update": "sarsa", "frequency": "episode", "depth": Lambda(1.0)}, seed)
    assert close(offline, learnt_q({"update": "sarsa", **MONTE_CARLO}, seed))


def test_accumulating_traces_offline_are_the_forward_view() -> None:
    """Sutton & Barto, 12.2: if values stay as they are during an episode, the sum of the backward
    view's moves is the sum of the forward view's. Checked for moves too small to matter."""
    tiny = 1e-7
    backward = learnt({"depth": Lambda(0.8)}, 3, episodes=1, step_size=tiny) / tiny
    forward = learnt({"frequency": "episode", "depth": Lambda(0.8)}, 3, episodes=1,
                     step_size=tiny) / tiny  # fmt: skip
    assert np.abs(forward).max() > 0.1
    assert np.allclose(backward, forward, atol=1e-5)


@given(SEEDS)
@settings(max_examples=25)
def test_n_beyond_the_episode_is_monte_carlo(seed: int) -> None:
    assert close(learnt({"depth": 10_000}, seed), learnt(MONTE_CARLO, seed))
    assert close(learnt({"depth": 10_000, "frequency": "episode"}, seed),
                 learnt(MONTE_CARLO, seed))  # fmt: skip
    for update in ("sarsa", "expected-sarsa", "q-learning", "double-q-learning"):
        deep = learnt_q({"update": update, "depth": 10_000}, seed)
        assert close(deep, learnt_q({"update": update, **MONTE_CARLO}, seed))


def test_sarsas_and_expected_sarsas_monte_carlo_are_the_same_and_q_learnings_is_not() -> None:
    sarsa = learnt_q({"update": "sarsa", **MONTE_CARLO, "step_size": 0.1}, 5)
    assert close(sarsa, learnt_q({"update": "sarsa", "depth": 10_000}, 5))
    # Q-learning's returns end where an exploring action was taken
    assert not close(sarsa, learnt_q({"update": "q-learning", **MONTE_CARLO}, 5))


@given(SEEDS)
@settings(max_examples=15)
def test_a_table_is_a_linear_function_with_a_feature_for_each_state(seed: int) -> None:
    features = {"features": one_hot(6), "n_features": 6}
    for choices in ({}, {"depth": 3}, {"depth": Lambda(0.7)}, {"depth": Lambda(0.7, "dutch")},
                    {"frequency": 4, "depth": Lambda(0.7)}):  # fmt: skip
        assert close(learnt(choices, seed), learnt(choices, seed, **features))
        for update in ("sarsa", "q-learning", "expected-sarsa"):
            if choices.get("depth") == Lambda(0.7, "dutch") and update != "sarsa":
                continue
            both = {"update": update, **choices}
            assert close(learnt_q(both, seed), learnt_q(both, seed, **features))


def test_first_and_every_visit_by_hand() -> None:
    """Sutton & Barto, 5.1: S is met twice, at returns 3 and 2."""
    for visits, expected in (("first", 3.0), ("every", 2.5)):
        agent = Prediction(np.full((2, 1), 1.0), visits=visits, step_size=None, **MONTE_CARLO)
        agent.start(0)
        agent.step(1.0, 0)
        agent.step(2.0, 1, terminal=True)
        assert agent.values(1).tolist() == [expected]


def test_a_value_goes_by_the_first_visit_of_its_state_whatever_was_done_there() -> None:
    """S is met twice, at returns 3 and 2, once with each action: V's first is 3, Q's are both."""
    prediction = Prediction(np.full((2, 2), 0.5), visits="first", step_size=None, **MONTE_CARLO)
    control = Control(2, update="sarsa", visits="first", step_size=None, **MONTE_CARLO)
    for agent in (prediction, control):
        agent.start(0)
        agent._action = 0
        agent.step(1.0, 0)
        agent._action = 1
        agent.step(2.0, 1, terminal=True)
    assert prediction.values(1).tolist() == [3.0]
    assert control.q(0) == [3.0, 2.0]


@pytest.mark.parametrize("trace", ["accumulating", "replacing", "dutch"])
@pytest.mark.parametrize("policy", [EpsilonGreedy(0.1), UCB(), Thompson()])
def test_policies_that_count_learn_with_traces(policy, trace) -> None:
    agent = Control(2, update="sarsa", depth=Lambda(0.9, trace), policy=policy)
    taken = np.zeros((7, 2))
    environment, choose = walk(), agent.choose

    def noted(state, legal):
        action = choose(state, legal)
        taken[state, action] += 1
        return action

    agent.choose = noted
    made = run(agent, environment, episodes=100, seed=1)
    assert np.array_equal([agent.function.counts(s) for s in range(6)], taken[:6])
    assert made.returns[-50:].mean() > 0.7  # 1 to the right, 0 to the left


def test_n_steps_wait_n_steps_and_frequency_says_when() -> None:
    def seen(**choices):
        """Return how many of states 0 to 4 are known after each step of a walk 0, 1, ..., 5."""
        agent = Prediction(np.full((6, 1), 1.0), step_size=1.0, **choices)
        agent.start(0)
        known = []
        for t in range(5):
            agent.step(1.0, t + 1, terminal=t == 4)
            known.append(int((agent.values(5) != 0).sum()))
        return known

    assert seen() == [1, 2, 3, 4, 5]
    assert seen(depth=3) == [0, 0, 1, 2, 5]
    assert seen(frequency=2) == [0, 2, 2, 4, 5]
    assert seen(frequency=2, depth=2) == [0, 1, 1, 3, 5]
    assert seen(frequency=2, depth=Lambda(0.5)) == [0, 2, 2, 4, 5]
    assert seen(frequency="episode") == [0, 0, 0, 0, 5]
    assert seen(frequency="episode", depth="episode") == [0, 0, 0, 0, 5]


def test_targets_bootstrap_where_the_depth_ends_by_hand() -> None:
    """V = 10 everywhere, reward 1, discount .5: the n-step target is a hand calculation."""
    for depth, expected in ((1, 1 + 5.0), (2, 1.5 + 2.5), (3, 1.75 + 1.25)):
        agent = Prediction(np.full((9, 1), 1.0), depth=depth, step_size=1.0, discount=0.5,
                           initial=10.0)  # fmt: skip
        agent.start(0)
        for t in range(depth):
            agent.step(1.0, t + 1)
        assert agent.values(1).tolist() == [expected]


def test_what_follows_is_each_updates_own_by_hand() -> None:
    def after(update, epsilon, **more):
        policy = EpsilonGreedy(epsilon, unvisited="initial")
        agent = Control(2, update=update, policy=policy, step_size=1.0, discount=0.5, **more)
        agent.functions[0].add("next", [4.0, 8.0])
        agent.start("S")
        agent.step(1.0, "next")
        return max(agent.q("S"), key=abs)

    assert after("q-learning", 0.5) == 1 + 0.5 * 8
    assert after("expected-sarsa", 0.5) == 1 + 0.5 * (0.25 * 4 + 0.75 * 8)
    assert after("expected-sarsa", 0.0) == 1 + 0.5 * 8
    assert after("sarsa", 0.0) == 1 + 0.5 * 8
    assert {after("sarsa", 1.0, seed=s) for s in range(9)} == {1 + 0.5 * 8, 1 + 0.5 * 4}


def test_sarsa_learns_once_from_the_very_action_that_it_takes_next() -> None:
    for seed in range(20):
        agent = Control(2, update="sarsa", policy=EpsilonGreedy(1.0, unvisited="initial"),
                        step_size=1.0, seed=seed)  # fmt: skip
        agent.function.add("next", [4.0, 8.0])
        first = agent.start("S")
        taken = agent.step(1.0, "next")
        assert agent.q("S")[first] == 1 + (4.0, 8.0)[taken]
        assert agent.function.counts("S").sum() == 1


def test_double_q_learning_judges_one_tables_choice_by_the_other() -> None:
    agent = Control(2, update="double-q-learning", step_size=1.0, seed=0)
    first, second = agent.functions
    first.add("next", [1.0, 0.0])
    second.add("next", [20.0, 30.0])
    agent.start("S")
    agent.step(0.0, "next")
    action = 0 if first.read("S")[0] or second.read("S")[0] else 1
    # the first prefers action 0, worth 20 to the second, which prefers 1, worth 0 to the first
    assert (first.read("S")[action], second.read("S")[action]) in ((20.0, 0.0), (0.0, 0.0))
    agent = Control(2, update="double-q-learning", step_size=1.0, seed=0)
    moved = [0, 0]
    for _ in range(400):
        before = [f.counts("S").sum() for f in agent.functions]
        agent.start("S")
        agent.step(0.0, "next", terminal=True)
        moved = [m + f.counts("S").sum() - b for m, f, b in
                 zip(moved, agent.functions, before, strict=True)]  # fmt: skip
    assert sum(moved) == 400
    assert 150 < moved[0] < 250  # five standard errors of a fair coin


def test_a_deeper_q_learning_target_ends_where_the_policy_explored() -> None:
    """Q(S1) = (5, 0): action 1 there explores, so the target of S0 ends with max Q(S1) = 5 and the
    reward of 100 after it has no part in it."""
    for depth, frequency in ((2, "step"), ("episode", "episode"), (Lambda(1.0), "episode")):
        agent = Control(2, depth=depth, frequency=frequency, step_size=1.0)
        agent.function.add(1, [5.0, 0.0])
        agent.start(0)
        agent._action = 0
        agent.step(1.0, 1)
        agent._action = 1
        agent.step(100.0, 2, terminal=True)
        assert agent.q(0)[0] == 6.0
    agent = Control(2, depth=Lambda(1.0), step_size=0.5)
    agent.function.add(1, [5.0, 0.0])
    agent.start(0)
    agent._action = 0
    agent.step(1.0, 1)
    agent._action = 1
    agent.step(100.0, 2, terminal=True)
    assert agent.q(0)[0] == 3.0  # half of 6, and nothing of the 100


def test_broken_off_is_not_ended() -> None:
    for choices in ({}, {"depth": 4}, MONTE_CARLO, {"frequency": "episode", "depth": Lambda(1.0)}):
        agent = Prediction(np.full((3, 1), 1.0), step_size=1.0, initial=7.0, **choices)
        agent.start(0)
        agent.step(1.0, 1, truncated=True)
        assert agent.values(1).tolist() == [8.0]
        agent.start(0)
        agent.step(1.0, 1, terminal=True)
        assert agent.values(1).tolist() == [1.0]


CONTROLS = ("sarsa", "expected-sarsa", "q-learning", "double-q-learning")
DEPTHS = (1, 3, "episode", Lambda(0.6), Lambda(0.6, "replacing"), Lambda(0.6, "dutch"))
FREQUENCIES = ("step", 4, "episode")


def combinations():
    for update in (*CONTROLS, "td", "reinforce", "reinforce-with-baseline", "actor-critic"):
        for frequency in FREQUENCIES:
            for depth in DEPTHS:
                yield update, frequency, depth


def legal(update, frequency, depth) -> bool:
    """Say again, in another way than the code, what goes together."""
    if depth == "episode":
        return frequency == "episode" and update != "actor-critic"
    if update.startswith("reinforce"):
        return False
    if not isinstance(depth, Lambda) or (depth.trace == "accumulating" and frequency != "step"):
        return True
    if frequency != "step" or update == "double-q-learning":
        return False
    return {
        "accumulating": True,
        "replacing": update != "actor-critic",
        "dutch": update in ("td", "sarsa"),
    }[depth.trace]


def make(update, frequency, depth, seed=0, **more):
    if update == "td":
        return Prediction(WALK, frequency=frequency, depth=depth, seed=seed, **more)
    kind = Control if update in CONTROLS else PolicyGradient
    return kind(2, update=update, frequency=frequency, depth=depth, seed=seed, **more)


@pytest.mark.parametrize(("update", "frequency", "depth"), combinations())
def test_a_combination_learns_or_is_refused_with_the_rule(update, frequency, depth) -> None:
    if not legal(update, frequency, depth):
        with pytest.raises(ValueError, match=r"use ") as refused:
            make(update, frequency, depth)
        assert any(repr(value) in str(refused.value) or "Lambda" in str(refused.value)
                   for value in (update, frequency, depth))  # fmt: skip
        return
    agent = make(update, frequency, depth)
    run(agent, walk(), episodes=150, seed=1)
    if update == "td":
        assert np.abs(agent.values(7)[1:6] - np.arange(1, 6) / 6).max() < 0.35
        return
    # to walk right earns 1 at once
    later = run(agent, walk(), episodes=150, seed=1)
    assert later.returns.mean() > 0.75
    if isinstance(agent, Control):
        assert agent.greedy(3) == 1
    assert agent.probabilities(3)[1] > 0.6
    assert agent.probabilities(3).sum() == pytest.approx(1.0)


def test_rules_of_their_own_are_told() -> None:
    cases = [
        ({"update": "td"}, Control, "update='td' learns no Q"),
        ({"update": "sarsa"}, PolicyGradient, "learns no policy"),
        ({"depth": 0}, Control, "depth=0 must be"),
        ({"depth": True}, Control, "depth=True must be"),
        ({"frequency": 0}, Control, "frequency=0 must be"),
        ({"frequency": "often"}, Control, "frequency='often' must be"),
        ({"visits": "first"}, Control, "visits='first' with depth=1"),
        ({"visits": "last"}, Control, "visits='last' is not one of"),
        ({"depth": Lambda(0.5), "step_size": None}, Control, "step_size=None with traces"),
        ({"discount": 1.2}, Control, "discount=1.2"),
        ({"step_size": 3.0}, Control, "step_size=3"),
        ({"step_size": 0.0}, PolicyGradient, "step_size=0"),
        ({"features": abs}, Control, "both features and n_features"),
        ({"features": one_hot(2), "n_features": 2, "step_size": None}, Control, "step_size=None"),
        ({"features": one_hot(2), "n_features": 2, "initial": 1.0}, Control, "initial=1.0 with"),
        *(
            (
                {"features": one_hot(2), "n_features": 2, "policy": policy},
                Control,
                "keeps no counts; use Softmax",
            )
            for policy in (UCB(), Thompson(), EpsilonGreedy(0.1))
        ),
        (
            {"features": one_hot(2), "n_features": 2, "visits": "first", **MONTE_CARLO},
            Control,
            "visits='first' with features",
        ),
        (
            {"features": one_hot(2), "n_features": 2, "depth": Lambda(0.5, "replacing")},
            Control,
            "trace='replacing' with features",
        ),
        ({"depth": 3}, DynaQ, "depth=3 with a model"),
        ({"update": "sarsa"}, DynaQ, "use 'expected-sarsa'"),
        ({"planning": -1}, DynaQ, "planning=-1"),
        ({"planning": 0}, PrioritisedSweeping, "planning=0 with prioritised sweeping"),
        ({"memory": "none"}, DynaQ, "memory='none'"),
        ({"features": one_hot(2), "n_features": 2}, DynaQ, "the model is a table"),
        ({"update": "double-q-learning"}, PrioritisedSweeping, "an error is of one table"),
    ]
    for more, kind, message in cases:
        with pytest.raises(ValueError, match=message):
            kind(2, **more)
    with pytest.raises(ValueError, match=r"lambda=1\.5"):
        Lambda(1.5)
    with pytest.raises(ValueError, match="trace='bold'"):
        Lambda(0.5, "bold")
    with pytest.raises(ValueError, match="shape"):
        Control(2, features=lambda s: np.zeros(3), n_features=2).start(0)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.array([[0.2, 0.2]]), "sum to 1"),
        (np.array([[1.2, -0.2]]), "sum to 1"),
        (np.array([-1, 1]), "takes action -1 in state 0"),
        (np.array([0.0, 1.0]), "the policy has the shape"),
    ],
)
def test_a_policy_to_predict_must_be_one(policy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prediction(policy)


@pytest.mark.parametrize(
    "agent",
    [Control(2), Control(2, policy=EpsilonGreedy(0.1)), PolicyGradient(2)],
    ids=["control", "with counts", "policy gradient"],
)
def test_a_state_that_goes_on_allows_an_action(agent) -> None:
    with pytest.raises(ValueError, match="no action is legal in 3"):
        agent.start(3, [False, False])
    agent.start(3, [True, False])
    with pytest.raises(ValueError, match="no action is legal in 4"):
        agent.step(0.0, 4, legal=np.array([0, 0]))
    agent.start(3, [True, False])
    assert agent.step(0.0, 4, terminal=True, legal=np.array([0, 0])) == -1


def test_methods_have_the_textbooks_names() -> None:
    assert Choices("td").method == "td(0)"
    assert Choices("sarsa", depth=4).method == "4-step sarsa"
    assert Choices("td", depth=Lambda(0.9)).method == "td(0.9)"
    assert Choices("actor-critic").method == "actor-critic"
    assert Choices("reinforce", "episode", "episode").method == "reinforce"
    assert Choices("td", 1).frequency == "step"


# --- JSON: a run from a restored agent equals the uninterrupted one.


def restorable():
    for update, frequency, depth in combinations():
        if legal(update, frequency, depth):
            yield pytest.param(
                lambda u=update, f=frequency, d=depth: make(u, f, d, seed=7),
                id=f"{update} {frequency} {depth}",
            )
    policies = {
        "softmax": Softmax(0.5),
        "ucb": UCB(1.0),
        "thompson": Thompson(2.0),
        "decaying": EpsilonGreedy(Exponential(1.0, 0.1, 50.0), unvisited="initial"),
    }
    for name, policy in policies.items():
        yield pytest.param(
            lambda p=policy: Control(2, policy=p, step_size=Power(1.0, 0.8), seed=7), id=name
        )
    yield pytest.param(lambda: DynaQ(2, planning=3, seed=7), id="dyna-q")
    yield pytest.param(lambda: DynaQ(2, planning=3, memory="last", seed=7), id="dyna-q last")
    yield pytest.param(lambda: PrioritisedSweeping(2, planning=3, seed=7), id="sweeping")


def again(agent, **more):
    """Return the agent from its JSON, as text that any JSON reader accepts."""
    text = json.dumps(agent.to_json(), allow_nan=False)
    return type(agent).from_json(json.loads(text), **more)


@pytest.mark.parametrize("build", restorable())
def test_a_restored_agent_goes_on_as_if_nothing_had_been(build) -> None:
    agent = build()
    run(agent, walk(), episodes=12, seed=3)
    twin = again(agent)
    on, other = run(agent, walk(), episodes=12, seed=3), run(twin, walk(), episodes=12, seed=3)
    assert on.lengths.tolist() == other.lengths.tolist()
    assert agent.to_json() == twin.to_json()


@pytest.mark.parametrize("build", restorable())
def test_and_so_amid_an_episode(build) -> None:
    agent, environment = build(), walk()
    run(agent, environment, episodes=3, seed=3)
    state, _ = environment.reset(seed=5)
    action, twin = agent.start(state), None
    for t in range(40):
        state, reward, ended, _, _ = environment.step(action)
        action = agent.step(reward, state, terminal=ended)
        if twin is not None:
            assert twin.step(reward, state, terminal=ended) == action
        elif t == 1:  # the walk takes three steps or more
            twin = again(agent)
        if ended:
            break
    assert twin is not None
    assert twin.to_json() == agent.to_json()


def test_linear_agents_and_masked_worlds_survive_json() -> None:
    features = {"features": one_hot(7), "n_features": 7}
    for build in (
        lambda: Control(2, depth=Lambda(0.5), **features),
        lambda: Control(2, depth=3, update="sarsa", **features),
        lambda: PolicyGradient(2, depth=Lambda(0.5), **features),
        lambda: PolicyGradient(2, update="reinforce", **features),
        lambda: Prediction(WALK, depth=Lambda(0.5, "dutch"), **features),
    ):
        agent = build()
        run(agent, walk(), episodes=5, seed=3)
        with pytest.raises(ValueError, match="give features"):
            again(agent)
        twin = again(agent, features=one_hot(7))
        run(agent, walk(), episodes=5, seed=3)
        run(twin, walk(), episodes=5, seed=3)
        assert agent.to_json() == twin.to_json()
    for build, environment in (
        (lambda: Control(9, discount=-1.0, depth=2), TicTacToe("self")),
        (lambda: PolicyGradient(9), TicTacToe("random")),
        (lambda: DynaQ(10), maximisation_bias()),
        (lambda: PrioritisedSweeping(4, discount=0.95), dyna_maze(most_steps=500)),
    ):
        agent = build()
        run(agent, environment, episodes=5, seed=3)
        twin = again(agent)
        run(agent, environment, episodes=5, seed=3)
        run(twin, environment, episodes=5, seed=3)
        assert agent.to_json() == twin.to_json()


def test_only_known_policies_are_written() -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        Control(2, policy=EpsilonGreedy(lambda step: 0.1, unvisited="initial")).to_json()


def test_agents_choose_settings_knob_by_knob() -> None:
    from rl.knob_env import KnobEnv

    space = SearchSpace(
        [Knob("a", (0, 1, 2)), Knob("b", ("x", "y"), when={"a": (1, 2)}), Knob("c", (0, 1))]
    )
    worth = {(2, "y", 1): 1.0}
    environment = KnobEnv(
        space, lambda chosen: worth.get((chosen["a"], chosen.get("b"), chosen["c"]), 0.0)
    )
    agent = Control(3, frequency="episode", depth="episode", step_size=0.5,
                    policy=EpsilonGreedy(0.3, unvisited="initial"))  # fmt: skip
    found = run(agent, environment, episodes=400, seed=1)
    assert found.returns[-100:].mean() > 0.4
    assert set(found.lengths.tolist()) == {2, 3}
    state, info = environment.reset()
    ended = False
    while not ended:
        state, _, ended, _, info = environment.step(agent.greedy(state, info["action_mask"]))
    assert info["setting"] == {"a": 2, "b": "y", "c": 1}


def test_a_trace_ends_with_its_episode() -> None:
    for update in ("td", "sarsa"):
        agent = make(update, "step", Lambda(0.9))
        learnt = agent.v.read if update == "td" else agent.q
        agent.start(0)
        agent.step(1.0, 1, terminal=True)
        kept = list(learnt(0))
        agent.start(2)
        agent.step(5.0, 3, terminal=True)  # nothing of this is owed to state 0
        assert list(learnt(0)) == kept, update
        assert any(learnt(2)), update
