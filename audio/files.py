"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path


def file_state(path: Path) -> str:
    """Return a text that changes when a file's size or time of change does."""
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a temporary name, then rename."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
