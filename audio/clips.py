"""Which clips there are and what they are labelled; CSV files of them."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audio.files import file_state, write_atomically
from audio.tables import ManifestError as ManifestError
from audio.tables import read_csv_rows

SPLITS = ("train", "validation", "test")

COLUMNS = ("path", "label", "group", "fold", "split", "start_s", "duration_s")


@dataclass(frozen=True)
class Clip:
    """One labelled piece of one file.

    path: the file. label: its class. group: what must not be split (a speaker, a session, a
    recording); None is a group of its own. fold: official fold. split: train, validation or test,
    where the corpus prescribes it. start_s, duration_s: the piece of the file; None is the whole.
    labels: all its classes, in a corpus whose clips have several or none; `label` is then these,
    joined by `;`.
    """

    path: Path
    label: str
    group: str | None = None
    fold: str | None = None
    split: str | None = None
    start_s: float = 0.0
    duration_s: float | None = None
    labels: tuple[str, ...] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Its classes: one, unless the corpus has several labels a clip."""
        return (self.label,) if self.labels is None else self.labels

    @property
    def key(self) -> str:
        """What tells this clip from every other one: its path and its piece of the file."""
        if self.start_s == 0.0 and self.duration_s is None:
            return self.path.as_posix()
        until = "" if self.duration_s is None else f"{self.start_s + self.duration_s:.3f}"
        return f"{self.path.as_posix()}@{self.start_s:.3f}-{until}"


@dataclass(frozen=True)
class Manifest:
    """The clips of a corpus, and the folder that their names are shown relative to.

    notes: what whoever made it should tell its user, a line each.
    """

    clips: tuple[Clip, ...]
    root: Path
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted({name for clip in self.clips for name in clip.classes}))

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several labels, or none."""
        return any(clip.labels is not None for clip in self.clips)

    def strata(self) -> list[str]:
        """Return what each clip is kept in proportion by in a split: its class, of several labels
        the rarest."""
        count = Counter(name for clip in self.clips for name in clip.classes)
        return [
            min(c.classes, key=lambda name: (count[name], name), default="") for c in self.clips
        ]

    def in_split(self, split: str) -> Manifest:
        """Return the clips of one split, in order."""
        return replace(self, clips=tuple(clip for clip in self.clips if clip.split == split))

    def without(self, keys: Iterable[str]) -> Manifest:
        """Return the manifest less the clips whose `key` is among `keys`."""
        gone = set(keys)
        return replace(self, clips=tuple(clip for clip in self.clips if clip.key not in gone))

    def relative(self, path: Path) -> str:
        """Return `path` relative to the root where it lies under it, else as it is."""
        text, root = str(path), f"{self.root}{os.sep}"
        if text.startswith(root):
            return text[len(root) :].replace(os.sep, "/")  # pathlib takes ten times as long
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else text

    def describe(self) -> str:
        """Return one line: how many clips, classes and groups, by split."""
        parts = []
        for split in SPLITS:
            clips = self.in_split(split).clips
            groups = {clip.group for clip in clips if clip.group is not None}
            parts.append(f"{len(clips)} {split}" + (f" in {len(groups)} groups" if groups else ""))
        return f"{len(self)} clips, {len(self.labels)} classes: {', '.join(parts)}"

    def counts(self) -> list[dict[str, Any]]:
        """Return {split, label, clips, groups} of each split and class, JSON-ready."""
        cells: dict[tuple[str, str], list[Clip]] = {}
        for clip in self.clips:
            for name in clip.classes:
                cells.setdefault((str(clip.split), name), []).append(clip)
        return [
            {"split": split, "label": label, "clips": len(clips)}
            | {"groups": len({c.group for c in clips if c.group is not None})}
            for (split, label), clips in sorted(cells.items())
        ]

    def fingerprint(self) -> str:
        """Return 12 hex digits that change when a clip, its label or its split changes, or when a
        file's size or time of change does."""
        digest = hashlib.sha256()
        for clip in self.clips:
            state = file_state(clip.path)
            digest.update(
                f"{self.relative(clip.path)}|{clip.start_s}|{clip.duration_s}|{clip.label}|{clip.group}"
                f"|{clip.fold}|{clip.split}|{state}\n".encode()
            )
        return digest.hexdigest()[:12]


