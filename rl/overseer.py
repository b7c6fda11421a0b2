"""What becomes of a trial's score on the way: is it wanted, does the trial end there."""

from __future__ import annotations

import math
from collections.abc import Hashable

from optuna.study import Study
from optuna.trial import Trial, TrialState

from rl.claims import Work, over_budget
from rl.studies import Phase

CURVE_POINTS = 4
"""Scores of a training that are kept where no pruner asks for more: the last and some on the way.
To score costs about a third of what to train on as many clips does."""


def is_on_curve(epoch: int, last: int) -> bool:
    """Return whether a training of `last` epochs is scored after this one for its curve alone.

    >>> [epoch for epoch in range(1, 11) if is_on_curve(epoch, 10)]
    [3, 6, 9, 10]
    """
    return epoch >= last or epoch % math.ceil(last / CURVE_POINTS) == 0


class Clock:
    """Tells whether the trials' time is up; those who ask at one moment get one answer, for it
    takes reading every trial."""

    def __init__(self, study: Study, work: Work, phase: Phase) -> None:
        budget = work.settings
        self._is_timed = phase == "trials" and (
            budget.minutes is not None or budget.training_seconds is not None
        )
        self._study, self._work = study, work
        self._moment: Hashable = None
        self._answer = False

    def is_late(self, moment: Hashable = None) -> bool:
        """Return it, as it was for whoever asked last if at the same `moment`."""
        if not self._is_timed:
            return False
        if moment is None or moment != self._moment:
            trials = self._study.get_trials(deepcopy=False)
            self._moment = moment
            # without one whole training there is nothing to recommend, nor to tell by what a part
            # is worth
            self._answer = over_budget(self._work, trials) and any(
                t.state == TrialState.COMPLETE for t in trials
            )
        return self._answer


class Overseer:
    """Hears a trial's score after each epoch and says whether it ends there."""

    def __init__(self, trial: Trial, work: Work, phase: Phase, clock: Clock) -> None:
        self.trial, self.work, self.phase, self.clock = trial, work, phase, clock
        self.epoch = 0
        self.is_cut = False
        """The training was ended before it was whole."""
        self._is_awaited = True  # and so is every score, where wants() is not asked

    def wants(self) -> bool:
        settings, epoch = self.work.settings, self.epoch + 1
        if self.phase == "finals":  # nothing is asked of them on the way
            self._is_awaited = epoch >= self.work.objective.epochs
        else:
            last = min(self.work.n_epochs, settings.stop_epoch or self.work.n_epochs)
            self._is_awaited = (
                is_on_curve(epoch, last)
                or settings.pruner != "none"
                or self.clock.is_late((self.epoch, "wants"))
            )
        return self._is_awaited

    def __call__(self, score: float) -> bool:
        self.epoch += 1
        is_awaited, self._is_awaited = self._is_awaited, True
        if self.phase == "finals" or not is_awaited:
            return False
        if math.isfinite(score):
            self.trial.report(score, self.epoch)
        if self.epoch >= self.work.n_epochs:
            return False
        if self.epoch == self.work.settings.stop_epoch:
            return True  # as far as a trial goes: it is whole
        self.is_cut = self.clock.is_late((self.epoch, "told")) or self.trial.should_prune()
        return self.is_cut
