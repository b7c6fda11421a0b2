"""A learned model of the reward: knobs and pairs of knobs, each worth something on their own.

Two settings are alike when they share knob values. The model is a Gaussian
process with the kernel

    k(x, x') = main * (share of equal knobs) + pair * (share of equal pairs of knobs)

which is Bayesian linear regression on an indicator for every knob value and
every pair of them (Rasmussen & Williams 2006, chapter 2). Rewards are
standardised first, so its constants hold for any score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.policies import Floats
from rl.space import Codes, SearchSpace

Score = Callable[[Floats], Floats]

_FEW = 5  # trials below which a study's own mean and deviation are not relied on


@dataclass(frozen=True)
class ModelSettings:
    """Constants of the reward model, in units of the rewards' variance.

    Measured on 100 synthetic landscapes (docs/benchmarks.md); little depends on them.
    """

    main: float = 4.0
    """Weight of single knobs."""
    pair: float = 2.0
    """Weight of pairs of knobs."""
    noise: float = 0.25
    """Variance of one reward about the model."""


def standardised(rewards: Sequence[float]) -> tuple[Floats, float, float]:
    """Return the rewards with mean 0 and deviation 1, and the mean and deviation they had.

    Equal rewards, or one alone, keep a deviation of 1.
    """
    made = np.asarray(rewards, dtype=float)
    if not len(made):
        return made, 0.0, 1.0
    mean, sd = float(made.mean()), float(made.std())
    sd = sd if sd > 1e-12 * max(1.0, abs(mean)) else 1.0
    return (made - mean) / sd, mean, sd


Known = tuple[Codes, Sequence[float]]
"""Settings, int (n, n_knobs), and their scores, (n,)."""

RELATIONS = (0.0, 0.3, 0.6, 0.8, 0.95)
"""What the correlation with an earlier study may be."""


class RewardModel:
    """The posterior over the reward of every setting, given trials.

    Args:
        space: the knobs.
        codes: settings tried, int (n, n_knobs), as `space.encode` gives them.
        rewards: their scores, (n,).
        pending: settings being tried now, (n_pending, n_knobs): each counts as if it had brought
            what the model expects, which lowers the doubt about it and nothing else.
        earlier: trials of earlier studies, scores in any unit. Each study is a task of its own:
            the covariance between two of them is the kernel times a correlation (Bonilla et al.,
            2008), the one of `RELATIONS` that foretells this study's rewards best.
    """

    def __init__(
        self,
        space: SearchSpace,
        codes: Codes,
        rewards: Sequence[float],
        *,
        settings: ModelSettings = ModelSettings(),
        pending: Codes | None = None,
        earlier: Sequence[Known] = (),
    ) -> None:
        self.space = space
        self.settings = settings
        z, self.mean, self.sd = standardised(rewards)
        self.n_trials = len(z)
        self.relation = 0.0
        """Correlation with the earlier studies."""
        self._earlier = [(np.asarray(c), standardised(r)) for c, r in earlier if len(r) > 1]
        if self._earlier:
            z = self._relate(codes, z, rewards)
        self._fit(codes, z)
        if pending is not None and len(pending):
            expected = self.expected(self.likeness(pending))
            self._fit(np.concatenate([codes, pending]), np.concatenate([z, expected]))

    def _relate(self, codes: Codes, z: Floats, rewards: Sequence[float]) -> Floats:
        """Set the correlation with the earlier studies and return the rewards on their scale:
        a few trials do not tell the mean and deviation of a whole study."""
        self.relation = RELATIONS[-2]
        if not len(z):
            self.mean, self.sd = (float(np.mean(v)) for v in zip(*((m, s) for _, (_, m, s)
                                  in self._earlier), strict=True))  # fmt: skip
            return z
        self._fit(codes[:0], z[:0])
        expected = self.expected(self.likeness(codes))
        if len(z) < _FEW:
            self.sd = float(np.mean([sd for _, (_, _, sd) in self._earlier]))
        self.mean = float(np.mean(rewards)) - self.sd * float(expected.mean())
        z = (np.asarray(rewards, dtype=float) - self.mean) / self.sd
        if len(z) >= _FEW:
            fits = []
            for relation in RELATIONS:
                self.relation = relation
                self._fit(codes, z)
                fits.append(self._left_out_error(z))
            self.relation = RELATIONS[int(np.argmin(fits))]
        return z

    def _left_out_error(self, z: Floats) -> float:
        """Return the mean squared error of this study's rewards, each foretold from all others
        (Rasmussen & Williams 2006, 5.12). Unlike the evidence it does not ask for the kernel's
        scale to be right."""
        n = len(z)
        return float(((self._weights[:n] / np.diag(self._precision)[:n]) ** 2).mean())

    def _fit(self, codes: Codes, z: Floats) -> None:
        # codes: this study's, pending ones last; known: and those of earlier studies
        self.codes = codes
        self.known = every = np.concatenate([codes, *(c for c, _ in self._earlier)])
        task = np.repeat(
            np.arange(1 + len(self._earlier)), [len(codes), *(len(c) for c, _ in self._earlier)]
        )
        z = np.concatenate([z, *(scores for _, (scores, _, _) in self._earlier)])
        self._indicators = self.indicators(every)
        self._related = np.where(task == 0, 1.0, self.relation)
        gram = self.kernel(self._indicators @ self._indicators.T)
        if self._earlier:
            gram *= np.where(task[:, None] == task, 1.0, self.relation)
        gram[np.diag_indices(len(gram))] += self.settings.noise
        # The noise bounds the condition number, so the inverse is safe and makes planning cheap.
        self._precision = np.linalg.inv(gram)
        self._weights = self._precision @ z

    def indicators(self, codes: Codes) -> Floats:
        """Return one-hot codes, (n, sum of n_values + 1): a product of two counts equal knobs."""
        made = np.zeros((len(codes), int(self.space.offsets[-1])))
        made[np.arange(len(codes))[:, None], codes + self.space.offsets[:-1]] = 1.0
        return made

    def kernel(self, n_equal: Floats) -> Floats:
        """Return the covariance of settings with so many equal knobs."""
        n = len(self.space.knobs)
        # pairs: n_equal (n_equal - 1) / (n (n - 1)); one knob alone has none, and stands for them
        pair = self.settings.pair / (n * max(n - 1, 1))
        single = self.settings.main / n - (pair if n > 1 else -pair)
        made = n_equal * (pair if n > 1 else 0.0)
        made += single
        made *= n_equal
        return np.asarray(made)

    def likeness(self, codes: Codes) -> Floats:
        """Return the covariance (n, n_trials) of settings with those tried."""
        return self._with_known(self.indicators(codes))

    def _with_known(self, indicators: Floats) -> Floats:
        made = self.kernel(indicators @ self._indicators.T)
        return made * self._related if self._earlier else made

    def expected(self, likeness: Floats) -> Floats:
        """Return the posterior mean, standardised."""
        return np.asarray(likeness @ self._weights)

    def doubt(self, likeness: Floats) -> Floats:
        """Return the posterior deviation, standardised."""
        prior = self.settings.main + self.settings.pair
        known = ((likeness @ self._precision) * likeness).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(prior - known, 0.0)))

    def other_target(self, values: Sequence[float]) -> Floats:
        """Return weights with which `likeness @ weights` is what the model expects of another
        quantity of the trials, standardised; values: (n_trials,)."""
        n = self.n_trials
        gram = self.kernel(self._indicators[:n] @ self._indicators[:n].T)
        gram[np.diag_indices(n)] += self.settings.noise
        weights = np.zeros(len(self._indicators))
        weights[:n] = np.linalg.solve(gram, standardised(values)[0])
        return weights

    def posterior(self, codes: Codes) -> tuple[Floats, Floats]:
        """Return the mean and deviation of the reward of settings, in the reward's unit."""
        likeness = self.likeness(codes)
        return self.mean + self.sd * self.expected(likeness), self.sd * self.doubt(likeness)

    def climb(self, score: Score, starts: Codes, *, fixed: Sequence[int] = (),
              max_sweeps: int = 20) -> tuple[Codes, Floats]:  # fmt: skip
        """Return settings improved knob by knob until no single change helps, and their scores.

        Those that become equal on the way go on as one, so fewer may come back than were given.

        Args:
            score: of a covariance with the trials, (n, n_trials) -> (n,): what to make large.
            starts: where to begin, (n, n_knobs).
            fixed: positions of knobs to leave as they are.
        """
        n_knobs = len(self.space.knobs)
        codes = np.unique(starts, axis=0)
        scores = score(self.likeness(codes))
        idle = np.zeros(len(codes), dtype=int)  # knobs in turn that no change of helped
        for step in range(max_sweeps * n_knobs):
            position = step % n_knobs
            if position == 0 and step:
                codes, first = np.unique(codes, axis=0, return_index=True)
                scores, idle = scores[first], idle[first]
            moving = np.flatnonzero(idle < n_knobs)
            if not len(moving):
                break
            idle[moving] += 1
            absent = self.space.n_values[position]
            rows = moving[codes[moving, position] < absent]
            if position in fixed or not len(rows) or absent == 1:
                continue
            trial = np.repeat(codes[rows], absent, axis=0)
            trial[:, position] = np.tile(np.arange(absent), len(rows))
            trial = self.space.settle(trial)
            found = score(self.likeness(trial)).reshape(len(rows), absent)
            best = found.argmax(axis=1)
            gain = found[np.arange(len(rows)), best] > scores[rows] + 1e-12
            better = rows[gain]
            codes[better] = trial.reshape(len(rows), absent, -1)[gain, best[gain]]
            scores[better] = found[gain, best[gain]]
            idle[better] = 1
        return codes, scores

    def neighbours(self, codes: Codes) -> Codes:
        """Return the settings themselves and all that differ from one of them in one knob."""
        made: list[Any] = [codes]
        for position, absent in enumerate(self.space.n_values):
            there = codes[codes[:, position] < absent]
            for value in range(absent):
                changed = there.copy()
                changed[:, position] = value
                made.append(self.space.settle(changed))
        return np.unique(np.concatenate(made), axis=0)
