"""Workers: who takes the next trial from the study's file, runs it and writes it back.

One worker runs in this process; more are processes of their own (spawned, never
forked). They share nothing but the SQLite file: a trial is taken under a file
lock, which the system releases even if the worker is killed.
"""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rl.budget import AgentName
from rl.samplers import KILLED, Reader, make_sampler, trial_index
from rl.space import SearchSpace, Setting, Value

MAX_FIRST_FAILURES = 5
"""So many failures before any success say that something else than the settings is wrong."""
GRACE_S = 30.0
"""How long a worker that was asked to stop may take before it is ended."""

Phase = Literal["trials", "finals"]
Stop = Callable[[], bool]


class SearchError(Exception):
    """The search cannot start or go on; the message says why and what to do."""


class SearchInterrupted(Exception):
    """The search was asked to end; the same command resumes it."""


class Stopped(Exception):
    """Raised by an objective that gives up because `stop()` became true."""


@dataclass(frozen=True)
class TrialResult:
    """What training with one setting brought."""

    score: float
    """The reward, larger is better; measured on validation data."""
    seconds: float
    """Time it took."""
    curve: list[float] = field(default_factory=list)
    """The score after each epoch."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping, JSON-ready."""


class Objective(Protocol):
    """Trains with a setting. It must be picklable; a method `prepare()`, where it has one, is
    called once in each worker's process, before the first training."""

    def __call__(self, values: Setting, seed: int, stop: Stop) -> TrialResult:
        """Return the score of `values`; give up soon (return, or raise `Stopped`) once `stop()`
        is true: what it returns after that is thrown away."""
        ...


@dataclass(frozen=True)
class Work:
    """What a worker needs to know; picklable."""

    space: SearchSpace
    objective: Objective
    path: Path
    agent: AgentName
    seed: int
    trials: int | None
    minutes: float | None
    first_number: int
    """Number of this session's first trial."""

    def study(self, phase: Phase) -> Study:
        """Return the study of the trials or of the finals."""
        sampler: BaseSampler = RandomSampler(seed=0)
        if phase == "trials":
            sampler = make_sampler(self.agent, self.space, self.seed)
        return open_study(self.path, phase, sampler)


def open_study(path: Path, name: Phase, sampler: BaseSampler | None = None) -> Study:
    """Return the study called `name` in the SQLite file, made where it is not there yet."""
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        sampler=sampler,
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


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


def is_killed(trial: FrozenTrial) -> bool:
    """Return whether the trial was interrupted and does not count."""
    return KILLED in trial.user_attrs


def spent_s(trials: Sequence[FrozenTrial]) -> float:
    """Return the time during which at least one of the trials ran, in seconds.

    Killed trials are left out: when they ended is not known.
    """
    spans = sorted(
        (t.datetime_start, t.datetime_complete or datetime.now())
        for t in trials
        if t.datetime_start is not None and not is_killed(t)
    )
    total, reached = 0.0, datetime.min
    for start, end in spans:
        if end > reached:
            total += (end - max(start, reached)).total_seconds()
            reached = end
    return total


def may_start(work: Work, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether the budget, the space and the trials so far leave room for one more."""
    live = [t for t in trials if not is_killed(t)]
    started = [t for t in live if t.state != TrialState.WAITING]
    done = [t for t in started if t.state == TrialState.COMPLETE]
    if work.trials is not None and len(started) >= work.trials:
        return False
    failed = [t for t in started if t.state == TrialState.FAIL and t.number >= work.first_number]
    if not done and len(failed) >= MAX_FIRST_FAILURES:
        return False
    if work.minutes is not None and done:
        typical_s = sum(t.duration.total_seconds() for t in done if t.duration) / len(done)
        if spent_s(started) + typical_s > 60 * work.minutes:
            return False
    waiting = len(live) > len(started)
    return waiting or len(Reader(work.space).tried(started)) < work.space.size()


def claim_trial(study: Study, work: Work) -> tuple[Trial, Setting, int] | None:
    """Return the next trial with its setting and seed, or None where the trials are over."""
    with one_at_a_time(work.path):
        trials = study.get_trials(deepcopy=False)
        if not may_start(work, trials):
            return None
        trial = study.ask()
        trial.set_user_attr("pid", os.getpid())
        values: Setting = {}
        while (knob := work.space.next_knob(values)) is not None:
            values[knob.name] = trial.suggest_categorical(knob.name, knob.values)
        seed = trial_seed(work.seed, trial_index(trials, trial.number))
        trial.set_user_attr("seed", seed)
        return trial, values, seed


def claim_final(study: Study, work: Work) -> tuple[Trial, Setting, int] | None:
    """Return the next training of the finals, or None where none is left."""
    with one_at_a_time(work.path):
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        trial = study.ask()
        trial.set_user_attr("pid", os.getpid())
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


def run_one(study: Study, trial: Trial, values: Setting, seed: int, objective: Objective,
            stop: Stop) -> None:  # fmt: skip
    """Train with one setting and write down what came of it."""
    result, error = None, ""
    try:
        result = objective(dict(values), seed, stop)
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
            run_one(study, trial, values, seed, work.objective, stop)
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
        """Write down the end of a worker that was killed, and of its trial."""
        process = self._workers.pop(pipe)
        pipe.close()
        process.join()
        study = self.work.study(phase)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("pid") == process.pid:
                error = f"the worker process ended with exit code {process.exitcode}."
                finish_failed(study, trial, error=error)

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


def finish_failed(study: Study, trial: FrozenTrial, **attrs: Value) -> None:
    """Mark a trial that no one works on as failed, with these user attributes."""
    for name, value in attrs.items():
        study._storage.set_trial_user_attr(trial._trial_id, name, value)
    study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
