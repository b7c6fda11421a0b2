"""From a folder or a CSV file to a manifest: which clips there are and what they are labelled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from audio.clips import SPLITS, Clip, Manifest, ManifestError, read_csv
from audio.sound_files import sort_files
from data.audiofolder import SPLIT_NAMES, holds_audiofolder, read_audiofolder
from data.published import PUBLISHED, open_published, published_name

#: Kinds of corpus that --root may be told to be, beside the published ones.
KINDS = ("folder", "csv", "audiofolder")


@dataclass(frozen=True)
class CorpusSettings:
    """How labels are read off a folder."""

    pattern: str | None = None
    """What file names tell, without their ending: '{label}_{group}_{take}' reads 7_theo_12.wav as
    label 7, group theo. label is needed; group, fold and split are used where named. With a / in
    it, it is matched against the path below the folder."""
    root: Path | None = None
    """Where a corpus that is given by its name (esc50, urbansound8k, ...) lies: its folder, or one
    above it. By default $MELBANDIT_CORPORA or ~/.cache/melbandit/corpora."""
    label_column: str = "label"
    """Column of an audiofolder's metadata that holds the class."""


def open_corpus(source: Path, settings: CorpusSettings | None = None) -> Manifest:
    """Return the clips of a CSV manifest, a folder of sounds, or a published corpus by its name.

    A folder is read by the first of these that fits: `settings.pattern`, its manifest.csv, the
    layout of a published corpus, the metadata of an audiofolder, a subfolder a class; above these
    may stand train, validation and test, and where two of them do, what is beside them is left
    out. With `settings.root`, `source` is a name: a published
    corpus or one of folder, csv, audiofolder.

    Raises:
        ManifestError: nothing there, nothing labelled, or a file that the pattern does not fit.
    """
    settings = settings or CorpusSettings()
    pattern = settings.pattern
    name = published_name(source.name) if source.name == str(source) else None
    if settings.root is not None:
        if name is not None:
            return open_published(name, settings.root)
        if str(source) not in KINDS:
            raise ManifestError(
                f"--root goes with the name of a corpus, and {source} is none of "
                f"{', '.join((*PUBLISHED, *KINDS))}."
            )
        if str(source) == "audiofolder":
            return read_audiofolder(settings.root, label_column=settings.label_column)
        if str(source) == "folder" and pattern is None and settings.root.is_dir():
            return _read_by_folder(settings.root)
        return open_corpus(settings.root, CorpusSettings(pattern=pattern))
    if not source.exists():
        if name is not None:
            return open_published(name)
        raise ManifestError(
            f"{source}: no such file or folder, nor the name of a corpus ({', '.join(PUBLISHED)})."
        )
    if source.is_file():
        if source.suffix.lower() != ".csv":
            raise ManifestError(f"{source}: give a folder of clips, or a CSV file that lists them.")
        return read_csv(source)
    if pattern is not None:
        return _read_by_pattern(source, pattern)
    if (source / "manifest.csv").is_file():
        return read_csv(source / "manifest.csv")
    for corpus in PUBLISHED.values():
        if corpus.telling and corpus.holds(source):
            return corpus.read(source)
    if holds_audiofolder(source):
        return read_audiofolder(source, label_column=settings.label_column)
    return _read_by_folder(source)


def _sounds_or_error(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the sounds in a folder, and what to tell its user."""
    files = sort_files(folder)
    note = files.note()
    if not files.sounds:
        raise ManifestError(
            f"{folder}: no sound files in it or below it (looked for *.wav, *.flac, *.ogg, *.mp3 "
            f"and others{'' if note is None else '; ' + note.rstrip('.')})."
        )
    notes = [] if note is None else [note]
    sounds = tuple(path for path in files.sounds if _is_utf8(path))
    if len(sounds) < len(files.sounds):  # no manifest, JSON or table could hold their names
        first = ascii(str(next(path for path in files.sounds if not _is_utf8(path))))
        notes.append(
            f"{len(files.sounds) - len(sounds)} files are left out, for their names are not UTF-8 "
            f"(the first: {first}); rename them."
        )
        if not sounds:
            raise ManifestError(f"{folder}: {notes[-1]}")
    return sounds, tuple(f"{folder}: {note}" for note in notes)


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_by_folder(root: Path) -> Manifest:
    clips: list[Clip] = []
    paths, notes = _sounds_or_error(root)
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        split = SPLIT_NAMES.get(folders[0].lower()) if len(folders) > 1 else None
        if not folders:
            raise ManifestError(
                f"{path}: lies outside any class folder. Make a subfolder for each class, or say "
                "what the file names tell: --pattern '{label}_{group}_{take}', or give a CSV."
            )
        label = folders[1] if split else folders[0]
        clips.append(Clip(path, label, split=split))
    splits = {clip.split for clip in clips if clip.split is not None}
    beside = [clip for clip in clips if clip.split is None]
    if beside and len(splits) > 1:  # _background_noise_ beside train and test
        clips = [clip for clip in clips if clip.split is not None]
        notes += (
            f"{root}: {len(beside)} files beside {', '.join(sorted(splits))} are left out (the "
            f"first: {beside[0].path.relative_to(root)}).",
        )
    elif beside:  # a class that happens to be called "test"
        clips = [Clip(clip.path, clip.path.relative_to(root).parts[0]) for clip in clips]
    return Manifest(tuple(clips), root, notes)


def _read_by_pattern(root: Path, pattern: str) -> Manifest:
    names = re.findall(r"\{(\w*)\}", pattern)
    if "label" not in names:
        raise ManifestError(f"pattern={pattern!r} does not name {{label}}.")
    for name in names:
        if name and not name.isidentifier():
            raise ManifestError(f"pattern={pattern!r}: {{{name}}} is no name.")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ManifestError(f"pattern={pattern!r} names {{{twice[0]}}} twice.")
    parts = re.split(r"(\{\w*\})", pattern)

    def compiled(text: str) -> re.Pattern[str]:
        """Return the pattern with `text` for what stands in braces."""
        return re.compile(
            "".join(
                (f"(?P<{part[1:-1]}>{text})" if part != "{}" else text)
                if part.startswith("{")
                else re.escape(part)
                for part in parts
            )
        )

    regex, longest = compiled(".+?"), compiled(".+")
    clips: list[Clip] = []
    doubtful: list[str] = []
    paths, notes = _sounds_or_error(root)
    for path in paths:
        below = path.relative_to(root).with_suffix("").as_posix()
        name = below if "/" in pattern else path.stem
        match = regex.fullmatch(name)
        if match is None:
            raise ManifestError(
                f"{path}: does not fit --pattern {pattern!r}; mend the pattern, move the file "
                "away, or give a CSV."
            )
        found = match.groupdict()
        other = longest.fullmatch(name)
        if other is not None and other["label"] != found["label"]:
            doubtful.append(f"{name}: label {found['label']!r}, or {other['label']!r}")
        split = found.get("split")
        if split is not None and split not in SPLITS:
            split = SPLIT_NAMES.get(split.lower())
            if split is None:
                raise ManifestError(
                    f"{path}: split {found['split']!r} is not one of {', '.join(SPLITS)}."
                )
        clips.append(
            Clip(
                path, found["label"], group=found.get("group"), fold=found.get("fold"), split=split
            )
        )
    if doubtful:
        notes += (
            f"--pattern {pattern!r} fits {len(doubtful)} names in more than one way; each field "
            f"takes as little as it can, from the left ({doubtful[0]}).",
        )
    return Manifest(tuple(clips), root, notes)
