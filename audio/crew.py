"""Work on many things at once: by threads, or by processes forked from this one.

Threads share what they have and start in no time, but Python runs one of them at a time: where the
work is many short calls (clips of a second), two threads do no more than one. Processes do. They
are forked, so that nothing is imported again and nothing has to be picklable but the results; that
is safe only where nothing else runs yet, which `can_fork` asks.
"""

from __future__ import annotations

import concurrent.futures as futures
import ctypes
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from audio.settings import UserError

Share = TypeVar("Share")
Result = TypeVar("Result")
Work = Callable[[Share], Iterator[Result]]

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_fork() -> bool:
    """Return whether this process may be forked to go on working in the copies.

    Another thread's lock would stay locked in a copy for ever, and torch keeps threads that are
    not Python's. macOS's own libraries do not stand it either.
    """
    return (
        sys.platform.startswith("linux")
        and threading.active_count() == 1
        and "torch" not in sys.modules
    )


def by_threads(
    shares: Iterator[Share], work: Work[Share, Result], workers: int
) -> Iterator[Result]:
    """Yield what `work(share)` yields, as threads come to it; the first error ends all and is
    raised."""
    if workers <= 1:
        for share in shares:
            yield from work(share)
        return
    lock, stop = threading.Lock(), threading.Event()
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    end: Any = object()

    def run() -> None:
        try:
            while not stop.is_set():
                with lock:
                    share = next(shares, end)
                if share is end:
                    break
                for result in work(share):
                    done.put((result, None))
                    if stop.is_set():
                        break
        except BaseException as error:
            done.put((None, error))
        done.put((end, None))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        n_ended = 0
        while n_ended < workers:
            result, error = done.get()
            if error is not None:
                raise error
            if result is end:
                n_ended += 1
            else:
                yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


_work: Any = None  # in a forked process: what it does


def by_processes(
    shares: Sequence[Share], work: Work[Share, Result], workers: int
) -> Iterator[Result]:
    """Yield what `work(share)` yields, as forked processes come to it; the first error ends all,
    once the shares in work are done, and is raised.

    Call it only where `can_fork()`.

    Raises:
        UserError: a process was killed.
    """
    context = multiprocessing.get_context("fork")
    pool = futures.ProcessPoolExecutor(workers, context, _begin, (work, os.getpid()))
    try:
        todo = iter(shares)
        # one more than are at work, so that none waits, and no more, so that an end comes soon
        waiting = {pool.submit(_do, share) for share in islice(todo, workers + 1)}
        while waiting:
            done, waiting = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
            for future in done:
                yield from future.result()
            waiting |= {pool.submit(_do, share) for share in islice(todo, len(done))}
    except BrokenProcessPool:
        raise UserError(
            "a process of the crew was killed, perhaps for want of memory. What is written is "
            "whole; give the same command again, with fewer --workers."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: Any, parent: int) -> None:
    """Make ready a process that was just forked."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # else a killed parent would leave its processes waiting for ever
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _do(share: Any) -> list[Any]:
    return list(_work(share))
