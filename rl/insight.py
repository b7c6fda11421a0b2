"""What a study teaches, for a reader: the best so far, what matters, what is slow, how sure it is.

Everything rests on the reward model fitted to the study's trials (`rl.model`), whoever chose them,
and on what follows from it exactly (`rl.effects`). Scores are given as the study has them; where
the study minimises, the lowest is best.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rl.effects import Effect, Effects, Importance, PairEffect
from rl.model import RewardModel
from rl.policies import Floats
from rl.records import Record, StudyRecord
from rl.space import Codes, Setting

NORMAL = 1.96
"""97.5 % quantile of the standard normal distribution."""
MOST_POINTS = 120
"""Trials after which the best so far is worked out; of a longer study, evenly many of them."""
LEAST_FOR_BELIEFS = 3
"""Scores without which nothing is said of knobs."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Best:
    """What was the best setting tried, as known after a trial."""

    after: int
    """Number of that trial."""
    number: int
    """Trial that first tried the setting."""
    score: Estimate
    """What the setting is expected to score on a fresh training, noise aside; without an interval
    (NaN) where all scores so far are equal."""


@dataclass(frozen=True)
class KnobInsight:
    """What is believed of one knob."""

    position: int
    effects: tuple[Effect, ...]
    """Expected score of each value, and the doubt about its difference from their mean."""
    counts: tuple[int, ...]
    """Trials with each value."""
    alone: float
    """Share of the variance over the space that it makes on its own."""
    together: float
    """... and with each other knob."""


@dataclass(frozen=True)
class ValueCost:
    """What a value of a knob costs."""

    knob: str
    position: int
    code: int
    times: Estimate
    """How many times as long as the mean over the knob's values, the other knobs taken out."""
    seconds: float | None
    """Plain mean of the trials with it; None without any."""
    n: int


