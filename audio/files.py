"""Files that are there whole or not at all, and names for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def file_state(path: Path) -> str:
    """Return a text that changes when a file's size or time of change does."""
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def numbered(names: Iterable[str]) -> list[str]:
    """Return the names, each that was met before with a number behind it; capitals do not tell
    names apart, as in some file systems.

    >>> numbered(["a", "b", "A", "a-2", "a"])
    ['a', 'b', 'A-2', 'a-2-2', 'a-3']
    """
    taken: set[str] = set()
    last: dict[str, int] = {}  # number that a name was given last
    made = []
    for first in names:
        name, n = first, last.get(first.casefold(), 1)
        while name.casefold() in taken:
            n += 1
            name = f"{first}-{n}"
        last[first.casefold()] = n
        taken.add(name.casefold())
        made.append(name)
    return made


def write_atomically(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all: to a temporary name, then rename.

    Raises:
        OSError: it could not be written (a full disk, ...); names the file.
    """
    name = os.fspath(path)  # os instead of pathlib: thousands of small pictures a second
    part = name + ".part"
    try:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_all(file, data)
        finally:
            os.close(file)
        os.replace(part, name)  # noqa: PTH105
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(part).unlink()
        if error.filename is None:
            error.filename = name
        raise


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write all of `data` to a file descriptor; a nearly full disk takes some of it at first."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
