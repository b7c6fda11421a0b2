"""UrbanSound8K (Salamon, Jacoby & Bello 2014): street sounds of up to 4 s, ten folds.

The slices of one Freesound recording are in one fold. Its authors: use the ten folds as they are,
and report the mean of the ten turns; a reshuffled split puts slices of one recording on both sides,
and "your results will be wrong".
"""

from __future__ import annotations

from pathlib import Path

from audio.clips import Clip, Manifest
from data.tables import read_table

_META = Path("metadata") / "UrbanSound8K.csv"


def holds_urbansound8k(folder: Path) -> bool:
    """Return whether a folder has the layout: metadata/UrbanSound8K.csv and audio/."""
    return (folder / _META).is_file() and (folder / "audio").is_dir()


def read_urbansound8k(folder: Path) -> Manifest:
    """Return the clips: the group is the recording (fsID), the fold 1 to 10.

    Raises:
        ManifestError: the table lacks a column.
    """
    names = ("slice_file_name", "fsID", "fold", "class")
    clips = [
        Clip(
            folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"],
            row["class"],
            group=row["fsID"],
            fold=row["fold"],
        )
        for _, row in read_table(folder / _META, names)
    ]
    return Manifest(tuple(clips), folder)
