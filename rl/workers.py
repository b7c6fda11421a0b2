"""Workers: who takes the next trial from the study, runs it and writes it back.

One worker runs in this process; more are processes of their own (spawned, never forked), or actors
on a Ray cluster (`rl.cluster`). They share nothing but the storage.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol, cast

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial, TrialState

from rl.claims import Wanted, Work, claim_final, claim_trial, worker_name
from rl.fidelity import BEGAN, BLOCK, ENDED, KILLED
from rl.objective import Job, Objective, Stop, TrialResult
from rl.overseer import Clock, Overseer
from rl.space import Setting
from rl.storage import SearchError
from rl.studies import BEAT, RETRY_OF, Heart, Phase, bury, finish_failed

GRACE_S = 30.0
"""How long a worker that was asked to stop may take before it is ended."""


class SearchInterrupted(Exception):
    """The search was asked to end; the same command resumes it."""


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


RESERVED = (
    "seed", "pid", "default", "error", BEAT, BEGAN, BLOCK, ENDED, KILLED, RETRY_OF,
    # what `rl.search` says of a trial itself
    "phase", "number", "state", "values", "score", "stopped_after", "reached",
)  # fmt: skip
"""User attributes that an objective cannot set."""


Claim = tuple[Trial, Setting, int]
"""A trial that a worker has taken, with its setting and seed."""


def run_claimed(
    study: Study, claims: Sequence[Claim], work: Work, phase: Phase, stop: Stop,
    finished: Callable[[], None],
) -> None:  # fmt: skip
    """Train with the setting of each trial, at once where there are several, and write down what
    came of them; `finished` is called whenever some have ended."""
    more = work.trial_values if phase == "trials" else {}
    clock = Clock(study, work, phase)
    overseers: list[Overseer] = []
    jobs: list[Job] = []
    left: dict[int, Trial] = {}
    for trial, values, seed in claims:
        # A trial finished by someone else: a resumed search took this worker for dead.
        with suppress(UpdateFinishedTrialError):
            if (block := block_of(work.objective, seed)) is not None:
                trial.set_user_attr(BLOCK, block)
            left[len(jobs)] = trial
            overseers.append(Overseer(trial, work, phase, clock))
            jobs.append(Job({**values, **more}, seed, overseers[-1]))
    outcomes = _outcomes(work.objective, jobs, stop)
    began = None
    for ended in outcomes:
        for i, outcome in ended.items():
            with suppress(UpdateFinishedTrialError):
                trial = left.pop(i)
                if began is not None:  # it waited for others until then
                    trial.set_user_attr(BEGAN, began)
                _write_down(study, trial, overseers[i], outcome, stop)
        began = time.time()
        finished()
        if left and (stop() or clock.is_late()):
            outcomes.close()  # what has not begun is not begun any more
    for trial in left.values():
        finish_failed(study, study._storage.get_trial(trial._trial_id), killed=True)


def _outcomes(
    objective: Objective, jobs: list[Job], stop: Stop
) -> Generator[dict[int, TrialResult | Exception], None, None]:
    """Yield what came of the jobs by their numbers: a result, or what was raised."""
    left = set(range(len(jobs)))
    if not left:
        return
    try:
        if len(jobs) == 1:
            only = jobs[0]
            yield {0: objective(only.values, only.seed, stop, only.report)}
            return
        for ended in cast("Any", objective).many(jobs, stop):
            left -= set(ended)
            yield ended
    except Exception as problem:
        yield dict.fromkeys(left, problem)


def _write_down(
    study: Study, trial: Trial, overseer: Overseer, outcome: TrialResult | Exception, stop: Stop
) -> None:
    """Tell the study what came of a trial."""
    result, error = None, ""
    if isinstance(outcome, Exception):
        error = "".join(traceback.format_exception(outcome, limit=-8))
    else:
        result = outcome
        if not math.isfinite(result.score):
            error = f"the score is {result.score}, which is no number to learn from."
    trial.set_user_attr(ENDED, time.time())
    if stop():
        trial.set_user_attr(KILLED, True)
        study.tell(trial, state=TrialState.FAIL)
        return
    if result is not None:
        kept = {**result.extra, "seconds": result.seconds, "curve": result.curve}
        for name, value in kept.items():
            if name not in RESERVED:
                trial.set_user_attr(name, plain(value))
    if error or result is None:
        trial.set_user_attr("error", error)
        study.tell(trial, state=TrialState.FAIL)
    elif overseer.is_cut:
        study.tell(trial, state=TrialState.PRUNED)  # its score is the last that was reported
    else:
        study.tell(trial, float(result.score))


def block_of(objective: Objective, seed: int) -> int | None:
    """Return which validation clips a training with this seed is scored on, where the objective
    has several sets of them."""
    method = getattr(objective, "block", None)
    return None if method is None else method(seed)


def run_phase(
    work: Work, phase: Phase, stop: Stop, finished: Callable[[], None], wanted: Wanted = ()
) -> None:
    """Run trials, or the trainings that the finals want, until none is left or `stop()` is
    true."""
    study = work.study(phase)
    several = work.settings.stack if hasattr(work.objective, "many") else 1
    while not stop():
        ids: list[int] = []
        claims: list[Claim] = []
        with Heart(study, ids, work.place.beat_s):  # while more are claimed, too
            while len(claims) < several and not stop():
                if phase == "trials":
                    claimed = claim_trial(study, work)
                else:
                    claimed = claim_final(study, work, wanted)
                if claimed is None:
                    break
                claims.append(claimed)
                ids.append(claimed[0]._trial_id)
                if RETRY_OF in claimed[0].user_attrs:
                    break  # its worker died: should it kill again, few go with it
            if not claims:
                return
            run_claimed(study, claims, work, phase, stop, finished)


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
                phase, wanted = pipe.recv()
                run_phase(work, phase, stop, lambda: None, wanted)
                pipe.send("")
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except Exception:
        with suppress(OSError):
            pipe.send(traceback.format_exc(limit=-8))


class Workers(Protocol):
    """Who does the work of a search."""

    work: Work

    def run(self, phase: Phase, wanted: Wanted = ()) -> None:
        """Do all that is left of a phase; of the finals, what is wanted."""
        ...

    def close(self) -> None:
        """End all work."""
        ...


class Here:
    """The one worker of a search without processes."""

    def __init__(self, work: Work, stop: Stop, finished: Callable[[], None]) -> None:
        self.work = work
        self.stop = stop
        self.finished = finished
        prepare(work.objective)

    def run(self, phase: Phase, wanted: Wanted = ()) -> None:
        """Do all that is left of a phase.

        Raises:
            SearchInterrupted: `stop()` became true.
        """
        run_phase(self.work, phase, self.stop, self.finished, wanted)
        if self.stop():
            raise SearchInterrupted("the search was stopped; run it again to resume.")

    def close(self) -> None:
        """Leave nothing behind."""


def bury_all(work: Work, phase: Phase, name: str, error: str) -> None:
    """Write down that a worker has ended, so that what it was training is run once more."""
    study = work.study(phase)
    with work.place.claim():  # no one is just finding the index of a trial of his
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("pid") == name:
                bury(study, trial, error)


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

    def run(self, phase: Phase, wanted: Wanted = ()) -> None:
        """Have the workers do all that is left of a phase.

        Raises:
            SearchInterrupted: `stop()` became true.
            SearchError: a worker could not start, or none is left.
        """
        busy = []
        for pipe in list(self._workers):
            try:
                pipe.send((phase, wanted))
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
        """Write down the end of a worker that was killed; its trial is run once more."""
        process = self._workers.pop(pipe)
        pipe.close()
        process.join()
        error = f"the worker process ended with exit code {process.exitcode}."
        bury_all(self.work, phase, worker_name(process.pid), error)

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
