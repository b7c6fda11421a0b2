"""Bandits: k arms, no states (Sutton & Barto, chapter 2; Auer et al., 2002).

Every array has a row for each of `runs` independent runs, so that a single bandit and
the 2,000 of the textbook's testbed are the same code. Each gives the probabilities
it acts with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np

from rl.confidence import Thompson
from rl.mdp import Ints
from rl.policies import Floats, Schedule, from_json, own_generator, to_json


class Bandit(ABC):
    """What all bandits share: estimates of the arms' worths, and drawing an arm.

    Args:
        k: arms.
        runs: independent runs at once.
        seed: of the generator that arms are drawn with.
    """

    saved: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that a subclass learns, besides q and n."""

    def __init__(self, k: int, *, runs: int = 1, seed: int = 0) -> None:
        if k < 1 or runs < 1:
            raise ValueError(f"k={k} and runs={runs} must be at least 1.")
        self.k, self.runs = k, runs
        self.rng = own_generator(seed)
        self.q: Floats = np.zeros((runs, k))
        """Estimated worth of each arm, (runs, k)."""
        self.n: Floats = np.zeros((runs, k))
        """How often each was taken."""
        self.t = 0
        """Steps so far."""
        self._run = np.arange(runs)

    @abstractmethod
    def probabilities(self) -> Floats:
        """Return the probability of each arm, (runs, k); each row sums to 1."""

    def act(self) -> Ints:
        """Return an arm for each run, int64 (runs,), drawn with these probabilities."""
        return draw(self.probabilities(), self.rng)

    def update(self, action: Ints, reward: Floats) -> None:
        """Learn from the rewards, (runs,), of the arms taken: q becomes the average of each."""
        self._average(action, reward)

    def _average(self, action: Ints, reward: Floats, step_size: float | None = None) -> None:
        self.t += 1
        at = (self._run, action)
        self.n[at] += 1
        error = reward - self.q[at]
        self.q[at] += error / self.n[at] if step_size is None else step_size * error

    def options(self) -> dict[str, Any]:
        """Return the arguments that it was made with, less k, runs and seed."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return the bandit JSON-ready, its generator's state included."""
        return {
            "bandit": type(self).__name__,
            "k": self.k,
            "runs": self.runs,
            "options": {
                key: to_json(value) if callable(value) else value
                for key, value in self.options().items()
            },
            "t": self.t,
            "rng": self.rng.bit_generator.state,
            "arrays": {name: getattr(self, name).tolist() for name in ("q", "n", *self.saved)},
        }

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> Self:
        """Return the bandit that `to_json` wrote."""
        options = {
            key: from_json(value) if isinstance(value, dict) else value
            for key, value in made["options"].items()
        }
        again = cls(made["k"], runs=made["runs"], **options)
        again.t = made["t"]
        again.rng.bit_generator.state = made["rng"]
        for name, values in made["arrays"].items():
            setattr(again, name, np.array(values))
        return again


def draw(probabilities: Floats, rng: np.random.Generator) -> Ints:
    """Return a column for each row, drawn with the row's probabilities, int64 (n_rows,)."""
    edges = probabilities.cumsum(1)
    drawn = rng.random(len(edges))[:, None] * edges[:, -1:]
    return np.asarray((drawn < edges).argmax(1))


def shared_best(value: Floats) -> Floats:
    """Return equal parts for all columns that share a row's largest value."""
    best = value == value.max(1, keepdims=True)
    return np.asarray(best / best.sum(1, keepdims=True))


