"""Who takes which training next, and whether there is one left to take.

In a file a worker takes a trial under a lock. In a storage that machines share there is none: a
trial is entered with its purpose in one step, and of several for one purpose the first entry
counts; those who came later look, see it and withdraw.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from rl.budget import SearchSettings
from rl.fidelity import BEGAN, DIED, KILLED, lasted_s, make_pruner
from rl.knob_sampler import Earlier, KnobSampler
from rl.objective import Objective
from rl.samplers import make_sampler
from rl.space import SearchSpace, Setting
from rl.studies import (
    RETRY_OF,
    Phase,
    Place,
    is_killed,
    live_trials,
    spent_s,
    training_s,
)
from rl.trial_settings import Reader, is_exhausted, setting_under_way, trial_index

MAX_FIRST_FAILURES = 5
"""So many failures before any success say that something else than the settings is wrong."""

TURNS = 720720
"""A multiple of every number up to 16."""

Wanted = tuple[tuple[Setting, int], ...]
"""Settings and seeds that the finals ask for."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know; picklable."""

    space: SearchSpace
    objective: Objective
    place: Place
    settings: SearchSettings
    seed: int = 0
    home: Setting = field(default_factory=dict)
    """The default setting, which comes first; where it is empty, the agent begins."""
    first_number: int = 0
    """Number of this session's first trial."""
    earlier: Earlier = ()
    """What earlier studies of the space found: settings and their scores, a list for each."""
    trial_values: Mapping[str, Any] = field(default_factory=dict)
    """What a trial is trained with beside its choices, and the finals are not."""

    def study(self, phase: Phase, storage: BaseStorage | None = None) -> Study:
        """Return the study of the trials or of the finals, in a storage that is open already, or
        one opened for it."""
        if phase == "finals":
            return self.place.open(phase, storage=storage)
        settings = self.settings
        sampler = make_sampler(
            settings.agent, self.space, self.seed, earlier=self.earlier,
            cost_aware=settings.cost_aware, tries=settings.tries,
        )  # fmt: skip
        pruner = make_pruner(settings.pruner, self.n_epochs)
        return self.place.open(phase, sampler, pruner, storage)

    @property
    def n_epochs(self) -> int:
        """Epochs of a whole trial."""
        return self.settings.trial_epochs or self.objective.epochs


