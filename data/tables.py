"""Tables that corpora come with: CSV and JSON lines, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from audio.tables import ManifestError, read_csv_rows, read_text

Row = Mapping[str, str]


def read_table(path: Path, needed: Sequence[str]) -> list[tuple[str, Row]]:
    """Return the rows of a CSV or JSON-lines file, each with `file:line`; values as text.

    Raises:
        ManifestError: a needed column is missing or empty, or the file cannot be read.
    """
    rows: list[tuple[str, Row]] = []
    for where, row in _json_lines(path) if path.suffix == ".jsonl" else read_csv_rows(path)[1]:
        for name in needed:
            if not row.get(name):
                raise ManifestError(f"{where}: no value for {name}.")
        rows.append((where, row))
    if not rows:
        raise ManifestError(f"{path}: lists no clips.")
    return rows


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ManifestError(f"{where}: no JSON ({error}).") from None
        if not isinstance(row, dict):
            raise ManifestError(f"{where}: not an object of columns.")
        known = {k: v for k, v in row.items() if v is not None}  # null: not there
        yield where, {k: v if isinstance(v, str) else json.dumps(v) for k, v in known.items()}


def find_folder(root: Path, holds: Callable[[Path], bool], *, depth: int = 3) -> Path | None:
    """Return the first folder, `root` or at most `depth` below it, that `holds` is true of."""
    level = [root] if root.is_dir() else []
    for _ in range(depth + 1):
        for folder in level:
            if holds(folder):
                return folder
        level = [
            below
            for folder in level
            for below in sorted(folder.iterdir())
            if below.is_dir() and not below.name.endswith(".part")
        ]
    return None