class Insight:
    """What a study teaches as it stands.

    Args:
        study: its trials.
    """

    def __init__(self, study: StudyRecord) -> None:
        self.study = study
        self.space = study.space
        self.sign = 1.0 if study.maximise else -1.0
        self.scored = study.scored
        self.codes: Codes = np.array(
            [record.codes for record in self.scored], dtype=np.int64
        ).reshape(-1, len(self.space.knobs))
        self.scores = np.array([record.foretold for record in self.scored], dtype=float)

    def at(self, study: StudyRecord) -> Insight:
        """Return the same insight into the study as it stands now.

        What was worked out is kept, so the scored trials must be the same ones; running and failed
        ones may differ.
        """
        made = copy.copy(self)
        made.study = study
        return made

    @cached_property
    def model(self) -> RewardModel:
        """The reward model of this study's trials alone, whatever the agent started from; larger
        is better."""
        return RewardModel(self.space, self.codes, (self.sign * self.scores).tolist())

    @cached_property
    def effects(self) -> Effects:
        """What the model believes, averaged exactly."""
        return Effects(self.model)

    @property
    def knows(self) -> bool:
        """Whether there are trials enough to say anything of knobs."""
        return len(self.scored) >= LEAST_FOR_BELIEFS and float(np.ptp(self.scores)) > 0

    # The best

    @cached_property
    def path(self) -> list[Best]:
        """The best setting tried by posterior mean, as known after each scored trial."""
        n = len(self.scored)
        if not n:
            return []
        counts = np.unique(np.linspace(1, n, min(n, MOST_POINTS)).round().astype(int))
        return [self.best_after(count) for count in counts.tolist()]

    def best_after(self, count: int) -> Best:
        """Return the best setting tried by posterior mean, as the first `count` scores have it."""
        codes, scores = self.codes[:count], self.scores[:count]
        model = RewardModel(self.space, codes, (self.sign * scores).tolist())
        best = int(model.expected(model.likeness(codes)).argmax())
        first = int((codes == codes[best]).all(axis=1).argmax())
        score = self._estimate(*model.posterior(codes[first : first + 1]))
        if not np.ptp(scores):  # nothing says yet how far scores lie apart
            score = Estimate(score.mean, math.nan, math.nan)
        return Best(self.scored[count - 1].number, self.scored[first].number, score)

    def _estimate(self, mean: Floats, sd: Floats) -> Estimate:
        middle, half = self.sign * float(mean[0]), NORMAL * float(sd[0])
        return Estimate(middle, middle - half, middle + half)

    @property
    def best(self) -> Record | None:
        """The first trial of the best setting tried; None before any score."""
        if not self.path:
            return None
        return next(r for r in self.scored if r.number == self.path[-1].number)

    @property
    def default(self) -> Setting | None:
        """The setting to compare with: the study's own, else that of a trial marked as such."""
        if self.study.default is not None:
            return self.study.default
        return next((t.values for t in self.study.trials if t.is_default), None)

    def expected(self, setting: Setting) -> Estimate:
        """Return what the model expects of a setting on a fresh training, noise aside."""
        return self._estimate(*self.model.posterior(self.space.encode(setting)[None]))

    def difference(self, one: Setting, other: Setting) -> Estimate:
        """Return `one` minus `other` as the model has it. What chose them it does not know."""
        codes = np.stack([self.space.encode(one), self.space.encode(other)])
        model, z = self.model, self.model.indicators(codes)
        likeness = model.likeness(codes)
        covariance = model.kernel(z @ z.T) - likeness @ model._precision @ likeness.T
        contrast = np.array([1.0, -1.0])
        variance = max(0.0, float(contrast @ covariance @ contrast))
        mean = model.sd * (contrast @ model.expected(likeness))
        return self._estimate(np.array([mean]), np.array([model.sd * variance**0.5]))

    # How sure

    @cached_property
    def foretells(self) -> float | None:
        """The share of the scores' variance that the model foretells of trials kept from it,
        one at a time (`1 - sum of squared misses / those of the mean of the others`).

        Below 0 it is worse than the mean; None below 8 trials or where all scores are equal.
        Closed form: `y_i - [K^-1 y]_i / [K^-1]_ii` (Rasmussen & Williams 2006, 5.4.2).
        """
        n = len(self.scored)
        if n < 8 or not self.knows:
            return None
        model = self.model
        z = (self.sign * self.scores - model.mean) / model.sd
        misses = model._weights / np.diag(model._precision)
        return 1 - float((misses**2).sum() / ((z * n / (n - 1)) ** 2).sum())

    # What matters

    @cached_property
    def importance(self) -> Importance:
        """Shares of the variance of the posterior mean; see `rl.effects`."""
        return self.effects.importance

    @cached_property
    def knobs(self) -> list[KnobInsight]:
        """What is believed of each knob, the most important first; empty without beliefs."""
        if not self.knows:
            return []
        share, made = self.importance, []
        for position, n in enumerate(self.space.n_values):
            found = self.effects.knob(position)
            counts = np.bincount(self.codes[:, position], minlength=n + 1)[:n]
            made.append(
                KnobInsight(
                    position,
                    tuple(Effect(self.sign * e.mean, e.sd) for e in found),
                    tuple(counts.tolist()),
                    float(share.alone[position]),
                    float(share.together[position]),
                )
            )
        return sorted(made, key=lambda knob: -knob.together)

    def pairs(self, n: int) -> list[tuple[PairEffect, float]]:
        """Return the `n` pairs with the largest shares beyond their two knobs, and the shares."""
        if not self.knows:
            return []
        share = self.importance.pairs
        every = itertools.combinations(range(len(self.space.knobs)), 2)
        found: list[tuple[PairEffect, float]] = []
        for at in sorted(every, key=lambda at: -share[at]):
            if len(found) == n or share[at] <= 0:
                break
            pair = self.effects.pair(*at)
            # of a knob and one that exists with a single value of it there is only a row
            if np.nanmax(np.abs(pair.interaction), initial=0.0) > 1e-9 * self.model.sd:
                found.append((self._signed(pair), float(share[at])))
        return found

    def _signed(self, pair: PairEffect) -> PairEffect:
        return PairEffect(pair.first, pair.second, self.sign * pair.mean, pair.sd,
                          self.sign * pair.interaction, pair.interaction_sd)  # fmt: skip

    # What it costs

    @property
    def timed(self) -> list[Record]:
        """The trials that ran to their end and whose time is known."""
        return [t for t in self.study.trials
                if t.state == "complete" and t.codes is not None and t.seconds]  # fmt: skip

    @cached_property
    def costs(self) -> list[list[ValueCost]]:
        """What the values of each knob cost, the knob with the widest spread first.

        By the same model on the logarithm of the seconds, so that a slow setting is not blamed on
        the values that it happened to have; a value's share is a factor.
        """
        timed = self.timed
        if len(timed) < LEAST_FOR_BELIEFS:
            return []
        codes = np.array([t.codes for t in timed], dtype=np.int64)
        seconds = np.array([t.seconds for t in timed], dtype=float)
        effects = Effects(RewardModel(self.space, codes, np.log(seconds).tolist()))
        made = []
        for position, knob in enumerate(self.space.knobs):
            found = effects.knob(position)
            middle = float(np.nanmean([e.mean for e in found]))
            rows = []
            for code, effect in enumerate(found):
                mine = seconds[codes[:, position] == code]
                ends = [effect.mean - middle + k * NORMAL * effect.sd for k in (0, -1, 1)]
                rows.append(
                    ValueCost(
                        knob.name, position, code, Estimate(*np.exp(ends).tolist()),
                        float(mine.mean()) if len(mine) else None, len(mine),
                    )
                )  # fmt: skip
            made.append(rows)
        return sorted(made, key=_spread, reverse=True)


def _spread(rows: Sequence[ValueCost]) -> float:
    times = [row.times.mean for row in rows]
    return max(times) / min(times)
