"""Learned models: what they hold, and how planning spreads what was learnt."""

from __future__ import annotations

import numpy as np
import pytest

from rl.agents import Step, run
from rl.dyna import DynaQ, Model, PrioritisedSweeping
from rl.environments import MDPEnv, dyna_maze
from rl.mdp import random_mdp
from rl.planning import value_iteration
from rl.policies import EpsilonGreedy


def test_the_model_counts_what_followed_and_averages_rewards() -> None:
    model = Model()
    for reward, state in ((1.0, "x"), (3.0, "x"), (5.0, "y"), (2.0, "x")):
        model.observe(Step("s", 0, reward, state, None, state == "y"))
    outcomes = {step.next_state: (p, step.reward, step.terminal) for p, step in
                model.outcomes(("s", 0))}  # fmt: skip
    assert outcomes == {"x": (0.75, 2.0, False), "y": (0.25, 5.0, True)}
    assert model.before("x") == [("s", 0)]
    assert model.before("s") == []
    drawn = [model.imagine(np.random.default_rng(k)).next_state for k in range(600)]
    assert drawn.count("y") / 600 == pytest.approx(0.25, abs=0.07)


def test_the_last_outcome_is_all_that_a_forgetful_model_keeps() -> None:
    model = Model("last")
    for reward, state in ((1.0, "x"), (3.0, "y")):
        model.observe(Step("s", 0, reward, state, None, False))
    assert [(p, step.next_state, step.reward) for p, step in model.outcomes(("s", 0))] == [
        (1.0, "y", 3.0)
    ]


def test_a_learned_model_becomes_the_true_one() -> None:
    mdp = random_mdp(np.random.default_rng(2), n_states=4, n_actions=2)
    agent = DynaQ(2, planning=0, policy=EpsilonGreedy(1.0, unvisited="initial"))
    run(agent, MDPEnv(mdp, most_steps=8000), episodes=1, seed=1)
    for s in range(4):
        for a in range(2):
            for p, step in agent.model.outcomes((s, a)):
                assert p == pytest.approx(mdp.transitions[s, a, step.next_state], abs=0.07)
                assert step.reward == pytest.approx(mdp.rewards[s, a, step.next_state])


def swept(**more):
    """Return Q(s, 0) of states 0 to 3 after a walk 0, 1, 2, 3, end with reward 1 at last."""
    agent = PrioritisedSweeping(1, step_size=1.0, discount=0.5, **more)
    agent.start(0)
    for t in range(4):
        agent.step(float(t == 3), t + 1, terminal=t == 3)
    return [agent.q(s)[0] for s in range(4)]


def test_one_walk_is_enough_to_sweep_the_reward_back_to_its_beginning() -> None:
    assert swept(planning=4) == [0.125, 0.25, 0.5, 1.0]
    assert swept(planning=2) == [0.0, 0.0, 0.5, 1.0]
    assert swept(planning=4, least=0.3) == [0.0, 0.0, 0.5, 1.0]


def test_the_largest_error_is_swept_first() -> None:
    agent = PrioritisedSweeping(1, step_size=1.0)
    agent.planning = 0  # only to look at the queue
    for state, reward in (("small", 1.0), ("large", 9.0), ("middle", 4.0)):
        agent.start(state)
        agent.step(reward, "end", terminal=True)
    assert [agent._take_first()[0] for _ in range(3)] == ["large", "middle", "small"]
    assert agent._take_first() is None


def test_one_walk_and_imagination_are_enough_for_dyna_q_too() -> None:
    agent = DynaQ(1, planning=60, step_size=1.0, discount=0.5, seed=1)
    agent.start(0)
    for t in range(4):
        agent.step(float(t == 3), t + 1, terminal=t == 3)
    assert [agent.q(s)[0] for s in range(4)] == [0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("kind", [DynaQ, PrioritisedSweeping])
def test_planning_takes_fewer_steps_and_finds_the_shortest_way(kind) -> None:
    def learn(planning):
        policy = EpsilonGreedy(0.1, unvisited="initial")
        agent = kind(4, planning=planning, discount=0.95, step_size=0.5, policy=policy, seed=3)
        return agent, run(agent, dyna_maze(), episodes=40, seed=1).lengths

    _, without = learn(0) if kind is DynaQ else learn(1)
    agent, planned = learn(30)
    assert planned[1:].sum() < without[1:].sum() * 0.7
    world = dyna_maze()
    best = value_iteration(world.mdp)
    state, _ = world.reset()
    over, steps = False, 0
    while not over and steps < 20:
        state, _, over, _, _ = world.step(agent.greedy(state))
        steps += 1
    assert over
    assert steps <= 16
    assert best.v[18] == pytest.approx(0.95**13)