class EpsilonGreedyBandit(Bandit):
    """Any arm with probability epsilon, else the one with the largest estimate (2.2 to 2.6).

    Args:
        epsilon: a probability, or a schedule of it.
        step_size: None for the average of all rewards, a constant to follow worths that drift.
        initial: the estimates to begin with; above what rewards can be, they make a greedy bandit
            try everything ("optimistic initial values").
    """

    def __init__(
        self,
        k: int,
        *,
        epsilon: float | Schedule = 0.1,
        step_size: float | None = None,
        initial: float = 0.0,
        runs: int = 1,
        seed: int = 0,
    ) -> None:
        if not callable(epsilon) and not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} is no probability; take one from 0 to 1.")
        if step_size is not None and not 0 < step_size <= 1:
            raise ValueError(f"step_size={step_size} must be above 0 and at most 1, or None.")
        super().__init__(k, runs=runs, seed=seed)
        self.epsilon, self.step_size, self.initial = epsilon, step_size, initial
        self.q += initial

    def _epsilon(self) -> float:
        return self.epsilon(self.t) if callable(self.epsilon) else self.epsilon

    def probabilities(self) -> Floats:
        epsilon = self._epsilon()
        return np.asarray(epsilon / self.k + (1 - epsilon) * shared_best(self.q))

    def update(self, action: Ints, reward: Floats) -> None:
        """Move q by `step_size * (reward - q)`, or keep it the average."""
        self._average(action, reward, self.step_size)

    def options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "step_size": self.step_size, "initial": self.initial}


class UCB1(Bandit):
    """The arm with the largest `q + c sqrt(ln t / n)`, untried ones first (2.7; Auer et al., 2002).

    Args:
        c: weight of doubt, in deviations of the reward; sqrt(2) in Auer et al., 2 in figure 2.4.
    """

    def __init__(self, k: int, *, c: float = math.sqrt(2), runs: int = 1, seed: int = 0) -> None:
        if not c >= 0:
            raise ValueError(f"c={c} must not be below 0; raise it.")
        super().__init__(k, runs=runs, seed=seed)
        self.c = c

    def probabilities(self) -> Floats:
        doubt = np.sqrt(math.log(max(self.t, 1)) / np.maximum(self.n, 1))
        return shared_best(np.where(self.n > 0, self.q + self.c * doubt, np.inf))

    def options(self) -> dict[str, Any]:
        return {"c": self.c}


class ThompsonBandit(Bandit):
    """Each arm as often as it is the best by what is known: normal rewards of deviation 1, worths
    N(0, prior) beforehand (Thompson, 1933)."""

    def __init__(self, k: int, *, prior: float = 1.0, runs: int = 1, seed: int = 0) -> None:
        super().__init__(k, runs=runs, seed=seed)
        self.posterior = Thompson(prior)

    def probabilities(self) -> Floats:
        """Return them by integration, run by run; `act` draws from the posterior and is quick."""
        legal = np.ones(self.k, bool)
        rows = zip(self.q, self.n, strict=True)
        return np.array([self.posterior.probabilities(q, n, legal, self.t) for q, n in rows])

    def act(self) -> Ints:
        mean, sd = self.posterior.posterior(self.q, self.n)
        return np.asarray((mean + sd * self.rng.standard_normal(mean.shape)).argmax(1))

    def options(self) -> dict[str, Any]:
        return {"prior": self.posterior.prior}


class GradientBandit(Bandit):
    """Preferences H by stochastic gradient ascent; arms have probability proportional to exp(H)
    (2.8): `H(a) += step_size * (R - baseline) * (1 if a was taken else 0 - pi(a))`.

    Args:
        step_size: of the preferences.
        baseline: compare a reward with the average so far, itself included; with 0 if False.
    """

    saved = ("preferences", "mean")

    def __init__(self, k: int, *, step_size: float = 0.1, baseline: bool = True, runs: int = 1,
                 seed: int = 0) -> None:  # fmt: skip
        if not step_size > 0:
            raise ValueError(f"step_size={step_size} must be above 0; raise it.")
        super().__init__(k, runs=runs, seed=seed)
        self.step_size, self.baseline = step_size, baseline
        self.preferences: Floats = np.zeros((runs, k))
        self.mean: Floats = np.zeros(runs)

    def probabilities(self) -> Floats:
        weights = np.exp(self.preferences - self.preferences.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True))

    def act(self) -> Ints:
        self._shares = self.probabilities()
        return draw(self._shares, self.rng)

    _shares: Floats | None = None

    def update(self, action: Ints, reward: Floats) -> None:
        """Move the preferences along the gradient of the expected reward."""
        shares = self.probabilities() if self._shares is None else self._shares
        self._shares = None
        self._average(action, reward)
        self.mean += (reward - self.mean) / self.t
        step = self.step_size * (reward - self.mean * self.baseline)
        self.preferences -= step[:, None] * shares
        self.preferences[self._run, action] += step

    def options(self) -> dict[str, Any]:
        return {"step_size": self.step_size, "baseline": self.baseline}


