"""Agents on synthetic landscapes: regret after 20, 50, 100 and 200 trials.

`python -m benchmarks.agents small 30` prints the table of docs/benchmarks.md (about an hour of one
core for both sizes); `make bench` runs a few landscapes of the small size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.space import Knob, SearchSpace

AGENTS = ("random", "epsilon-greedy", "q-learning", "tpe", "dyna-q", "dyna-q-ucb")
BUDGETS = (20, 50, 100, 200)
SIZES = {"small": (5, 5, 4, 4, 3, 3), "big": (5, 5, 5, 4, 4, 4, 4, 3, 3, 3, 2, 2)}
_MAIN, _PAIR, _NONE = 0.6, 0.3, 0.1  # shares of the variance
_NOISE = 0.3

Codes = NDArray[np.int64]


def space_of(size: str) -> SearchSpace:
    """Return the knobs of a landscape: 3,600 settings if small, 3.5 million if big."""
    return SearchSpace([Knob(f"k{i}", tuple(range(n))) for i, n in enumerate(SIZES[size])])


class Landscape:
    """Main effects, pairs of knobs, and a part that nothing predicts; unit variance in all."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        rng = np.random.default_rng([77, seed])
        n_values = space.n_values
        knobs = range(len(n_values))
        self.seed = seed
        main = [rng.normal(size=n) for n in n_values]
        self.pair = {
            (i, j): rng.normal(size=(n_values[i], n_values[j])) for i in knobs for j in range(i)
        }
        sample = space.draw(rng, 20000)
        weight = rng.exponential(size=len(n_values))  # knobs matter unequally
        self.main = [m * np.sqrt(w) for m, w in zip(main, weight, strict=True)]
        self.main_scale = np.sqrt(_MAIN) / self._main_effects(sample).std()
        self.pair_scale = np.sqrt(_PAIR) / self._pair_effects(sample).std()
        self.mean = self.score(sample).mean()
        self.optimum = self._find_optimum(space, sample)

    def _find_optimum(self, space: SearchSpace, sample: Codes) -> float:
        if space.size() <= 4000:
            every = np.array([space.encode(setting) for setting in space.settings()])
            return float(self.score(every).max())
        best = sample[np.argsort(-self.score(sample))[:50]]
        for _ in range(6):  # coordinate ascent from the best fifty
            for i, n in enumerate(space.n_values):
                tried = np.repeat(best, n, 0)
                tried[:, i] = np.tile(np.arange(n), len(best))
                best[:, i] = self.score(tried).reshape(len(best), n).argmax(1)
        return float(self.score(best).max())

    def _main_effects(self, codes: Codes) -> Any:
        return sum(effect[codes[:, i]] for i, effect in enumerate(self.main))

    def _pair_effects(self, codes: Codes) -> Any:
        return sum(effect[codes[:, i], codes[:, j]] for (i, j), effect in self.pair.items())

    def _unstructured(self, codes: Codes) -> Any:
        """Return a uniform number of unit variance for each setting, from a hash of it."""
        mixed = np.full(len(codes), self.seed * 7919 + 13, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for i in range(codes.shape[1]):
                mixed = (mixed ^ codes[:, i].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
                mixed *= np.uint64(0xBF58476D1CE4E5B9)
                mixed ^= mixed >> np.uint64(32)
        return ((mixed >> np.uint64(11)).astype(float) / 2**53 - 0.5) * np.sqrt(12)

    def score(self, codes: Codes) -> Any:
        """Return the true score of settings, float (n,)."""
        structured = self.main_scale * self._main_effects(codes)
        structured = structured + self.pair_scale * self._pair_effects(codes)
        return structured + np.sqrt(_NONE) * self._unstructured(codes)

    def regret(self, codes: Codes) -> float:
        """Return 0 for the optimum, 1 for the average setting."""
        return float((self.optimum - self.score(codes[None])[0]) / (self.optimum - self.mean))


def run(space: SearchSpace, agent: str, seed: int) -> list[float]:
    """Return the regret of the setting with the best observed score, after each budget."""
    import optuna

    from rl.samplers import make_sampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    landscape = Landscape(space, seed)
    sampler = make_sampler(agent, space, seed)  # type: ignore[arg-type]
    study = optuna.create_study(direction="maximize", sampler=sampler)
    noise = np.random.default_rng([5, seed]).normal(size=BUDGETS[-1]) * _NOISE
    best, regrets = (-np.inf, 0.0), []
    for t in range(BUDGETS[-1]):
        trial = study.ask()
        chosen: dict[str, Any] = {}
        while (knob := space.next_knob(chosen)) is not None:
            chosen[knob.name] = trial.suggest_categorical(knob.name, knob.values)
        codes = space.encode(chosen)
        seen = float(landscape.score(codes[None])[0] + noise[t])
        study.tell(trial, seen)
        if seen > best[0]:
            best = seen, landscape.regret(codes)
        if t + 1 in BUDGETS:
            regrets.append(best[1])
    return regrets


def main(size: str = "small", n_landscapes: int = 3, agents: Sequence[str] = AGENTS) -> None:
    """Print mean and standard error of the regret over landscapes, an agent a line."""
    space = space_of(size)
    print(f"\nRegret on {n_landscapes} synthetic landscapes of {space.size():,} settings")
    print(f"  {'trials':<16}" + "".join(f"{budget:>16}" for budget in BUDGETS))
    for agent in agents:
        regrets = np.array([run(space, agent, seed) for seed in range(n_landscapes)])
        error = regrets.std(0, ddof=1) / np.sqrt(n_landscapes)
        cells = [f"{m:.3f} +- {e:.3f}" for m, e in zip(regrets.mean(0), error, strict=True)]
        print(f"  {agent:<16}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
