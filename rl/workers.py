"""Workers: who takes the next trial from the study, runs it and writes it back.

One worker runs in this process; more are processes of their own (spawned, never
forked). They share nothing but the storage. In a file a trial is taken under a
lock, which the system releases even if the worker is killed.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rl.budget import SearchSettings
from rl.fidelity import KILLED, make_pruner
from rl.objective import Objective, Stop
from rl.samplers import Earlier, Reader, make_sampler, trial_index
from rl.space import SearchSpace, Setting
from rl.studies import (
    Heart,
    Phase,
    Place,
    SearchError,
    bury,
    is_double,
    is_killed,
    spent_s,
    training_s,
)

MAX_FIRST_FAILURES = 5
"""So many failures before any success say that something else than the settings is wrong."""
GRACE_S = 30.0
"""How long a worker that was asked to stop may take before it is ended."""


class SearchInterrupted(Exception):
    """The search was asked to end; the same command resumes it."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know; picklable."""

    space: SearchSpace
    objective: Objective
    place: Place
    settings: SearchSettings
    seed: int = 0
    first_number: int = 0
    """Number of this session's first trial."""
    earlier: Earlier = ()
    """What earlier studies of the space found: settings and their scores, a list for each."""
    trial_values: Mapping[str, Any] = field(default_factory=dict)
    """What a trial is trained with beside its choices, and the finals are not."""

    def study(self, phase: Phase) -> Study:
        """Return the study of the trials or of the finals."""
        if phase == "finals":
            return self.place.open(phase)
        settings = self.settings
        sampler = make_sampler(
            settings.agent, self.space, self.seed, earlier=self.earlier,
            cost_aware=settings.cost_aware,
        )  # fmt: skip
        return self.place.open(phase, sampler, make_pruner(settings.pruner, self.n_epochs))

    @property
    def n_epochs(self) -> int:
        """Epochs of a whole trial."""
        return self.settings.trial_epochs or self.objective.epochs


def trial_seed(seed: int, index: int) -> int:
    """Return the training seed of trial `index`: an even number below 2^31."""
    return int(np.random.default_rng([seed, index, 1]).integers(2**30)) * 2


def final_seeds(seed: int, n: int) -> tuple[int, ...]:
    """Return the training seeds of the finals: odd numbers, so no trial ever had one."""
    drawn: list[int] = []
    rng = np.random.default_rng([seed, 2])
    while len(drawn) < n:
        fresh = int(rng.integers(2**30)) * 2 + 1
        if fresh not in drawn:
            drawn.append(fresh)
    return tuple(drawn)


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
    ended = [t for t in trials if t.duration and t.intermediate_values and not is_killed(t)]
    n_epochs = sum(len(t.intermediate_values) for t in ended)
    return sum(t.duration.total_seconds() for t in ended if t.duration) / max(n_epochs, 1)


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
    waiting = len(live) > len(started)
    return waiting or len(Reader(work.space).tried(started)) < work.space.size()


def claim_trial(study: Study, work: Work) -> tuple[Trial, Setting, int] | None:
    """Return the next trial with its setting and seed, or None where the trials are over."""
    while True:
        with work.place.claim():
            trials = study.get_trials(deepcopy=False)
            if not may_start(work, trials):
                return None
            trial = study.ask()
            trial.set_user_attr("pid", worker_name())
            if _is_surplus(study, work, trial):
                study.tell(trial, state=TrialState.FAIL)
                continue
            values: Setting = {}
            while (knob := work.space.next_knob(values)) is not None:
                values[knob.name] = trial.suggest_categorical(knob.name, knob.values)
            trials = study.get_trials(deepcopy=False)
            fresh = trial_seed(work.seed, trial_index(trials, trial.number))
            seed = int(trial.user_attrs.get("seed", fresh))  # one that is run again has its own
            trial.set_user_attr("seed", seed)
            return trial, values, seed


def _is_surplus(study: Study, work: Work, trial: Trial) -> bool:
    """Return whether the trial must not be run, having marked it so: without a lock two machines
    may take the last trial at once, or queue the same one."""
    if not work.place.is_shared:
        return False
    trials = study.get_trials(deepcopy=False)
    mine = trials[trial.number]
    most = work.settings.most_trials
    before = [t for t in trials[: trial.number] if not is_killed(t)]
    too_many = most is not None and len(before) >= most
    if too_many or is_double(trials, mine):
        trial.set_user_attr(KILLED, True)
        return True
    return False


def claim_final(study: Study, work: Work) -> tuple[Trial, Setting, int] | None:
    """Return the next training of the finals, or None where none is left."""
    while True:
        with work.place.claim():
            if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                return None
            trial = study.ask()
            is_empty = "values" not in trial.user_attrs  # another machine took the last one
            trials = study.get_trials(deepcopy=False)
            if is_empty or is_double(trials, trials[trial.number]):
                trial.set_user_attr(KILLED, True)
                study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr("pid", worker_name())
            return trial, trial.user_attrs["values"], trial.user_attrs["seed"]


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: NaN and infinities as None, the unknown as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


class Overseer:
    """Hears a trial's score after each epoch and says whether it ends there."""

    def __init__(self, study: Study, trial: Trial, work: Work, phase: Phase) -> None:
        self.study, self.trial, self.work, self.phase = study, trial, work, phase
        self.epoch = 0
        self.is_cut = False
        """The training was ended before it was whole."""

    def __call__(self, score: float) -> bool:
        self.epoch += 1
        if self.phase == "finals":
            return False
        if math.isfinite(score):
            self.trial.report(score, self.epoch)
        if self.epoch >= self.work.n_epochs:
            return False
        if self.epoch == self.work.settings.stop_epoch:
            return True  # as far as a trial goes: it is whole
        trials = self.study.get_trials(deepcopy=False)
        # without one whole training there is nothing to recommend, nor to tell by what a part is
        # worth
        is_late = over_budget(self.work, trials) and any(
            t.state == TrialState.COMPLETE for t in trials
        )
        self.is_cut = is_late or self.trial.should_prune()
        return self.is_cut


