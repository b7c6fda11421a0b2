"""Agents that pick what the next segment of a training does, from what the last ones brought.

The worths of the arms change as a training goes on, so each of these forgets: EXP3.S gives weight
back, epsilon-greedy and Q-learning take constant steps and never stop exploring, UCB looks at a
window. A pick is an arm of every factor; factors learn side by side from the same reward, one
bandit (or one table) each, as in a search with a bandit a knob.

Rewards are in [-1, 1], 0 what was to be expected. The caller (a training) knows the four methods
`pick`, `observe`, `to_json` and `restore`, and `belief` to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rl.bandits import Bandit, EpsilonGreedyBandit, Exp3S, SlidingWindowUCB, draw, shared_best
from rl.control import Control
from rl.policies import GREEDY, EpsilonGreedy, Floats

State = tuple[int, ...]
Belief = dict[str, list[list[float]]]

# Chosen on bandits of eight arms with normal worths, rewards that are ranks, noise of 1 and 2
# deviations of the worths and 38 rewards in all (`python -m benchmarks.schedule --simulate`): a
# training has few segments. EXP3.S stays cautious at any gamma. None was tuned on the corpora of
# docs/benchmarks.md.
EPSILON = 0.15
STEP_SIZE = 0.2
GAMMA = 0.6
ALPHA = 0.005
UCB_C = 0.5
UCB_WINDOW = 40
DISCOUNT = 0.5  # what a segment does to those after it, beyond its own reward, fades fast


def settled_chances(bandit: Bandit) -> Floats:
    """Return what a bandit picks with when it has done exploring, (runs, k): the arm that it holds
    best of those tried, which for EXP3.S is the one of greatest weight."""
    if isinstance(bandit, Exp3S):
        return shared_best(bandit.weights)
    tried = bandit.n > 0
    return shared_best(np.where(tried | ~tried.any(1, keepdims=True), bandit.q, -np.inf))


class BanditPicker:
    """A bandit for each factor; none looks at the state.

    Args:
        sizes: number of arms of each factor.
        make: a bandit of so many arms, with a seed.
        seed: each factor's bandit has one that follows from it.

    >>> picker = BanditPicker((2,), lambda k, seed: EpsilonGreedyBandit(k, epsilon=0.0, seed=seed))
    >>> arm = picker.pick((0, 0))
    >>> picker.observe(-1.0, (0, 0))
    >>> picker.pick((0, 0)) == (1 - arm[0],)
    True
    """

    def __init__(
        self, sizes: Sequence[int], make: Callable[[int, int], Bandit], *, seed: int = 0
    ) -> None:
        self.bandits = [make(k, each) for k, each in zip(sizes, _seeds(seed, sizes), strict=True)]
        self._picked: tuple[int, ...] | None = None

    def pick(self, state: State, *, settled: bool = False) -> tuple[int, ...]:
        """Return an arm of every factor; settled: without exploring."""
        if settled:
            return tuple(int(draw(settled_chances(b), b.rng)[0]) for b in self.bandits)
        self._picked = tuple(int(bandit.act()[0]) for bandit in self.bandits)
        return self._picked

    def observe(self, reward: float, state: State) -> None:
        """Learn from the reward of the arms picked last."""
        picked = _picked(self._picked)
        for bandit, arm in zip(self.bandits, picked, strict=True):
            bandit.update(np.array([arm]), np.array([reward]))

    def belief(self, state: State, *, settled: bool = False) -> Belief:
        """Return each arm's chance of being picked now, and its estimated reward."""
        chances = [settled_chances(b) if settled else b.probabilities() for b in self.bandits]
        return {
            "chance": [each[0].tolist() for each in chances],
            "worth": [bandit.q[0].tolist() for bandit in self.bandits],
        }

    def to_json(self) -> dict[str, Any]:
        """Return the bandits JSON-ready, generators included."""
        picked = None if self._picked is None else list(self._picked)
        return {"bandits": [bandit.to_json() for bandit in self.bandits], "picked": picked}

    def restore(self, made: dict[str, Any]) -> None:
        """Take what `to_json` wrote of a picker with the same bandits."""
        pairs = zip(self.bandits, made["bandits"], strict=True)
        self.bandits = [type(bandit).from_json(each) for bandit, each in pairs]
        self._picked = None if made["picked"] is None else tuple(made["picked"])


