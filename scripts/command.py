"""What every script does alike: parse, show progress, turn a user's mistakes into one line."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import tyro

from audio.settings import UserError

#: Exit codes.
DONE, FAILED, MISUSED, PARTLY = 0, 1, 2, 3

T = TypeVar("T")

_MOST_NAMED = 20  # failures shown one by one; all are in failures.csv


def parse(
    command: type[T],
    name: str,
    argv: Sequence[str] | None,
    *,
    base: Callable[[T], T] | None = None,
) -> T:
    """Return the command that the arguments describe; exits 2 with a message where they do not.

    base: given the command as parsed, returns one whose values replace the defaults; what the
    arguments say wins over both.
    """
    options: dict[str, Any] = {
        "prog": f"melbandit {name}",
        "args": list(sys.argv[1:] if argv is None else argv),
        # both --flag and --no-flag: with other defaults, in the second parse, either may be given
        "config": (tyro.conf.OmitArgPrefixes,),
    }
    parsed: T = tyro.cli(command, **options)
    if base is None:
        return parsed
    with_defaults = base(parsed)
    if with_defaults is parsed:
        return parsed
    settled: T = tyro.cli(command, default=with_defaults, **options)
    return settled


def check_least(flag: str, value: float | None, least: float) -> None:
    """Hold an option's value, None where it was not given, to be at least `least`.

    Raises:
        UserError: it is below.
    """
    if value is not None and value < least:
        raise UserError(f"{flag} {value} is below its least value {least}; raise it.")


def run(
    work: Callable[[], int], *, stopped: str = "stopped; the same command goes on from here."
) -> int:
    """Return the work's exit code; a user's mistake is one line on stderr and code 1.

    stopped: what to say at Ctrl-C.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return work()
    except UserError as error:
        return _say_failed(str(error))
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _say_failed(f"{what}{error.strerror or error}.")
    except FloatingPointError as error:
        return _say_failed(str(error))
    except KeyboardInterrupt:
        say(stopped)
        return 130
    except Exception as error:
        if type(error).__module__.split(".")[0] == "rl":  # made for users; a bug's are Python's
            return _say_failed(str(error))
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_failed(message: str) -> int:
    say(message)
    return FAILED


def say(message: str) -> None:
    """Write one line to stderr."""
    print(f"melbandit: {message}", file=sys.stderr, flush=True)


def say_failures(failures: Sequence[tuple[str, str]], *, listed_in: str = "failures.csv") -> None:
    """Write a line for each clip that cannot be used."""
    for path, reason in failures[:_MOST_NAMED]:
        say(f"cannot use {path}: {reason}")
    if len(failures) > _MOST_NAMED:
        say(f"... and {len(failures) - _MOST_NAMED} more: see {listed_in}.")


def print_result(result: dict[str, Any]) -> None:
    """Write the machine-readable last line of stdout."""
    print(json.dumps(result, ensure_ascii=False))


@contextmanager
def progress(
    title: str, unit: str = "clips", *, threaded: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Give a function (done, of) that draws a bar on stderr, with rate and time left.

    threaded: the bar is drawn again, by a thread of its own, while nothing is told to it.
    Where stderr is no terminal, a line is written at every tenth instead.
    """
    if not sys.stderr.isatty():
        last = -1
        first: tuple[int, float] | None = None

        def lines(done: int, of: int) -> None:
            nonlocal last, first
            first = first or (done, time.monotonic())
            tenth = 10 * done // max(of, 1)
            if tenth > last:
                last = tenth
                pace = _pace(done - first[0], of - done, time.monotonic() - first[1], unit)
                print(f"{title}: {done} of {of} {unit}{pace}", file=sys.stderr, flush=True)

        yield lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, auto_refresh=threaded) as bar:
        task = bar.add_task(title, total=None, rate="")
        drawn = 0.0

        def draw(done: int, of: int) -> None:
            speed = bar.tasks[task].speed
            rate = f"{speed:.0f} {unit}/s" if speed else ""
            bar.update(task, completed=done, total=of, rate=rate)
            nonlocal drawn
            if not threaded and (done == of or time.monotonic() - drawn > 0.1):
                drawn = time.monotonic()
                bar.refresh()

        yield draw


def _pace(done: int, left: int, seconds: float, unit: str) -> str:
    """Return `, 512 clips/s, 3 s left`, or nothing where that is not known or not needed.

    >>> _pace(100, 900, 2.0, "clips"), _pace(100, 0, 2.0, "clips"), _pace(0, 9, 0.0, "clips")
    (', 50 clips/s, 18 s left', ', 50 clips/s', '')
    """
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    told = f", {rate:.0f} {unit}/s" if rate >= 10 else f", {rate:.2g} {unit}/s"
    if not left:
        return told
    minutes, rest = divmod(round(left / rate), 60)
    return told + (f", {minutes} min {rest} s left" if minutes else f", {rest} s left")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object.

    Raises:
        UserError: it is missing or no JSON; names the file.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}).") from None
    return value