class Exp3S(Bandit):
    """EXP3.S: holds its own against the best *sequence* of arms, however rewards come about, and
    so in worlds that change (Auer et al., 2002, section 8).

    `p = (1 - gamma) w / sum(w) + gamma / k`, and after a reward x, `w(a) *= exp(gamma x / (p(a)
    k))` for the arm taken, then `w += e alpha / k * sum of the w before`.

    Args:
        gamma: share of exploring, above 0.
        alpha: what every arm is given back, so that none is forgotten; 0 is EXP3.
        low, high: the range of rewards, which is mapped to 0 to 1; what lies outside counts as
            its end.
    """

    saved = ("weights",)

    def __init__(
        self,
        k: int,
        *,
        gamma: float = 0.1,
        alpha: float = 0.001,
        low: float = 0.0,
        high: float = 1.0,
        runs: int = 1,
        seed: int = 0,
    ) -> None:
        if not 0 < gamma <= 1 or not alpha >= 0:
            raise ValueError(
                f"gamma={gamma} must be above 0 and at most 1, and alpha={alpha} not below 0."
            )
        if not low < high:
            raise ValueError(f"low={low} must be below high={high}.")
        super().__init__(k, runs=runs, seed=seed)
        self.gamma, self.alpha, self.low, self.high = gamma, alpha, low, high
        self.weights: Floats = np.full((runs, k), 1 / k)

    def probabilities(self) -> Floats:
        share = self.weights / self.weights.sum(1, keepdims=True)
        return np.asarray((1 - self.gamma) * share + self.gamma / self.k)

    def update(self, action: Ints, reward: Floats) -> None:
        """Credit the arm taken with its reward over its probability."""
        chance = self.probabilities()[self._run, action]
        self._average(action, reward)
        scaled = np.clip((reward - self.low) / (self.high - self.low), 0.0, 1.0)
        total = self.weights.sum(1, keepdims=True)
        self.weights[self._run, action] *= np.exp(self.gamma * scaled / (chance * self.k))
        self.weights += math.e * self.alpha / self.k * total
        self.weights /= self.weights.sum(1, keepdims=True)  # else they grow without bound

    def options(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "alpha": self.alpha, "low": self.low, "high": self.high}


class SlidingWindowUCB(Bandit):
    """UCB1 over the last `window` rewards alone, for worths that change (SW-UCB, Garivier &
    Moulines, 2011): the largest `mean + c sqrt(ln(min(t, window)) / n)`, mean and n of an arm in
    the window; arms that are not in it come first.

    `q` and `n` are the window's, so an arm long not taken is forgotten.

    Args:
        c: weight of doubt, in deviations of the reward.
        window: how many of the last rewards count, of all arms together.
    """

    saved = ("arms", "rewards")

    def __init__(
        self, k: int, *, c: float = 1.0, window: int = 50, runs: int = 1, seed: int = 0
    ) -> None:
        if not c >= 0:
            raise ValueError(f"c={c} must not be below 0; raise it.")
        if window < k:
            raise ValueError(f"window={window} must be at least k={k}, or arms are never compared.")
        super().__init__(k, runs=runs, seed=seed)
        self.c, self.window = c, window
        # rings of the last arms and rewards, (runs, window); -1 where nothing was taken yet
        self.arms: Ints = np.full((runs, window), -1)
        self.rewards: Floats = np.zeros((runs, window))

    def probabilities(self) -> Floats:
        doubt = np.sqrt(math.log(max(min(self.t, self.window), 1)) / np.maximum(self.n, 1))
        return shared_best(np.where(self.n > 0, self.q + self.c * doubt, np.inf))

    def update(self, action: Ints, reward: Floats) -> None:
        """Put the rewards into the window, in the place of the oldest."""
        at = self.t % self.window
        self.arms[:, at], self.rewards[:, at] = action, reward
        self.t += 1
        taken = self.arms[:, :, None] == np.arange(self.k)  # (runs, window, k)
        self.n = taken.sum(1).astype(np.float64)
        total = (taken * self.rewards[:, :, None]).sum(1)
        self.q = total / np.maximum(self.n, 1)

    def options(self) -> dict[str, Any]:
        return {"c": self.c, "window": self.window}
