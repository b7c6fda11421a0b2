"""Which clips there are, what they are labelled, and which side of a split each is on."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from audio.files import file_state, write_atomically
from audio.settings import UserError

SPLITS = ("train", "validation", "test")

_VALIDATION_PERCENT = 20.0
COLUMNS = ("path", "label", "group", "fold", "split", "start_s", "duration_s")


class ManifestError(UserError):
    """A manifest or a split breaks a rule; the message gives the place and the remedy."""


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
        ManifestError: a missing column, an empty cell, an unknown split, the same clip twice; the
            message names the file and the line.
    """
    clips: list[Clip] = []
    seen: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            names = set(table.fieldnames or ())
            several = "labels" in names
            if several and "label" in names:
                raise ManifestError(
                    f"{path}: has both label and labels; keep labels where clips have several."
                )
            missing = {"path", "labels" if several else "label"} - names
            if missing:
                raise ManifestError(
                    f"{path}: no column {' or '.join(sorted(missing))}; the header must name at "
                    f"least path and label, and may name {', '.join(COLUMNS[2:])}."
                )
            for row in table:
                where = f"{path}:{table.line_num}"
                label, labels = labels_of_cells(row, where)
                if not row["path"] or (labels is None and not label):
                    raise ManifestError(f"{where}: path and label must both have a value.")
                split = row.get("split") or None
                if split is not None and split not in SPLITS:
                    raise ManifestError(
                        f"{where}: split={split!r} is not one of {', '.join(SPLITS)}."
                    )
                clip = Clip(
                    path=path.parent / row["path"],
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
                seen[clip.key] = table.line_num
                clips.append(clip)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    if not clips:
        raise ManifestError(f"{path}: lists no clips.")
    return Manifest(tuple(clips), path.parent)


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
    lines = io.StringIO(newline="")
    table = csv.writer(lines)
    table.writerow(["path", "labels", *COLUMNS[2:]] if manifest.is_multi_label else COLUMNS)
    for clip in manifest.clips:
        here = clip.path
        if here.is_relative_to(path.parent):
            here = here.relative_to(path.parent)
        elif not here.is_absolute():
            here = here.absolute()
        duration = "" if clip.duration_s is None else repr(clip.duration_s)
        start = "" if clip.start_s == 0 else repr(clip.start_s)
        table.writerow(
            [here.as_posix(), clip.label, clip.group, clip.fold, clip.split, start, duration]
        )
    write_atomically(path, lines.getvalue().encode("utf-8"))


@dataclass(frozen=True)
class SplitSettings:
    """Which clips train, which validate and which are kept for the test."""

    test_groups: tuple[str, ...] = ()
    """Groups kept for the test (speakers, sessions, sites)."""
    validation_groups: tuple[str, ...] = ()
    """Groups that validate."""
    test_folds: tuple[str, ...] = ()
    """Official folds kept for the test; by default the last one, where there are folds."""
    validation_folds: tuple[str, ...] = ()
    """Official folds that validate; by default the one before the test's."""
    test_percent: float = 20.0
    """Share of the clips kept for the test where nothing else decides; whole groups only."""
    validation_percent: float | None = None
    """Share of the clips that validate where nothing else decides; whole groups only. By default
    20, and 10 of each training under --folds."""
    split_seed: int = 0
    """Seed of the split by share."""
    allow_leakage: bool = False
    """Go on where a group, or the same sound twice, is on two sides of a split. The model's record
    says so."""


def assign_splits(manifest: Manifest, settings: SplitSettings) -> Manifest:
    """Return the manifest with every clip in train, validation or test.

    What decides, first come first served: the groups or folds that `settings` names; the split
    that the corpus prescribes; its official folds; else whole groups drawn by share, classes kept
    in proportion (as scikit-learn's StratifiedGroupKFold), so that every class is trained on. No
    group is ever on two sides.

    Raises:
        ManifestError: a named group or fold that no clip has, an empty side, too few groups, or a
            prescribed split that puts one group on two sides.
    """
    test, validation = settings.test_percent, settings.validation_percent
    if validation is None:
        validation = _VALIDATION_PERCENT
    if test < 0 or validation <= 0 or test + validation >= 100:
        raise ManifestError(
            f"test_percent={test:g} and validation_percent={validation:g} leave a side without "
            "clips; validation_percent must be above 0 and the two together below 100."
        )
    clips = manifest.clips
    settled: list[str | None] = [clip.split for clip in clips]
    if settings.test_groups or settings.validation_groups:
        settled = _by_name(
            [c.group for c in clips], settings.test_groups, settings.validation_groups, "group"
        )
    elif settings.test_folds or settings.validation_folds:
        settled = _by_name(
            [c.fold for c in clips], settings.test_folds, settings.validation_folds, "fold"
        )
    elif any(settled):
        settled = [None if split == "train" else split for split in settled]
    elif all(clip.fold is not None for clip in clips):
        folds = sorted({str(clip.fold) for clip in clips}, key=natural_order)
        if len(folds) < 3:
            raise ManifestError(
                f"{len(folds)} folds are too few for three sides; name --test-folds."
            )
        settled = _by_name([c.fold for c in clips], folds[-1:], folds[-2:-1], "fold")

    groups = [clip.key if clip.group is None else f"group {clip.group}" for clip in clips]
    labels = manifest.strata()
    drawn = [split is None for split in settled]
    if "test" not in settled and settings.test_percent > 0:
        draw_side(settled, groups, labels, "test", settings.test_percent, settings.split_seed)
    if "validation" not in settled:
        share = 100 * validation / (100 - test)
        draw_side(settled, groups, labels, "validation", share, settings.split_seed)
    train_every_class(settled, groups, [clip.classes for clip in clips], drawn)
    result = replace(
        manifest,
        clips=tuple(replace(c, split=s or "train") for c, s in zip(clips, settled, strict=True)),
    )
    check_splits(result, allow_leakage=settings.allow_leakage)
    return result


def leaked_groups(manifest: Manifest) -> list[tuple[Clip, Clip]]:
    """Return, for each group that is on two sides, a clip of either side."""
    side: dict[str, Clip] = {}
    found: dict[str, tuple[Clip, Clip]] = {}
    for clip in manifest.clips:
        if clip.group is not None:
            first = side.setdefault(clip.group, clip)
            if first.split != clip.split:
                found.setdefault(clip.group, (first, clip))
    return list(found.values())


def check_splits(manifest: Manifest, *, allow_leakage: bool = False) -> None:
    """Hold a split manifest to the rules.

    Raises:
        ManifestError: a group on two sides (unless that is allowed), no clips to train or validate
            on, fewer than two classes, or a class that is tested but never trained.
    """
    leaks = [] if allow_leakage else leaked_groups(manifest)
    for first, clip in leaks[:1]:
        more = f" ({len(leaks) - 1} more groups are, too)" if len(leaks) > 1 else ""
        raise ManifestError(
            f"group {clip.group} is on two sides: {manifest.relative(first.path)} in "
            f"{first.split}, {manifest.relative(clip.path)} in {clip.split}{more}; a model would "
            "be scored on what it was trained on. Move one, mend the group column, or "
            "--allow-leakage."
        )
    count = Counter(clip.split for clip in manifest.clips)
    for split in ("train", "validation"):
        if not count[split]:
            raise ManifestError(
                f"no clips are left for {split}; change the groups, folds or shares."
            )
    trained = set(manifest.in_split("train").labels)
    if len(trained) < 2:
        raise ManifestError(
            f"the training clips have {len(trained)} class; at least 2 are needed. In a folder of "
            "clips each class is a subfolder; else give a CSV or --pattern."
        )
    never = sorted(set(manifest.labels) - trained)
    if never:
        raise ManifestError(f"no training clip is labelled {', '.join(never)}; change the split.")


def natural_order(name: str) -> tuple[int, float, str]:
    """Sort 2 before 10, and numbers before words."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def _by_name(
    have: Sequence[str | None], test: Sequence[str], validation: Sequence[str], what: str
) -> list[str | None]:
    both = sorted(set(test) & set(validation))
    if both:
        raise ManifestError(f"{what} {', '.join(both)} cannot both test and validate.")
    there = {name for name in have if name is not None}
    for name in (*test, *validation):
        if name not in there:
            shown = ", ".join(sorted(there, key=natural_order)[:20]) or "none at all"
            raise ManifestError(f"no clip is in {what} {name}; there are: {shown}.")
    return ["test" if h in test else "validation" if h in validation else None for h in have]


def draw_side(
    settled: list[str | None],
    groups: Sequence[str],
    labels: Sequence[str],
    side: Literal["test", "validation"],
    percent: float,
    seed: int,
) -> None:
    """Move about `percent` of the clips that no side has yet to `side`, by whole groups."""
    from audio.group_folds import stratified_group_folds

    free = [i for i, split in enumerate(settled) if split is None]
    n_groups = len({groups[i] for i in free})
    if n_groups < 2:
        raise ManifestError(
            f"{n_groups} group is left to draw {side} clips from; a side needs a whole group of "
            "its own. Name more groups, or leave the group column out."
        )
    most = max(Counter(labels[i] for i in free).values())
    limit = min(n_groups, most, 20)
    if limit < 2:
        raise ManifestError(
            f"every class has one clip only, so none can be kept for {side}; add clips."
        )
    # the fewest equal parts of which some make up the share
    n_parts, n_taken = min(
        ((n, min(max(1, round(n * percent / 100)), n - 1)) for n in range(2, limit + 1)),
        key=lambda part: (abs(part[1] / part[0] - percent / 100), part[0]),
    )
    parts = stratified_group_folds(
        [labels[i] for i in free], [groups[i] for i in free], n_parts, seed=seed
    )
    taken = [i for fold in parts[:n_taken] for i in fold]
    for position in taken:
        settled[free[position]] = side


def train_every_class(
    settled: list[str | None],
    groups: Sequence[str],
    classes: Sequence[Sequence[str]],
    drawn: Sequence[bool],
) -> None:
    """Move whole groups that were drawn back to train until no class is held out entirely.

    classes: of each clip, one or several.
    """
    while True:
        trained = {
            name
            for names, split in zip(classes, settled, strict=True)
            if split is None
            for name in names
        }
        held: Counter[str] = Counter()
        for names, split, group, free in zip(classes, settled, groups, drawn, strict=True):
            if free and split is not None and not trained.issuperset(names):
                held[group] += 1
        if not held:
            return
        back = held.most_common(1)[0][0]
        for i, group in enumerate(groups):
            if group == back and drawn[i]:  # not what was named for a side
                settled[i] = None
