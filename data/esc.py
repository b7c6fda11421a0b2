"""ESC-50 and ESC-10 (Piczak 2015): 5 s of environmental sound, five folds.

Folds keep the clips that were cut from one Freesound recording together; scores are the mean of the
five turns. Two layouts are read: that of today (audio/, meta/esc50.csv) and that of the first
releases (a folder a class, `001 - Dog bark/1-100032-A.ogg`).
"""

from __future__ import annotations

import re
from pathlib import Path

from audio.clips import Clip, Manifest, ManifestError
from audio.sound_files import SUFFIXES
from data.tables import read_table

_META = Path("meta") / "esc50.csv"
_CLASS_FOLDER = re.compile(r"\d{3} - (.+)")
_CLIP_NAME = re.compile(r"([1-5])-(\d+)-[A-Z]\d*")
# class folders of ESC-10, as its own release and that of ESC-50 name them, in small letters
_TEN = frozenset(
    "dog bark,rain,sea waves,baby cry,clock tick,person sneeze,helicopter,chainsaw,rooster,"
    "fire crackling,dog,crying baby,sneezing,crackling fire".split(",")
)


def holds_esc(folder: Path) -> bool:
    """Return whether a folder has one of the two layouts."""
    if (folder / _META).is_file() and (folder / "audio").is_dir():
        return True
    classes = [f for f in folder.iterdir() if _CLASS_FOLDER.fullmatch(f.name) and f.is_dir()]
    return len(classes) > 1 and any(
        _CLIP_NAME.fullmatch(path.stem) for path in _sounds(classes[0])[:20]
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
        return _read_class_folders(folder, ten=ten)
    names = ("filename", "fold", "category", "src_file", *(("esc10",) if ten else ()))
    sounds = _sounds(folder / "audio")
    there, named = {path.stem: path for path in sounds}, {path.name for path in sounds}
    clips = []
    for _, row in read_table(folder / _META, names):
        if ten and row["esc10"].casefold() != "true":
            continue
        path = folder / "audio" / row["filename"]
        if path.name not in named:  # copies in another format keep the names but for the ending
            path = there.get(path.stem, path)
        clips.append(Clip(path, row["category"], group=row["src_file"], fold=row["fold"]))
    if not clips:
        raise ManifestError(f"{folder / _META}: no row is of ESC-10.")
    return Manifest(tuple(clips), folder)


def _sounds(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")


def _read_class_folders(folder: Path, *, ten: bool) -> Manifest:
    clips = []
    for below in sorted(folder.iterdir()):
        match = _CLASS_FOLDER.fullmatch(below.name)
        if match is None or not below.is_dir() or (ten and match[1].casefold() not in _TEN):
            continue
        for path in _sounds(below):
            name = _CLIP_NAME.fullmatch(path.stem)
            if name is None:
                raise ManifestError(
                    f"{path}: its name is not {{fold}}-{{recording}}-{{take}}; move it away."
                )
            clips.append(Clip(path, match[1], group=name[2], fold=name[1]))
    if not clips:
        what = "a class of ESC-10" if ten else "a class"
        raise ManifestError(f"{folder}: no sound in it in a folder of {what}.")
    return Manifest(tuple(clips), folder)