def _number(text: str | None, column: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ManifestError(f"{where}: {column}={text!r} is not a number of seconds.") from None
    if not math.isfinite(value) or value < 0 or (column == "duration_s" and value == 0):
        raise ManifestError(f"{where}: {column}={text} must be a positive number of seconds.")
    return value


def read_csv(path: Path) -> Manifest:
    """Return the manifest in a CSV file.

    Columns: path and label; optional group, fold, split, start_s, duration_s. Where clips have
    several labels, or none, `labels` takes the place of label: `rain;thunder`. Relative paths count
    from the CSV's own folder.

    Raises:
        ManifestError: a missing column, an empty cell, an unknown split, the same clip twice, or
            as `read_csv_rows`; the message names the file and the line.
    """
    header, rows = read_csv_rows(path)
    names = {name.lower(): name for name in header}
    several = "labels" in names
    if several and "label" in names:
        raise ManifestError(
            f"{path}: has both label and labels; keep labels where clips have several."
        )
    missing = {"path", "labels" if several else "label"} - set(names)
    if missing:
        raise ManifestError(
            f"{path}: no column {' or '.join(sorted(missing))}; the header must name at "
            f"least path and label, and may name {', '.join(COLUMNS[2:])}. It is: "
            f"{', '.join(header) or 'empty'}."
        )
    clips: list[Clip] = []
    seen: dict[str, str] = {}
    for where, cells in rows:
        row = {name: cells[as_written] for name, as_written in names.items()}
        label, labels = labels_of_cells(row, where)
        if not row["path"] or (labels is None and not label):
            raise ManifestError(f"{where}: path and label must both have a value.")
        split = row.get("split") or None
        if split is not None and split not in SPLITS:
            raise ManifestError(f"{where}: split={split!r} is not one of {', '.join(SPLITS)}.")
        clip = Clip(
            path=_file_of(path.parent, row["path"]),
            label=label,
            group=row.get("group") or None,
            fold=row.get("fold") or None,
            split=split,
            start_s=_number(row.get("start_s"), "start_s", where) or 0.0,
            duration_s=_number(row.get("duration_s"), "duration_s", where),
            labels=labels,
        )
        if clip.key in seen:
            raise ManifestError(f"{where}: the same clip is on line {seen[clip.key]}.")
        seen[clip.key] = where.rpartition(":")[2]
        clips.append(clip)
    if not clips:
        raise ManifestError(f"{path}: lists no clips.")
    return Manifest(tuple(clips), path.parent)


def _file_of(folder: Path, cell: str) -> Path:
    """Return the file that a cell of a table in `folder` names, on Windows perhaps."""
    path = folder / cell
    return path if "\\" not in cell or path.exists() else folder / cell.replace("\\", "/")


def cells_of_labels(clip: Clip) -> dict[str, str]:
    """Return a clip's cell of a table: `label`, or `labels` where clips may have several."""
    return {"label" if clip.labels is None else "labels": clip.label}


def labels_of_cells(row: Mapping[str, str], where: str) -> tuple[str, tuple[str, ...] | None]:
    """Return `Clip.label` and `Clip.labels` of a row with a `label` or a `labels` column.

    >>> labels_of_cells({"labels": "rain;thunder"}, "clips.csv:2")
    ('rain;thunder', ('rain', 'thunder'))

    Raises:
        ManifestError: as `split_labels`.
    """
    if "labels" not in row:
        return row["label"], None
    labels = split_labels(row["labels"] or "", where)
    return ";".join(labels), labels


def split_labels(text: str, where: str) -> tuple[str, ...]:
    """Return the labels in a cell, sorted; none where it is empty.

    >>> split_labels(" thunder; rain", "clips.csv:2")
    ('rain', 'thunder')

    Raises:
        ManifestError: one is there twice, or there is nothing between two semicolons.
    """
    labels = [name.strip() for name in text.split(";")] if text.strip() else []
    if "" in labels:
        raise ManifestError(f"{where}: labels={text!r} has nothing between two semicolons.")
    if len(set(labels)) < len(labels):
        raise ManifestError(f"{where}: labels={text!r} names a label twice.")
    return tuple(sorted(labels))


def write_csv(manifest: Manifest, path: Path) -> None:
    """Write a manifest that `read_csv` reads back; paths relative to the file where possible."""
    rows: list[list[Any]] = []
    for clip in manifest.clips:
        here = clip.path
        if here.is_relative_to(path.parent):
            here = here.relative_to(path.parent)
        elif not here.is_absolute():
            here = here.absolute()
        duration = "" if clip.duration_s is None else repr(clip.duration_s)
        start = "" if clip.start_s == 0 else repr(clip.start_s)
        rows.append(
            [here.as_posix(), clip.label, clip.group, clip.fold, clip.split, start, duration]
        )
    # spaces before a value are part of it in quotation marks alone
    spaced = any(str(value)[:1] == " " for row in rows for value in row)
    lines = io.StringIO(newline="")
    table = csv.writer(lines, quoting=csv.QUOTE_ALL if spaced else csv.QUOTE_MINIMAL)
    table.writerow(["path", "labels", *COLUMNS[2:]] if manifest.is_multi_label else COLUMNS)
    table.writerows(rows)
    write_atomically(path, lines.getvalue().encode("utf-8"))
