"""Scores that cannot be compared as they are, made comparable.

A pruned trial's last score is that of a training not finished, so it stands below what its setting
is worth, by more the earlier it was stopped. The finished trials say by how much: their scores at
the same step foretell their last ones by a straight line.

A score that is no finite number says nothing of the others: it is left out of all that is worked
out from them, and counts as the worst of theirs.

Trials may be scored on different validation clips in turn, some of which are harder than others;
what the difference is, their scores say too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

KILLED = "killed"
"""User attribute of a trial that was interrupted: it counts as if it had never been."""
DIED = "died"
"""What `KILLED` says of a trial whose worker died, which is to be run again."""
BEGAN, ENDED = "began", "ended"
"""User attributes of a trial: when, in seconds since 1970. Optuna's own times are those of whoever
writes them down, in his time zone."""
BLOCK = "block"
"""User attribute of a trial: which of several sets of validation clips scored it."""
LEAST_FINISHED = 5
"""Finished trials without which a pruned one is taken at its last score."""

Line = tuple[float, float]
"""Slope and intercept of the last score over the score at a step."""


def span_s(trial: FrozenTrial) -> tuple[float, float] | None:
    """Return when a trial began and ended (or now), in seconds since 1970; None where it did not
    begin yet."""
    attrs, start, end = trial.user_attrs, trial.datetime_start, trial.datetime_complete
    if BEGAN not in attrs and start is None:
        return None
    began = float(attrs[BEGAN]) if BEGAN in attrs else start.timestamp()  # type: ignore[union-attr]
    if ENDED in attrs:
        return began, float(attrs[ENDED])
    if start is not None and end is not None:
        return began, began + max(0.0, (end - start).total_seconds())
    return began, max(began, time.time())


def lasted_s(trial: FrozenTrial) -> float:
    """Return how long a trial has been going on, or did until its end, in seconds."""
    span = span_s(trial)
    return span[1] - span[0] if span else 0.0


def make_pruner(name: str, n_epochs: int) -> BasePruner:
    """Return what stops trials early, on scores told after each of `n_epochs` epochs.

    none: nothing. median: a trial that after a third of the epochs or later is below the median of
    those before it at that epoch. halving: successive halving (Li et al., 2020): of the trials that
    reach a ninth and a third of the epochs, the best third goes on. hyperband: halving from several
    starts (Li et al., 2018).

    Raises:
        ValueError: there is no such pruner.
    """
    first = max(1, n_epochs // 9)
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=n_epochs // 3)
    if name == "halving":
        return Halving(rungs=tuple(sorted({first, max(1, n_epochs // 3)})))
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=n_epochs)
    raise ValueError(f"pruner {name!r} is not one of: none, median, halving, hyperband.")


class Halving(BasePruner):
    """Asynchronous successive halving (Li et al., 2020): a trial goes on from a rung where it is
    in the best third of all that have reached it so far. One whose score is no finite number ends.

    Unlike Optuna's it writes nothing down, and trials that were killed do not compete: a search
    that was killed and resumed makes the same decisions.

    Args:
        rungs: epochs after which it decides, numbered from 1.
        keep: part that goes on.
    """

    def __init__(self, rungs: Sequence[int], keep: float = 1 / 3) -> None:
        self.rungs = tuple(rungs)
        self.keep = keep

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step not in self.rungs:
            return False
        if not math.isfinite(trial.intermediate_values[step]):
            return True
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        others = [
            t
            for t in study.get_trials(deepcopy=False)
            if math.isfinite(t.intermediate_values.get(step, math.nan))
            and t.number != trial.number
            and KILLED not in t.user_attrs
        ]
        effects = block_effects([(_block(t), t.intermediate_values[step]) for t in others])

        def level(t: FrozenTrial) -> float:
            return sign * (t.intermediate_values[step] - effects.get(_block(t), 0.0))

        n_better = sum(level(other) > level(trial) for other in others)
        return n_better >= max(1, int((len(others) + 1) * self.keep))


def block_effects(scores: Sequence[tuple[int | None, float]]) -> dict[int | None, float]:
    """Return by how much the scores of each block lie above the mean over blocks, shrunk towards
    0 where they are few: `n / (n + 2) * (mean - mean of means)`.

    Settings are dealt to blocks in turn, so blocks have equally good settings on average.

    >>> block_effects([(0, 0.5), (0, 0.7), (1, 0.9), (1, 0.9)])
    {0: -0.075, 1: 0.075}
    """
    by_block: dict[int | None, list[float]] = {}
    for block, score in scores:
        by_block.setdefault(block, []).append(score)
    if len(by_block) < 2:
        return dict.fromkeys(by_block, 0.0)
    means = {block: float(np.mean(values)) for block, values in by_block.items()}
    centre = float(np.mean(list(means.values())))
    return {
        block: round(len(by_block[block]) / (len(by_block[block]) + 2) * (mean - centre), 12)
        for block, mean in means.items()
    }


def _block(trial: FrozenTrial) -> int | None:
    return trial.user_attrs.get(BLOCK)


def _score_at(trial: FrozenTrial, step: int) -> float | None:
    """Return a trial's score at a step, on the straight line between the two that it reported
    around it; None before the first and after the last."""
    scores = {s: v for s, v in trial.intermediate_values.items() if math.isfinite(v)}
    steps = sorted(scores)
    if not steps or not steps[0] <= step <= steps[-1]:
        return None
    return float(np.interp(step, steps, [scores[s] for s in steps]))


class Forecast:
    """What trials of a study are worth: pruned ones by what finished ones foretell, and all as if
    scored on the mean of the blocks.

    Args:
        trials: of the study, finished ones among them.
        maximise: whether large scores are good, so that the lowest is the worst.
    """

    def __init__(self, trials: Sequence[FrozenTrial], *, maximise: bool = True) -> None:
        self._scored = [t for t in trials if t.values and math.isfinite(t.values[0])]
        self._finished = [t for t in self._scored if t.state == TrialState.COMPLETE]
        self._maximise = maximise
        self._lines: dict[int, Line] = {}
        self._effects = block_effects([(_block(t), float(t.value or 0.0)) for t in self._finished])

    def line(self, step: int) -> Line:
        """Return the least-squares line from the score at `step` to the last one.

        What a trial would have scored between two of its scores is interpolated. With fewer than
        `LEAST_FINISHED` trials that tell of the step, or all alike there, the line is the identity.
        A falling line would turn the order of settings round, so the slope is at least 0.
        """
        if step not in self._lines:
            pairs = [
                (score, float(t.value or 0.0))
                for t in self._finished
                if (score := _score_at(t, step)) is not None
            ]
            x, y = np.array(pairs).reshape(-1, 2).T
            spread = float(((x - x.mean()) ** 2).sum()) if len(x) else 0.0
            if len(x) < LEAST_FINISHED or spread < 1e-12:
                self._lines[step] = (1.0, 0.0)
            else:
                slope = max(0.0, float(((x - x.mean()) * (y - y.mean())).sum()) / spread)
                self._lines[step] = (slope, float(y.mean() - slope * x.mean()))
        return self._lines[step]

    def score(self, trial: FrozenTrial) -> float | None:
        """Return a finished trial's score, or what a pruned one's last score foretells, less its
        block's effect; the worst of these where its own score is no finite number; None for a
        trial without any."""
        if not trial.values or trial.value is None:
            return None
        return self._score(trial) if math.isfinite(trial.value) else self._worst

    @cached_property
    def _worst(self) -> float | None:
        scores = map(self._score, self._scored)
        return (min if self._maximise else max)(scores, default=None)

    def _score(self, trial: FrozenTrial) -> float:
        assert trial.value is not None
        effect = self._effects.get(_block(trial), 0.0)
        if trial.state != TrialState.PRUNED or trial.last_step is None:
            return float(trial.value) - effect
        slope, intercept = self.line(trial.last_step)
        return intercept + slope * float(trial.value) - effect