def run_one(study: Study, trial: Trial, values: Setting, seed: int, work: Work, phase: Phase,
            stop: Stop) -> None:  # fmt: skip
    """Train with one setting and write down what came of it."""
    result, error = None, ""
    overseer = Overseer(study, trial, work, phase)
    given = {**values, **(work.trial_values if phase == "trials" else {})}
    try:
        with Heart(study, trial._trial_id):
            result = work.objective(given, seed, stop, overseer)
        if not math.isfinite(result.score):
            error = f"the score is {result.score}, which is no number to learn from."
    except Exception as problem:
        error = "".join(traceback.format_exception(problem, limit=-8))
    if stop():
        trial.set_user_attr(KILLED, True)
        study.tell(trial, state=TrialState.FAIL)
        return
    if result is not None:
        kept = {**result.extra, "seconds": result.seconds, "curve": result.curve}
        for name, value in kept.items():
            if name not in ("seed", "pid", "default", "error", "values", KILLED):
                trial.set_user_attr(name, plain(value))
    if error or result is None:
        trial.set_user_attr("error", error)
        study.tell(trial, state=TrialState.FAIL)
    elif overseer.is_cut:
        study.tell(trial, state=TrialState.PRUNED)  # its score is the last that was reported
    else:
        study.tell(trial, float(result.score))


def run_phase(work: Work, phase: Phase, stop: Stop, finished: Callable[[], None]) -> None:
    """Run trials, or trainings of the finals, until none is left or `stop()` is true."""
    study = work.study(phase)
    claim = claim_trial if phase == "trials" else claim_final
    while not stop() and (claimed := claim(study, work)) is not None:
        trial, values, seed = claimed
        # A trial finished by someone else: a resumed search took this worker for dead.
        with suppress(UpdateFinishedTrialError):
            run_one(study, trial, values, seed, work, phase, stop)
        finished()


def prepare(objective: Objective) -> None:
    """Call the objective's `prepare`, where it has one."""
    if (method := getattr(objective, "prepare", None)) is not None:
        method()


def _worker(work: Work, pipe: Connection, parent: int) -> None:
    """Body of a worker's process: do the phases that the parent names, one after another."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent passes it on

    def stop() -> bool:
        return asked.is_set() or os.getppid() != parent

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        prepare(work.objective)
        while not stop():
            if pipe.poll(0.1):
                run_phase(work, pipe.recv(), stop, lambda: None)
                pipe.send("")
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except Exception:
        with suppress(OSError):
            pipe.send(traceback.format_exc(limit=-8))


class Here:
    """The one worker of a search without processes."""

    def __init__(self, work: Work, stop: Stop, finished: Callable[[], None]) -> None:
        self.work = work
        self.stop = stop
        self.finished = finished
        prepare(work.objective)

    def run(self, phase: Phase) -> None:
        """Do all that is left of a phase.

        Raises:
            SearchInterrupted: `stop()` became true.
        """
        run_phase(self.work, phase, self.stop, self.finished)
        if self.stop():
            raise SearchInterrupted("the search was stopped; run it again to resume.")

    def close(self) -> None:
        """Leave nothing behind."""


class Pool:
    """Workers in processes of their own."""

    def __init__(self, work: Work, n: int, stop: Stop, finished: Callable[[], None]) -> None:
        self.work = work
        self.stop = stop
        self.finished = finished
        self._workers: dict[Connection, SpawnProcess] = {}
        context = multiprocessing.get_context("spawn")
        for _ in range(n):
            mine, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(work, theirs, os.getpid()), daemon=True)
            process.start()
            theirs.close()  # so that a worker's end reads as the end of its pipe
            self._workers[mine] = process

    def run(self, phase: Phase) -> None:
        """Have the workers do all that is left of a phase.

        Raises:
            SearchInterrupted: `stop()` became true.
            SearchError: a worker could not start, or none is left.
        """
        busy = []
        for pipe in list(self._workers):
            try:
                pipe.send(phase)
                busy.append(pipe)
            except OSError:
                self._bury(pipe, phase)
        while busy:
            for ready in wait(busy, timeout=0.1):
                pipe = cast("Connection", ready)
                busy.remove(pipe)
                try:
                    if problem := pipe.recv():
                        raise SearchError(f"a worker ended with an error:\n{problem}")
                except (EOFError, ConnectionResetError):
                    self._bury(pipe, phase)
            self.finished()
            if self.stop():
                raise SearchInterrupted("the search was stopped; run it again to resume.")
        if not self._workers:
            raise SearchError(
                "every worker process was ended from outside, perhaps for lack of memory; "
                "give fewer workers, then run the search again to resume."
            )

    def _bury(self, pipe: Connection, phase: Phase) -> None:
        """Write down the end of a worker that was killed, and queue its trial once more."""
        process = self._workers.pop(pipe)
        pipe.close()
        process.join()
        study = self.work.study(phase)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("pid") == worker_name(process.pid):
                bury(study, trial, f"the worker process ended with exit code {process.exitcode}.")

    def close(self) -> None:
        """End the workers, kindly at first."""
        for process in self._workers.values():
            process.terminate()  # SIGTERM: `stop()` is true from now on
        for pipe, process in self._workers.items():
            process.join(GRACE_S)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
