"""Workers on a Ray cluster: actors that do what `rl.workers`' processes do, on any of its nodes.

Ray places them, ends them with the search and says when one has died; the trials are in the
storage, as ever.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna

from rl.claims import Wanted, Work, worker_name
from rl.objective import Stop
from rl.storage import SearchError
from rl.studies import Phase
from rl.workers import GRACE_S, SearchInterrupted, bury_all, prepare, run_phase

START_S = 600.0
"""How long to wait for the first actor: a cluster may have to start a node for it."""


@dataclass(frozen=True)
class Nodes:
    """Where on a Ray cluster the workers run."""

    address: str
    """As `ray.init` takes it: host:port, ray://host:port, auto for the cluster that this machine
    belongs to, local for a new one of this machine alone."""
    cpus: float = 1
    """Processors that each worker takes."""
    gpus: float = 0
    """GPUs that each worker takes; a part of one lets several share it."""

    def check(self, storage: str) -> None:
        """Refuse a storage that not every node reaches.

        Raises:
            SearchError: it is a file.
        """
        if "://" not in storage or storage.startswith("sqlite"):
            raise SearchError(
                f"ray={self.address} cannot go with the study in {storage}: the locks of an SQLite "
                "file do not hold between machines, not even on a file system that they share; "
                "give a storage that every node reaches, such as postgresql://user@host/name, or "
                "grpc://host:port of Optuna's proxy before the file."
            )


class Actor:
    """A worker; Ray makes it in a process of its own on one of the nodes."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._asked = threading.Event()
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def begin(self) -> str:
        """Make everything ready for the first training; return the worker's name."""
        prepare(self.work.objective)
        return worker_name()

    def run(self, phase: Phase, wanted: Wanted) -> None:
        """Do what is left of a phase."""
        run_phase(self.work, phase, self._asked.is_set, lambda: None, wanted)

    def stop(self) -> None:
        """End the training that is under way, and begin none any more."""
        self._asked.set()


class Cluster:
    """Workers on a Ray cluster; `n` of them, 0 is as many as it has processors for.

    Raises:
        SearchError: the storage is no shared one, Ray is not installed, or there is no cluster.
    """

    def __init__(
        self, work: Work, nodes: Nodes, n: int, stop: Stop, finished: Callable[[], None]
    ) -> None:
        nodes.check(work.place.storage)
        self.work = work
        self.nodes = nodes
        self.stop = stop
        self.finished = finished
        self._ray = _connected(nodes)
        there = self._ray.cluster_resources()
        wants = {"CPU": nodes.cpus, "GPU": nodes.gpus}
        room = min(there.get(kind, 0.0) / part for kind, part in wants.items() if part > 0)
        self._n = n or max(1, int(room))
        self._left = self._n  # actors that may take the place of dead ones
        self._names: dict[Any, str] = {}
        self._beginning: dict[Any, Any] = {}
        """What `begin()` of an actor will return, and the actor."""
        for _ in range(self._n):
            self._start()

    def _start(self) -> None:
        options = {
            "num_cpus": self.nodes.cpus,
            "num_gpus": self.nodes.gpus,
            "max_concurrency": 2,  # so that `stop` is heard during a training
            "scheduling_strategy": "SPREAD",
        }
        actor = self._ray.remote(Actor).options(**options).remote(self.work)
        self._beginning[actor.begin.remote()] = actor

    def run(self, phase: Phase, wanted: Wanted = ()) -> None:
        """Have the actors do all that is left of a phase.

        Actors for which there is no room yet join when there is.

        Raises:
            SearchInterrupted: `stop()` became true.
            SearchError: an actor could not begin, or none is left.
        """
        running = {actor.run.remote(phase, wanted): actor for actor in self._names}
        began = time.monotonic()
        while running or not self._names:
            refs = [*running, *self._beginning]
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0.1)
            for ref in ready:
                actor = running.pop(ref, None)
                if actor is None:
                    actor = self._beginning.pop(ref)
                    if (name := self._result(ref, actor, phase)) is not None:
                        self._names[actor] = name
                        running[actor.run.remote(phase, wanted)] = actor
                else:
                    self._result(ref, actor, phase)
            self.finished()
            if self.stop():
                raise SearchInterrupted("the search was stopped; run it again to resume.")
            if not self._names and not self._beginning:
                raise SearchError(
                    f"{2 * self._n} workers on the cluster died, perhaps for lack of memory; give "
                    "each more of a node, then run the search again to resume."
                )
            if not self._names and time.monotonic() - began > START_S:
                raise SearchError(
                    f"no node of the Ray cluster had {self.nodes.cpus:g} CPUs and "
                    f"{self.nodes.gpus:g} GPUs free in {START_S:.0f} s; it has "
                    f"{self._ray.cluster_resources()}; ask for less."
                )

    def _result(self, ref: Any, actor: Any, phase: Phase) -> Any:
        """Return what an actor's call returned; None where the actor is dead, which is written
        down and another one started."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            if (name := self._names.pop(actor, None)) is not None:
                reason = str(error).strip().splitlines()[0]
                bury_all(self.work, phase, name, f"the worker on the cluster died: {reason}")
            if self._left > 0:
                self._left -= 1
                self._start()
            return None
        except self._ray.exceptions.RayTaskError as error:
            raise SearchError(f"a worker on the cluster ended with an error:\n{error}") from None

    def close(self) -> None:
        """End the actors, kindly at first."""
        actors = [*self._names, *self._beginning.values()]
        with suppress(Exception):  # a cluster that is gone cannot be told
            asked = [actor.stop.remote() for actor in self._names]
            self._ray.wait(asked, num_returns=len(asked), timeout=GRACE_S) if asked else None
            self._wait_for_trials()
        for actor in actors:
            with suppress(Exception):
                self._ray.kill(actor)
        self._ray.shutdown()

    def _wait_for_trials(self) -> None:
        """Wait until no actor has a training under way, but not for ever."""
        end = time.monotonic() + GRACE_S
        mine = set(self._names.values())
        studies = [self.work.study("trials"), self.work.study("finals")]
        while time.monotonic() < end:
            trials = [
                t
                for study in studies
                for t in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
            ]
            if not any(t.user_attrs.get("pid") in mine for t in trials):
                return
            time.sleep(0.2)


def _connected(nodes: Nodes) -> Any:
    """Return the module `ray`, connected to the cluster."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise SearchError(
            f"ray={nodes.address} needs the package ray; install melbandit[cluster]."
        ) from None
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = nodes.address.removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray itself would knock for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(
            address=nodes.address, namespace="melbandit", log_to_driver=False,
            logging_level=logging.ERROR, ignore_reinit_error=True,
        )  # fmt: skip
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SearchError(
            f"ray={nodes.address}: no cluster answers ({reason}); start one with `ray start "
            "--head`, or give its address."
        ) from None
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in the place of ours
    return ray
