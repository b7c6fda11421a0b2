"""Every control agent reaches value iteration's policy, every prediction the exact V, on MDPs drawn
at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.agents import run
from rl.choices import Lambda
from rl.control import Control
from rl.dyna import DynaQ, PrioritisedSweeping
from rl.environments import MDPEnv
from rl.mdp import FiniteMDP
from rl.planning import evaluate, value_iteration
from rl.policies import EpsilonGreedy, Power
from rl.policy_gradient import PolicyGradient
from rl.prediction import Prediction

STATES, ACTIONS, DISCOUNT = 4, 2, 0.9
#: What the best action of a state is worth more than the other, at least: what is nearly as good
#: takes longer to tell apart than a test may last. Rewards' deviation is 1.
GAP = 0.5
FEW = (3, 4)  # seeds of the MDPs of the quick tests; the slow ones draw them


def small(seed: int) -> FiniteMDP:
    """Return a random MDP of four states and two actions, of which each ends the episode with
    probability 1/4, beginning anywhere."""
    rng = np.random.default_rng(seed)
    while True:
        p = np.zeros((STATES + 1, ACTIONS, STATES + 1))
        p[:, :, :STATES] = 0.75 * rng.dirichlet(np.ones(STATES), size=(STATES + 1, ACTIONS))
        p[:, :, STATES] = 0.25
        rewards = rng.normal(size=(STATES + 1, ACTIONS))
        ends = np.arange(STATES + 1) == STATES
        mdp = FiniteMDP(p, rewards, terminal=ends, discount=DISCOUNT)
        q = np.sort(value_iteration(mdp).q[:STATES], axis=1)
        if (q[:, -1] - q[:, -2]).min() > GAP:
            return mdp


def is_optimal(agent, mdp) -> bool:
    """Return whether the agent's greedy policy is value iteration's."""
    best = value_iteration(mdp).policy[:STATES]
    return [agent.greedy(s) for s in range(STATES)] == best.tolist()


EXPLORING = EpsilonGreedy(Power(1.0, 0.25), unvisited="initial")


def value_agents():
    kinds = {
        "q-learning": {},
        "q-learning, 3 steps": {"depth": 3},
        "q-learning, Monte Carlo": {"frequency": "episode", "depth": "episode"},
        "q-learning, lambda at every 4": {"frequency": 4, "depth": Lambda(0.7)},
        "q(0.7)": {"depth": Lambda(0.7), "step_size": 0.02},
        "double-q-learning": {"update": "double-q-learning"},
        "double-q-learning, 2 steps": {"update": "double-q-learning", "depth": 2},
        "sarsa": {"update": "sarsa"},
        "sarsa, 3 steps": {"update": "sarsa", "depth": 3},
        "sarsa, Monte Carlo": {"update": "sarsa", "frequency": "episode", "depth": "episode"},
        "sarsa, first visits": {
            "update": "sarsa", "frequency": "episode", "depth": "episode", "visits": "first",
        },
        "sarsa(0.7)": {"update": "sarsa", "depth": Lambda(0.7), "step_size": 0.02},
        "true online sarsa": {"update": "sarsa", "depth": Lambda(0.7, "dutch"), "step_size": 0.02},
        "expected-sarsa": {"update": "expected-sarsa"},
        "expected-sarsa, 3 steps": {"update": "expected-sarsa", "depth": 3},
    }  # fmt: skip
    for name, more in kinds.items():
        more = {"step_size": Power(1.0, 0.75), "policy": EXPLORING, "discount": DISCOUNT, **more}
        yield pytest.param(lambda seed, m=more: Control(ACTIONS, seed=seed, **m), id=name)
    for name, kind in (("dyna-q", DynaQ), ("sweeping", PrioritisedSweeping)):
        yield pytest.param(
            lambda seed, k=kind: k(ACTIONS, planning=3, policy=EXPLORING, discount=DISCOUNT,
                                   step_size=Power(1.0, 0.75), seed=seed),
            id=name,
        )  # fmt: skip


def policy_agents():
    monte_carlo = {"frequency": "episode", "depth": "episode"}
    for name, more in {
        "reinforce": {"update": "reinforce", **monte_carlo, "step_size": 0.03},
        "reinforce-with-baseline": {"update": "reinforce-with-baseline", **monte_carlo},
        "actor-critic": {"update": "actor-critic"},
        "actor-critic, 3 steps": {"update": "actor-critic", "depth": 3},
        "actor-critic, traces": {"update": "actor-critic", "depth": Lambda(0.7)},
    }.items():
        more = {"step_size": 0.1, "value_step_size": 0.1, "discount": DISCOUNT, **more}
        yield pytest.param(lambda seed, m=more: PolicyGradient(ACTIONS, seed=seed, **m), id=name)


def reaches_the_best_policy(build, seed: int) -> None:
    mdp, agent = small(seed), build(seed)
    episodes = {PolicyGradient: 5000, PrioritisedSweeping: 500, DynaQ: 500}.get(type(agent), 2000)
    run(agent, MDPEnv(mdp), episodes=episodes)
    assert is_optimal(agent, mdp)


@pytest.mark.parametrize("seed", FEW[:1])
@pytest.mark.parametrize("build", [*value_agents(), *policy_agents()])
def test_a_control_agent_reaches_value_iterations_policy(build, seed: int) -> None:
    reaches_the_best_policy(build, seed)


@pytest.mark.slow
@pytest.mark.parametrize("build", [*value_agents(), *policy_agents()])
@given(seed=st.integers(0, 100_000))
@settings(max_examples=8)
def test_a_control_agent_reaches_it_on_any(build, seed: int) -> None:
    reaches_the_best_policy(build, seed)


@pytest.mark.parametrize("update", ["q-learning", "double-q-learning"])
@pytest.mark.parametrize("seed", FEW)
def test_q_itself_becomes_value_iterations(update, seed: int) -> None:
    mdp = small(seed)
    policy = EpsilonGreedy(1.0, "initial")  # off-policy: it never does what it learns
    agent = Control(ACTIONS, update=update, policy=policy, discount=DISCOUNT,
                    step_size=Power(1.0, 0.75), seed=seed)  # fmt: skip
    run(agent, MDPEnv(mdp), episodes=4000)
    found = np.array([agent.q(s) for s in range(STATES)])
    assert np.abs(found - value_iteration(mdp).q[:STATES]).max() < 0.25


def predictions():
    average = {"step_size": None}
    monte_carlo = {"frequency": "episode", "depth": "episode", **average}
    fading = {"step_size": Power(1.0, 0.75)}
    for name, more in {
        "Monte Carlo, every visit": monte_carlo,
        "Monte Carlo, first visits": {**monte_carlo, "visits": "first"},
        "TD(0)": fading,
        "TD(0), every 3 steps": {**fading, "frequency": 3},
        "TD(0), at the end": {**fading, "frequency": "episode"},
        "4 steps": {**fading, "depth": 4},
        "4 steps, every 3": {**fading, "depth": 4, "frequency": 3},
        "TD(lambda)": {"depth": Lambda(0.6), "step_size": 0.002},
        "TD(lambda), replacing": {"depth": Lambda(0.6, "replacing"), "step_size": 0.002},
        "TD(lambda), true online": {"depth": Lambda(0.6, "dutch"), "step_size": 0.002},
        "lambda returns at the end": {**fading, "depth": Lambda(0.6), "frequency": "episode"},
        "lambda returns, every 3": {**fading, "depth": Lambda(0.6), "frequency": 3},
    }.items():
        yield pytest.param(more, id=name)


def converges(more, seed: int) -> None:
    mdp = small(seed)
    policy = np.random.default_rng(seed).dirichlet(np.ones(ACTIONS), size=STATES + 1)
    agent = Prediction(policy, discount=DISCOUNT, seed=seed, **more)
    run(agent, MDPEnv(mdp), episodes=4000)
    # the return's deviation is about 2, and a state is visited some 4,000 times
    assert np.abs(agent.values(STATES) - evaluate(mdp, policy)[:STATES]).max() < 0.25


@pytest.mark.parametrize("seed", FEW[:1])
@pytest.mark.parametrize("more", predictions())
def test_a_prediction_converges_to_the_exact_v(more, seed: int) -> None:
    converges(more, seed)


@pytest.mark.slow
@pytest.mark.parametrize("more", predictions())
@given(seed=st.integers(0, 100_000))
@settings(max_examples=8)
def test_a_prediction_converges_on_any(more, seed: int) -> None:
    converges(more, seed)


def test_first_visits_are_without_bias_and_every_visits_are_not() -> None:
    """Singh & Sutton (1996): one state that goes on with probability p, reward 1 a step. After one
    episode first-visit averages are right in the mean; every-visit ones are half of it plus 1/2
    short: V = 1/(1-p), and the mean estimate of T steps is E[(T + 1) / 2]."""
    p = np.array([[[0.75, 0.25]], [[0.0, 1.0]]])
    mdp = FiniteMDP(p, np.ones((2, 1)), terminal=np.array([False, True]))
    means = {}
    for visits in ("first", "every"):
        found = []
        for seed in range(1500):
            agent = Prediction(np.ones((2, 1)), frequency="episode", depth="episode",
                               visits=visits, step_size=None)  # fmt: skip
            run(agent, MDPEnv(mdp), episodes=1, seed=seed)
            found.append(agent.values(1)[0])
        means[visits] = np.mean(found)
    assert means["first"] == pytest.approx(4.0, abs=0.4)  # 4.5 standard errors of 3.46 / 39
    assert means["every"] == pytest.approx(2.5, abs=0.2)


def test_linear_control_learns_what_a_table_learns() -> None:
    mdp = small(3)
    agent = Control(ACTIONS, features=lambda s: np.eye(STATES + 1)[s], n_features=STATES + 1,
                    step_size=0.03, policy=EXPLORING, discount=DISCOUNT)  # fmt: skip
    run(agent, MDPEnv(mdp), episodes=3000)
    assert is_optimal(agent, mdp)
    actor = PolicyGradient(ACTIONS, features=lambda s: np.eye(STATES + 1)[s],
                           n_features=STATES + 1, discount=DISCOUNT)  # fmt: skip
    run(actor, MDPEnv(mdp), episodes=5000)
    assert is_optimal(actor, mdp)


def test_aggregated_states_get_the_least_squares_values() -> None:
    """Linear TD's fixed point, A w = b (Sutton & Barto, 9.4), on two groups of states."""
    mdp, policy = small(8), np.full((STATES + 1, ACTIONS), 0.5)
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    agent = Prediction(policy, features=lambda s: x[s], n_features=2, step_size=0.01,
                       discount=DISCOUNT)  # fmt: skip
    environment = MDPEnv(mdp)
    run(agent, environment, episodes=2000)
    weights = []
    for _ in range(40):
        run(agent, environment, episodes=100)
        weights.append(agent.v.weights[0].copy())
    p = np.einsum("sa,sat->st", policy, mdp.transitions)
    r = (policy * mdp.expected_rewards).sum(1)
    live = slice(0, STATES)
    # how often each state is visited in an episode that begins anywhere
    visits = np.linalg.solve(np.eye(STATES) - p[live, live].T, np.full(STATES, 1 / STATES))
    d = np.diag(visits)
    a = x[live].T @ d @ (x[live] - DISCOUNT * p[live] @ x)
    b = x[live].T @ d @ r[live]
    assert np.allclose(np.mean(weights, 0), np.linalg.solve(a, b), atol=0.1)
