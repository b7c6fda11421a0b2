"""Speed of tabular learning, side by side: one run through the Gymnasium interface, many runs at
once, the 10-armed testbed, and self-play.

`python -m benchmarks.reinforcement`, or as part of `make bench`; under two minutes of one core.
All of it runs on one core and is timed by that core's clock, so that what else the machine
does counts little.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.timing import print_race, race
from rl.agents import run
from rl.bandits import UCB1, EpsilonGreedyBandit, GradientBandit, ThompsonBandit
from rl.choices import Lambda
from rl.control import Control
from rl.environments import cliff_walk
from rl.many import run_many, run_testbed
from rl.policies import EpsilonGreedy
from rl.tictactoe import empty_cells, greedy_moves, match, perfect_moves, self_taught

STEPS = 50_000
EPSILON, STEP_SIZE = 0.1, 0.5


def ours(environment: Any, **more: Any) -> None:
    """Learn for STEPS steps with `rl.control`."""
    agent = Control(4, step_size=STEP_SIZE, policy=EpsilonGreedy(EPSILON, unvisited="initial"),
                    **more)  # fmt: skip
    while agent.steps < STEPS:
        run(agent, environment, episodes=1)


def plain(environment: Any) -> None:
    """Q-learning as one would write it in a quarter of an hour: a dict, lists, `random`."""
    q: dict[int, list[float]] = defaultdict(lambda: [0.0] * 4)
    steps = 0
    while steps < STEPS:
        state, _ = environment.reset()
        over = False
        while not over:
            row = q[state]
            if random.random() < EPSILON:
                action = random.randrange(4)
            else:
                best = max(row)
                action = random.choice([a for a, value in enumerate(row) if value == best])
            following, reward, over, late, _ = environment.step(action)
            target = reward + (0.0 if over else max(q[following]))
            row[action] += STEP_SIZE * (target - row[action])
            state = following
            over = over or late
            steps += 1


class TutorialAgent:
    """The tabular agent of Gymnasium's tutorial "Training an agent" (gymnasium.farama.org, MIT
    licence), with this benchmark's epsilon and step size."""

    def __init__(self, environment: Any) -> None:
        self.env = environment
        self.q_values: Any = defaultdict(lambda: np.zeros(environment.action_space.n))
        self.training_error: list[float] = []

    def get_action(self, obs: int) -> int:
        if np.random.random() < EPSILON:  # noqa: NPY002 - as it is there
            return int(self.env.action_space.sample())
        return int(np.argmax(self.q_values[obs]))

    def update(self, obs: int, action: int, reward: float, terminated: bool, next_obs: int) -> None:
        future_q_value = (not terminated) * np.max(self.q_values[next_obs])
        target = reward + 1.0 * future_q_value
        temporal_difference = target - self.q_values[obs][action]
        self.q_values[obs][action] = self.q_values[obs][action] + STEP_SIZE * temporal_difference
        self.training_error.append(temporal_difference)


def tutorial(environment: Any) -> None:
    """Learn for STEPS steps as Gymnasium's tutorial does."""
    agent, steps = TutorialAgent(environment), 0
    while steps < STEPS:
        obs, _ = environment.reset()
        done = False
        while not done:
            action = agent.get_action(obs)
            next_obs, reward, terminated, truncated, _ = environment.step(action)
            agent.update(obs, action, reward, terminated, next_obs)
            done = terminated or truncated
            obs = next_obs
            steps += 1


def main() -> None:
    """Print the tables."""
    here, theirs = cliff_walk(), gym.make("CliffWalking-v1")
    print_race(
        "Q-learning on the cliff, one run, through the Gymnasium interface",
        race(
            {
                "melbandit, its cliff": lambda: ours(here),
                "plain dict of lists, its cliff": lambda: plain(here),
                "Gymnasium's tutorial agent, its cliff": lambda: tutorial(here),
                "melbandit, Gymnasium's CliffWalking-v1": lambda: ours(theirs),
                "plain dict of lists, CliffWalking-v1": lambda: plain(theirs),
                "Gymnasium's tutorial agent, CliffWalking-v1": lambda: tutorial(theirs),
            },
            rounds=3,
            clock=time.process_time,
        ),
        STEPS,
        "steps",
    )
    kinds: dict[str, dict[str, Any]] = {
        "Q-learning": {},
        "SARSA": {"update": "sarsa"},
        "Expected SARSA": {"update": "expected-sarsa"},
        "Double Q-learning": {"update": "double-q-learning"},
        "4-step SARSA": {"update": "sarsa", "depth": 4},
        "SARSA(.9), traces": {"update": "sarsa", "depth": Lambda(0.9)},
    }
    print_race(
        "The agents, one run each",
        race(
            {name: lambda more=more: ours(here, **more) for name, more in kinds.items()},
            rounds=3,
            clock=time.process_time,
        ),
        STEPS,
        "steps",
    )
    print("\nMany runs at once on the cliff (1,000 runs x 100 episodes), beside one run's rate")
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(3):
        started = time.process_time()
        ours(here)
        rates["one run, Q-learning"].append(STEPS / (time.process_time() - started))
        for update in ("q-learning", "sarsa", "expected-sarsa", "double-q-learning"):
            started = time.process_time()
            many = run_many(here.mdp, runs=1000, episodes=100, update=update,
                            epsilon=EPSILON, step_size=STEP_SIZE)  # fmt: skip
            rates[update].append(many.lengths.sum() / (time.process_time() - started))
    one = float(np.median(rates["one run, Q-learning"]))
    for name, found in rates.items():
        rate = float(np.median(found))
        print(f"  {name:<44} {rate:10,.0f} steps/s   {rate / one:5.1f} x one run")
    print("\n10-armed testbed, 2,000 runs x 1,000 steps")
    bandits: dict[str, Any] = {
        "epsilon-greedy": lambda: EpsilonGreedyBandit(10, runs=2000),
        "UCB1": lambda: UCB1(10, runs=2000),
        "Thompson": lambda: ThompsonBandit(10, runs=2000),
        "gradient": lambda: GradientBandit(10, runs=2000),
    }
    seconds = race({name: lambda make=make: _play(make) for name, make in bandits.items()},
                   rounds=3, clock=time.process_time)  # fmt: skip
    for name, value in seconds.items():
        print(f"  {name:<44} {value:10.2f} s")
    started = time.process_time()
    moves = greedy_moves(self_taught())
    taken = time.process_time() - started
    print(f"\nTic-tac-toe, 100,000 games against itself: {taken:.1f} s")
    for name, other in (("random", empty_cells), ("perfect", perfect_moves)):
        for first in (True, False):
            won, drawn, lost = match(moves, other, first=first)
            who = f"{'first' if first else 'second'} against a {name} player"
            print(f"  {who:<44} won {won:.3f}  drawn {drawn:.3f}  lost {lost:.3f}", flush=True)


def _play(make: Any) -> None:
    run_testbed(make())


if __name__ == "__main__":
    main()
