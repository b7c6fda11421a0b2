"""Timing side by side: the contenders take turns, so that a noisy machine is noisy for all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def shared_data(name: str) -> Path | None:
    """Return a folder of ../shared/data (or $MELBANDIT_SHARED/data), or None where it is not."""
    root = Path(os.environ.get("MELBANDIT_SHARED", Path(__file__).parents[2] / "shared"))
    return root / "data" / name if (root / "data" / name).is_dir() else None


def high_water_mib(pid: str = "self") -> float:
    """Return the most memory that a process has had so far, in MiB; 0 where it cannot be known."""
    # not getrusage: its maximum outlives the exec, so that it would be the parent's
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def race(
    contenders: Mapping[str, Callable[[], None]],
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return each contender's median seconds over the rounds, in turns, after one to warm up.

    clock: time.process_time counts seconds of a core, which a busy machine disturbs less.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds + 1):
        for name, work in contenders.items():
            started = clock()
            work()
            if k:
                taken[name].append(clock() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def print_race(title: str, seconds: Mapping[str, float], n: int, unit: str) -> None:
    """Print units per second, and how many times the first contender's rate is of each."""
    print(f"\n{title}")
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"  {name:<44} {n / value:10,.0f} {unit}/s   first is {value / first:5.1f} x")
