"""The studies of a search: where they are kept, and what becomes of trials that no one finishes.

A search has two, `trials` and `finals`, in one Optuna storage: an SQLite file on one machine, or a
database or Optuna's gRPC proxy that several machines share. A trial whose worker died is run once
more with the same seed; it counts once.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from rl.fidelity import DIED, ENDED, KILLED, span_s
from rl.space import Value
from rl.storage import open_storage, without_password

BEAT = "beat"
"""User attribute of a running trial: a count that its worker raises every few seconds."""
RETRY_OF = "retry_of"
"""User attribute of a trial that is run again: the number of the one whose worker died."""

_LEAST_LOOKS = 3

Phase = Literal["trials", "finals"]


@dataclass(frozen=True)
class Place:
    """Where a search keeps its studies; picklable."""

    storage: str
    """Path of an SQLite file, or the address of a storage that machines share."""
    name: str = ""
    """Tells searches in one shared storage apart."""
    beat_s: float = 5.0
    """How often a worker shows that it is alive."""
    dead_s: float = 45.0
    """A worker elsewhere that has not shown it for so long is taken for dead."""

    @property
    def is_shared(self) -> bool:
        """Whether other machines may be at work on it, so that no file's lock says who is."""
        return "://" in self.storage

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.storage)

    def __str__(self) -> str:
        """Return it for messages, without a password."""
        if not self.is_shared:
            return self.storage
        return f"{without_password(self.storage)} ({self.name})"

    def open(
        self,
        phase: Phase | Literal["log"],
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        storage: optuna.storages.BaseStorage | None = None,
    ) -> Study:
        """Return the study of a phase, made where it is not there yet.

        Args:
            storage: where it is open already, so that no further connections are needed.

        Raises:
            SearchError: the storage cannot be reached, or a package for it is missing.
        """
        return optuna.create_study(
            storage=storage or open_storage(self.storage),
            study_name=f"{self.name}/{phase}" if self.is_shared else phase,
            direction="maximize",
            sampler=sampler or optuna.samplers.RandomSampler(seed=0),
            pruner=pruner or NopPruner(),
            load_if_exists=True,
        )

    def settle(
        self, key: str, value: Any, storage: optuna.storages.BaseStorage | None = None
    ) -> Any:
        """Return what is settled under a key: the value of whoever came first, JSON-ready.

        What machines decide each for itself may differ, in the last digit of a sum or because one
        looked a moment earlier; so that all go on alike, the first decision holds for all. A file
        has one search at a time, so there `value` holds.
        """
        if not self.is_shared:
            return value
        log = self.open("log", storage=storage)
        while True:
            for entry in log.get_trials(deepcopy=False):
                if entry.user_attrs.get("key") == key:
                    return entry.user_attrs["value"]
            attrs = {"key": key, "value": value}
            # entries are numbered in one step, so that there is a first one
            log.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attrs))

    def claim(self) -> Any:
        """Return a context that only one worker can be in; elsewhere than in a file, one that all
        can, and who claims looks again afterwards."""
        return nullcontext() if self.is_shared else one_at_a_time(self.path)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log to errors for a while."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the file beside the study that only one worker can hold."""
    with path.with_name(path.name + ".claim").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_killed(trial: FrozenTrial) -> bool:
    """Return whether the trial was interrupted and does not count."""
    return KILLED in trial.user_attrs


def live_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that count."""
    return [t for t in study.get_trials(deepcopy=False) if not is_killed(t)]


def spent_s(trials: Sequence[FrozenTrial]) -> float:
    """Return the time during which at least one of the trials ran, in seconds.

    Killed trials are left out: when they ended is not known.
    """
    total, reached = 0.0, 0.0
    for start, end in sorted(_spans(trials)):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total


def training_s(trials: Sequence[FrozenTrial]) -> float:
    """Return the time that the trials ran, added up, in seconds; killed ones left out."""
    return sum(end - start for start, end in _spans(trials))


def _spans(trials: Sequence[FrozenTrial]) -> list[tuple[float, float]]:
    spans = (span_s(t) for t in trials if t.state != TrialState.WAITING and not is_killed(t))
    return [span for span in spans if span is not None]


def finish_failed(study: Study, trial: FrozenTrial, **attrs: Value) -> None:
    """Mark a trial that no one works on as failed, with these user attributes.

    Where it was finished meanwhile, nothing is done.
    """
    with suppress(UpdateFinishedTrialError):
        for name, value in attrs.items():
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        study._storage.set_trial_user_attr(trial._trial_id, ENDED, time.time())
        study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)


def bury(study: Study, trial: FrozenTrial, error: str) -> None:
    """Write down the end of a trial whose worker died: it is run once more, with its seed, and
    counts once; the second time it failed."""
    attrs = trial.user_attrs
    if RETRY_OF in attrs:
        finish_failed(study, trial, error=error)
    elif "seed" in attrs:
        # one attribute says all, and says it first: where the trial was finished meanwhile, it
        # either cannot be written and the trial stands, or it can and the trial is run again
        finish_failed(study, trial, killed=DIED, error=error)
    else:  # the worker died before it trained: nothing has to be the same again
        finish_failed(study, trial, killed=True)


class Heart:
    """Raises running trials' counts until it is stopped: `with Heart(study, ids, beat_s): ...`. To
    `ids` more may be added meanwhile."""

    def __init__(self, study: Study, trial_ids: Sequence[int], beat_s: float) -> None:
        self._study, self._trial_ids, self._beat_s = study, trial_ids, beat_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(self._beat_s):
            count += 1
            for trial_id in list(self._trial_ids):
                if self._over.is_set():
                    return
                with suppress(Exception):  # finished meanwhile, or a storage out of reach for once
                    self._study._storage.set_trial_user_attr(trial_id, BEAT, count)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Pulse:
    """Watches the counts of trials that run elsewhere, by this machine's clock alone."""

    def __init__(self, dead_s: float) -> None:
        self.dead_s = dead_s
        self._seen: dict[int, tuple[Any, float, int]] = {}

    def dead(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the running trials whose count has stood still for too long.

        Several looks must agree: after a while in which the storage was out of reach for all, the
        first finds every count where it was.
        """
        now = time.monotonic()
        stopped = []
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            beat = trial.user_attrs.get(BEAT, 0)
            last, since, n_looks = self._seen.get(trial.number, (None, now, 0))
            if beat != last:
                since, n_looks = now, 0
            self._seen[trial.number] = beat, since, n_looks + 1
            if now - since > self.dead_s and n_looks >= _LEAST_LOOKS:
                stopped.append(trial)
        return stopped