def trial_seed(seed: int, index: int) -> int:
    """Return the training seed of trial `index`: an even number below 2^31.

    Half of it counts the trials, modulo `TURNS`, so that whatever is dealt by it takes turns.
    """
    draw = int(np.random.default_rng([seed, index, 1]).integers(2**30 // TURNS))
    return 2 * (draw * TURNS + index % TURNS)


def final_seeds(seed: int, n: int) -> tuple[int, ...]:
    """Return the training seeds of the finals: odd numbers, so no trial ever had one; halved they
    take turns as those of the trials do."""
    draws = np.random.default_rng([seed, 2]).integers(2**30 // TURNS, size=n)
    return tuple(2 * (int(draw) * TURNS + k) + 1 for k, draw in enumerate(draws))


def worker_name(pid: int | None = None) -> str:
    """Return the name of a worker's process on this machine, or of this one."""
    return f"{socket.gethostname()}:{os.getpid() if pid is None else pid}"


def over_budget(work: Work, trials: Sequence[FrozenTrial], *, ahead_s: float = 0.0) -> bool:
    """Return whether the trials' time is up, or will be in `ahead_s` seconds."""
    minutes, training_seconds = work.settings.minutes, work.settings.training_seconds
    return (minutes is not None and spent_s(trials) + ahead_s >= 60 * minutes) or (
        training_seconds is not None and training_s(trials) + ahead_s >= training_seconds
    )


def epoch_s(trials: Sequence[FrozenTrial]) -> float:
    """Return what an epoch took on average, in seconds; 0 where none was finished."""
    ended = [
        t for t in trials if t.state.is_finished() and t.intermediate_values and not is_killed(t)
    ]
    n_epochs = sum(t.last_step or 0 for t in ended)
    return sum(lasted_s(t) for t in ended) / max(n_epochs, 1)


def may_start(work: Work, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether the budget, the space and the trials so far leave room for one more."""
    live = [t for t in trials if not is_killed(t)]
    started = [t for t in live if t.state != TrialState.WAITING]
    done = [t for t in started if t.state == TrialState.COMPLETE]
    most = work.settings.most_trials
    if most is not None and len(started) >= most:
        return False
    failed = [t for t in started if t.state == TrialState.FAIL and t.number >= work.first_number]
    if not done and len(failed) >= MAX_FIRST_FAILURES:
        return False
    if done and over_budget(work, started, ahead_s=epoch_s(started)):
        return False
    is_queued = len(live) > len(started) or _due(work, trials) is not None
    tries = work.settings.tries_each
    return is_queued or len(Reader(work.space).tried(started, tries=tries)) < work.space.size()


@dataclass(frozen=True)
class _Due:
    """A trial that is asked for: what it is for, and what it shall try."""

    attrs: dict[str, Any]
    choices: Setting


def _due(work: Work, trials: Sequence[FrozenTrial]) -> _Due | None:
    """Return what has to be tried before the agent chooses: the default setting, once, then those
    whose worker died.

    The default comes again in a later session where it failed before anything had succeeded, for
    then it was not its fault.
    """
    live = [t for t in trials if not is_killed(t)]
    done = any(t.state == TrialState.COMPLETE for t in live)
    lost = _lost(trials)
    there = [t for t in live if done or not _may_come_again(t, work)]
    if work.home and not any(t.user_attrs.get("default") for t in [*there, *lost]):
        return _Due({"default": True}, dict(work.home))
    if not lost:
        return None
    trial = lost[0]
    attrs: dict[str, Any] = {RETRY_OF: trial.number, "seed": trial.user_attrs["seed"]}
    if trial.user_attrs.get("default"):
        attrs["default"] = True
    return _Due(attrs, setting_under_way(trial))


def _lost(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials whose worker died and that no one has taken up again."""
    again = {t.user_attrs.get(RETRY_OF) for t in trials if not is_killed(t)}
    return [t for t in trials if t.user_attrs.get(KILLED) == DIED and t.number not in again]


def missing(wanted: Wanted, trials: Sequence[FrozenTrial]) -> list[tuple[Setting, int]]:
    """Return the trainings of the finals that no one has taken yet."""
    there = {_final(t) for t in trials if not is_killed(t)}
    return [
        (setting, seed) for setting, seed in wanted if (setting_text(setting), seed) not in there
    ]


def _final(trial: FrozenTrial) -> tuple[str, int]:
    return setting_text(trial.user_attrs.get("values", {})), trial.user_attrs.get("seed", -1)


def setting_text(setting: Mapping[str, Any]) -> str:
    """Return a setting as text, whatever the order of its knobs."""
    return json.dumps(setting, sort_keys=True)


def claim_trial(study: Study, work: Work) -> tuple[Trial, Setting, int] | None:
    """Return the next trial with its setting and seed, or None where the trials are over."""
    while True:
        with work.place.claim():
            trials = study.get_trials(deepcopy=False)
            if not may_start(work, trials):
                return None
            due, is_queued = _due(work, trials), False
            if due is None and any(t.state == TrialState.WAITING for t in trials):
                trial = study.ask()  # that the user queued, unless another worker was faster
                attrs = study._storage.get_trial(trial._trial_id).system_attrs
                is_queued = bool(attrs.get("fixed_params"))
                for name, value in _mine().items():
                    trial.set_user_attr(name, value)
            else:
                trial_id = _enter(study, due.attrs if due else {}, due.choices if due else {})
                if _is_surplus(study, work, trial_id):
                    _withdraw(study, trial_id)
                    continue
                trial = Trial(study, trial_id)
            values: Setting = {}
            while (knob := work.space.next_knob(values)) is not None:
                values[knob.name] = trial.suggest_categorical(knob.name, knob.values)
            is_chosen = due is None and not is_queued  # by the agent, who may choose again
            if is_chosen and _is_taken(study, work, trial.number, values):
                _withdraw(study, trial._trial_id)
                continue
            if work.place.is_shared:
                # by its number: others may withdraw at any time, so it has no index yet
                fresh = trial_seed(work.seed, trial.number)
            else:
                trials = study.get_trials(deepcopy=False)
                fresh = trial_seed(work.seed, trial_index(trials, trial.number))
            seed = int(trial.user_attrs.get("seed", fresh))  # one that is run again has its own
            trial.set_user_attr("seed", seed)
            if is_chosen and _is_taken(study, work, trial.number, values):
                _withdraw(study, trial._trial_id)
                continue
            return trial, values, seed


def claim_final(study: Study, work: Work, wanted: Wanted) -> tuple[Trial, Setting, int] | None:
    """Return the next training of the finals, or None where none is left."""
    while True:
        with work.place.claim():
            trials = study.get_trials(deepcopy=False)
            left = missing(wanted, trials)
            if not left:
                return None
            # where others choose at the same time, seldom the same one
            values, seed = random.choice(left) if work.place.is_shared else left[0]
            attrs: dict[str, Any] = {"values": values, "seed": seed}
            for trial in _lost(trials):
                if _final(trial) == (setting_text(values), seed):
                    attrs[RETRY_OF] = trial.number
            trial_id = _enter(study, attrs, {}, _parameters(work.space, values))
            if _is_surplus(study, work, trial_id):
                _withdraw(study, trial_id)
                continue
            return Trial(study, trial_id), values, seed


def _mine() -> dict[str, Any]:
    return {"pid": worker_name(), BEGAN: time.time()}


def _parameters(space: SearchSpace, values: Setting) -> dict[str, Any]:
    """Return a setting as `create_trial` takes it: Optuna's own tools show it then."""
    knobs = [knob for knob in space.knobs if knob.name in values]
    return {
        "params": {knob.name: values[knob.name] for knob in knobs},
        "distributions": {knob.name: CategoricalDistribution(knob.values) for knob in knobs},
    }


def _enter(
    study: Study,
    attrs: Mapping[str, Any],
    choices: Setting,
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Return the id of a new running trial that has its attributes from the first."""
    made = create_trial(
        **(parameters or {}),
        state=TrialState.RUNNING,
        user_attrs={**_mine(), **attrs},
        system_attrs={"fixed_params": choices} if choices else {},
    )
    return study._storage.create_new_trial(study._study_id, made)


def _withdraw(study: Study, trial_id: int) -> None:
    study._storage.set_trial_user_attr(trial_id, KILLED, True)
    study._storage.set_trial_state_values(trial_id, state=TrialState.FAIL)


def _is_surplus(study: Study, work: Work, trial_id: int) -> bool:
    """Return whether earlier entries fill the budget, or one of them has the same purpose."""
    if not work.place.is_shared:
        return False
    trials = study.get_trials(deepcopy=False)
    mine = next(t for t in trials if t._trial_id == trial_id)
    # what waits in the queue has no place yet: it takes one when it is started
    before = [
        t
        for t in trials
        if t.number < mine.number and t.state != TrialState.WAITING and not is_killed(t)
    ]
    purpose = _purpose(mine)
    same = [t for t in before if purpose is not None and _purpose(t) == purpose]
    if any(not _may_come_again(t, work) for t in same):
        return True
    most = work.settings.most_trials
    return "values" not in mine.user_attrs and most is not None and len(before) >= most


def _purpose(trial: FrozenTrial) -> tuple[Any, ...] | None:
    attrs = trial.user_attrs
    if "values" in attrs:
        return ("final", *_final(trial))
    if RETRY_OF in attrs:
        return (RETRY_OF, attrs[RETRY_OF])
    return ("default",) if attrs.get("default") else None


def _may_come_again(trial: FrozenTrial, work: Work) -> bool:
    """Return whether it is a default setting that failed in an earlier session."""
    return bool(
        trial.user_attrs.get("default")
        and trial.state == TrialState.FAIL
        and trial.number < work.first_number
    )


def _is_taken(study: Study, work: Work, number: int, values: Setting) -> bool:
    """Return whether other trials have the setting that the agent chose for this one, so that it is
    not to be tried again.

    Asked before a trial has its seed and again after: it gives way to a lower number or to one
    that has its seed. Of two with the same setting one thus always sees the other: who wrote last
    before its first look, or the higher number at its second.
    """
    sampler = study.sampler
    if not work.place.is_shared or not isinstance(sampler, KnobSampler) or sampler.tries is None:
        return False
    before = [
        t
        for t in live_trials(study)
        if t.number != number
        and setting_under_way(t) == values
        and (t.number < number or "seed" in t.user_attrs)
    ]
    return is_exhausted(before, sampler.tries)
