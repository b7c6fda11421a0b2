"""ESC-50 and ESC-10 (Piczak 2015): 5 s of environmental sound, five folds.

Folds keep the clips that were cut from one Freesound recording together; scores are the mean of the
five turns. Two layouts are read: that of today (audio/, meta/esc50.csv) and that of the first
releases (a folder a class, `001 - Dog bark/1-100032-A.ogg`).
"""

from __future__ import annotations

import re
from pathlib import Path

from audio.clips import Clip, Manifest, ManifestError
from data.tables import read_table

_META = Path("meta") / "esc50.csv"
_CLASS_FOLDER = re.compile(r"\d{3} - (.+)")
_CLIP_NAME = re.compile(r"([1-5])-(\d+)-[A-Z]\d*")


def holds_esc(folder: Path) -> bool:
    """Return whether a folder has one of the two layouts."""
    if (folder / _META).is_file() and (folder / "audio").is_dir():
        return True
    classes = [f for f in folder.iterdir() if _CLASS_FOLDER.fullmatch(f.name) and f.is_dir()]
    return len(classes) > 1 and any(
        _CLIP_NAME.fullmatch(path.stem) for path in sorted(classes[0].iterdir())[:20]
    )


def read_esc50(folder: Path) -> Manifest:
    """Return the clips: the label the class, the group the Freesound recording, the fold 1 to 5.

    Raises:
        ManifestError: the table lacks a column, or a file name tells no fold.
    """
    return _read(folder, ten=False)


def read_esc10(folder: Path) -> Manifest:
    """Return the clips of the ten classes that make up ESC-10; else as `read_esc50`."""
    return _read(folder, ten=True)


def _read(folder: Path, *, ten: bool) -> Manifest:
    if not (folder / _META).is_file():
        return _read_class_folders(folder)
    names = ("filename", "fold", "category", "src_file", *(("esc10",) if ten else ()))
    there = {path.stem: path for path in sorted((folder / "audio").iterdir())}
    clips = []
    for _, row in read_table(folder / _META, names):
        if ten and row["esc10"] != "True":
            continue
        # copies in another format (ogg, flac) keep the names of the table but for the ending
        path = folder / "audio" / row["filename"]
        path = path if path.name == there.get(path.stem, path).name else there[path.stem]
        clips.append(Clip(path, row["category"], group=row["src_file"], fold=row["fold"]))
    if not clips:
        raise ManifestError(f"{folder / _META}: no row is of ESC-10.")
    return Manifest(tuple(clips), folder)


def _read_class_folders(folder: Path) -> Manifest:
    clips = []
    for below in sorted(folder.iterdir()):
        match = _CLASS_FOLDER.fullmatch(below.name)
        for path in sorted(below.iterdir()) if match and below.is_dir() else []:
            name = _CLIP_NAME.fullmatch(path.stem)
            if match is None or path.name.startswith(".") or path.suffix == ".txt":
                continue
            if name is None:
                raise ManifestError(
                    f"{path}: its name is not {{fold}}-{{recording}}-{{take}}; move it away."
                )
            clips.append(Clip(path, match[1], group=name[2], fold=name[1]))
    return Manifest(tuple(clips), folder)