class QPicker:
    """Q-learning for each factor, epsilon-greedy: the training is one episode, a segment a step,
    the state what the training tells of itself."""

    def __init__(
        self, sizes: Sequence[int], *, epsilon: float = EPSILON, step_size: float = STEP_SIZE,
        discount: float = DISCOUNT, seed: int = 0,
    ) -> None:  # fmt: skip
        policy = EpsilonGreedy(epsilon, unvisited="initial")
        self.agents = [
            Control(k, update="q-learning", policy=policy, step_size=step_size,
                    discount=discount, seed=each)
            for k, each in zip(sizes, _seeds(seed, sizes), strict=True)
        ]  # fmt: skip
        self._picked: tuple[int, ...] | None = None
        self._next: tuple[int, ...] | None = None

    def pick(self, state: State, *, settled: bool = False) -> tuple[int, ...]:
        """Return an arm of every factor: what the agents chose when they last learnt; settled: a
        greedy one of this state, of those it knows."""
        if settled:
            shares = [np.array([chance]) for chance in self._settled(state)]
            pairs = zip(shares, self.agents, strict=True)
            return tuple(int(draw(share, agent.rng)[0]) for share, agent in pairs)
        if self._next is None:
            self._next = tuple(agent.start(state) for agent in self.agents)
        self._picked, self._next = self._next, None
        return self._picked

    def observe(self, reward: float, state: State) -> None:
        """Learn from the reward of the arms picked last, and from the state that they led to."""
        _picked(self._picked)
        self._next = tuple(agent.step(reward, state) for agent in self.agents)

    def _settled(self, state: State) -> list[Floats]:
        made = []
        for agent in self.agents:
            q, n = np.array(agent.q(state)), agent.functions[0].counts(state)  # type: ignore[arg-type]
            made.append(GREEDY.probabilities(q, n, np.ones(len(q), bool), 0))
        return made

    def belief(self, state: State, *, settled: bool = False) -> Belief:
        """Return each arm's chance and worth in this state."""
        if settled:
            chances = self._settled(state)
        else:
            chances = [agent.probabilities(state) for agent in self.agents]
        return {
            "chance": [chance.tolist() for chance in chances],
            "worth": [list(agent.q(state)) for agent in self.agents],
        }

    def to_json(self) -> dict[str, Any]:
        """Return the agents JSON-ready, generators included."""
        return {
            "agents": [agent.to_json() for agent in self.agents],
            "picked": None if self._picked is None else list(self._picked),
            "next": None if self._next is None else list(self._next),
        }

    def restore(self, made: dict[str, Any]) -> None:
        """Take what `to_json` wrote."""
        self.agents = [Control.from_json(each) for each in made["agents"]]
        self._picked = None if made["picked"] is None else tuple(made["picked"])
        self._next = None if made["next"] is None else tuple(made["next"])


def make_picker(name: str, sizes: Sequence[int], *, seed: int = 0) -> BanditPicker | QPicker:
    """Return the agent called exp3s, epsilon-greedy, ucb-window or q-learning.

    sizes: number of arms of each factor.

    Raises:
        ValueError: there is none of that name, or a factor without two arms.
    """
    if not sizes or min(sizes) < 2:
        raise ValueError(f"sizes={tuple(sizes)}: every factor needs at least 2 arms to pick from.")
    if name == "q-learning":
        return QPicker(sizes, seed=seed)
    makes: dict[str, Callable[[int, int], Bandit]] = {
        "exp3s": lambda k, seed: Exp3S(k, gamma=GAMMA, alpha=ALPHA, low=-1.0, high=1.0, seed=seed),
        "epsilon-greedy": lambda k, seed: EpsilonGreedyBandit(
            k, epsilon=EPSILON, step_size=STEP_SIZE, seed=seed
        ),
        "ucb-window": lambda k, seed: SlidingWindowUCB(
            k, c=UCB_C, window=max(UCB_WINDOW, 2 * k), seed=seed
        ),
    }
    if name not in makes:
        known = ", ".join([*makes, "q-learning"])
        raise ValueError(f"there is no agent {name!r} for a schedule; there are: {known}.")
    return BanditPicker(sizes, makes[name], seed=seed)


def _seeds(seed: int, sizes: Sequence[int]) -> list[int]:
    """Return a seed for each factor, or their agents would draw the same numbers."""
    made = np.random.SeedSequence([0x5C4ED, seed]).generate_state(len(sizes))
    return [int(each) for each in made]


def _picked(picked: tuple[int, ...] | None) -> tuple[int, ...]:
    if picked is None:
        raise ValueError("a reward was observed before anything was picked; call pick first.")
    return picked
