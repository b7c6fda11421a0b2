"""Tables that corpora come with: CSV and JSON lines, with errors that name file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from audio.clips import ManifestError

Row = Mapping[str, str]


def read_table(path: Path, needed: Sequence[str]) -> list[tuple[str, Row]]:
    """Return the rows of a CSV or JSON-lines file, each with `file:line`; values as text.

    Raises:
        ManifestError: a needed column is missing or empty, or the file cannot be read.
    """
    rows: list[tuple[str, Row]] = []
    read = _json_lines if path.suffix == ".jsonl" else _csv_lines
    try:
        for where, row in read(path):
            for name in needed:
                if not row.get(name):
                    raise ManifestError(f"{where}: no value for {name}.")
            rows.append((where, row))
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason}).") from None
    if not rows:
        raise ManifestError(f"{path}: lists no clips.")
    return rows


def _csv_lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines)
        for row in table:
            yield f"{path}:{table.line_num}", {k: v for k, v in row.items() if k is not None}


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ManifestError(f"{where}: no JSON ({error}).") from None
            if not isinstance(row, dict):
                raise ManifestError(f"{where}: not an object of columns.")
            yield where, {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}


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
