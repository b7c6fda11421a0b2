"""Predictions as text, row by row: a table, CSV, JSON lines, Audacity labels, Raven selections."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

RowKind = Literal["files", "windows", "events"]
FormatName = Literal["table", "csv", "jsonl", "audacity", "raven"]

#: What a file of each format is called after its recording.
SUFFIXES = {
    "table": ".txt",
    "csv": ".csv",
    "jsonl": ".jsonl",
    "audacity": ".labels.txt",
    "raven": ".selections.txt",
}


@dataclass(frozen=True)
class Row:
    """One label of a file, a window or an event.

    rank: 1 is the likeliest. probabilities: of every label, where it is not an event.
    mean_probability, windows: of an event. offset_s: length of the files before this one.
    """

    path: str
    start_s: float
    end_s: float
    label: str
    probability: float
    rank: int = 1
    probabilities: Sequence[float] = ()
    mean_probability: float | None = None
    windows: int = 1
    offset_s: float = 0.0


@dataclass(frozen=True)
class About:
    """What the rows are of.

    kind: what a row is. labels: the model's. f_min_hz, f_max_hz: what it hears.
    paths: of the recordings.
    """

    kind: RowKind
    labels: tuple[str, ...]
    f_min_hz: float
    f_max_hz: float
    paths: tuple[str, ...] = ()


class Format(Protocol):
    """How rows are written."""

    def head(self) -> str:
        """Return what comes before the first row."""

    def line(self, row: Row) -> str:
        """Return a row, with its line end."""


class TableFormat:
    """Columns to read, of widths that are known before the first row."""

    def __init__(self, about: About) -> None:
        self._path = max([4, *(len(path) for path in about.paths)])
        self._label = max([5, *(len(label) for label in about.labels)])

    def head(self) -> str:
        return self._columns("file", "from", "to", "label", "probability")

    def line(self, row: Row) -> str:
        span = f"{row.start_s:.2f}", f"{row.end_s:.2f}"
        return self._columns(row.path, *span, row.label, f"{row.probability:.3f}")

    def _columns(self, path: str, start: str, end: str, label: str, probability: str) -> str:
        return (
            f"{_one_line(path):<{self._path}}  {start:>9}  {end:>9}  "
            f"{_one_line(label):<{self._label}}  {probability:>11}\n"
        )


class CsvFormat:
    """CSV; of files and windows with every class's probability in a column of its own."""

    def __init__(self, about: About) -> None:
        self._events = about.kind == "events"
        fixed = ["path", "start_s", "end_s", "rank", "label", "probability"]
        if self._events:
            fixed[3:4] = []
            self._names = [*fixed, "mean_probability", "windows"]
        else:
            # a class may be called as a column is
            mine = [f"{x} (class)" if x in fixed else x for x in about.labels]
            self._names = [*fixed, *mine]

    def head(self) -> str:
        return _csv_line(self._names)

    def line(self, row: Row) -> str:
        where = [row.path, f"{row.start_s:.3f}", f"{row.end_s:.3f}"]
        what = [row.label, f"{row.probability:.6f}"]
        if self._events:
            return _csv_line([*where, *what, f"{row.mean_probability:.6f}", row.windows])
        return _csv_line([*where, row.rank, *what, *(f"{p:.6f}" for p in row.probabilities)])


class JsonFormat:
    """A JSON object a line."""

    def __init__(self, about: About) -> None:
        self._about = about

    def head(self) -> str:
        return ""

    def line(self, row: Row) -> str:
        told: dict[str, Any] = {"path": row.path, "start_s": row.start_s, "end_s": row.end_s}
        if self._about.kind != "events":
            told["rank"] = row.rank
        told |= {"label": row.label, "probability": row.probability}
        if self._about.kind == "events":
            told |= {"mean_probability": row.mean_probability, "windows": row.windows}
        else:
            shares = map(float, row.probabilities)
            told["probabilities"] = dict(zip(self._about.labels, shares, strict=True))
        return json.dumps(told, ensure_ascii=False) + "\n"


class AudacityFormat:
    """A label track: start, end and label between tabs (File > Import > Labels)."""

    def __init__(self, about: About) -> None:
        del about

    def head(self) -> str:
        return ""

    def line(self, row: Row) -> str:
        return f"{row.start_s:.6f}\t{row.end_s:.6f}\t{_one_line(row.label)}\n"


class RavenFormat:
    """A Raven selection table. Of several files, times count from the start of the first, as Raven
    shows them when it opens the files one after the other."""

    def __init__(self, about: About) -> None:
        self._about = about
        self._n = 0

    def head(self) -> str:
        names = ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)"]
        names += ["High Freq (Hz)", "Label", "Probability", "Begin Path", "File Offset (s)"]
        return "\t".join(names) + "\n"

    def line(self, row: Row) -> str:
        self._n += 1
        cells = [str(self._n), "Spectrogram 1", "1"]
        cells += [f"{row.offset_s + row.start_s:.6f}", f"{row.offset_s + row.end_s:.6f}"]
        cells += [f"{self._about.f_min_hz:.1f}", f"{self._about.f_max_hz:.1f}"]
        cells += [_one_line(row.label), f"{row.probability:.4f}", _one_line(row.path)]
        cells.append(f"{row.start_s:.6f}")
        return "\t".join(cells) + "\n"


FORMATS: dict[str, Callable[[About], Format]] = {
    "table": TableFormat,
    "csv": CsvFormat,
    "jsonl": JsonFormat,
    "audacity": AudacityFormat,
    "raven": RavenFormat,
}


def _one_line(text: str) -> str:
    """Return text without tabs and line ends, which would end its cell."""
    return re.sub(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", " ", text)


def _csv_line(cells: Sequence[object]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
