"""Spoken digits: FSDD (Jackson et al.) and AudioMNIST (Becker et al. 2018).

FSDD's official test is takes 0 to 4 of every speaker: voices heard in training. By speaker, each of
the six is a fold, which tells how well a voice never heard is understood. AudioMNIST's authors
publish five folds of twelve speakers for the digits, each validated on the fold before the test's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audio.clips import Clip, Manifest, ManifestError

_OFFICIAL_TEST_TAKES = range(5)

#: Speakers of each fold: the digit task's test sets in the authors' train/splits.py, in order.
AUDIOMNIST_FOLDS = (
    (26, 52, 60, 18, 32, 42, 5, 13, 22, 33, 45, 51),
    (28, 56, 7, 19, 35, 1, 6, 16, 23, 34, 46, 53),
    (36, 57, 9, 24, 37, 2, 8, 17, 29, 39, 48, 54),
    (43, 58, 14, 25, 38, 3, 10, 20, 30, 40, 49, 55),
    (12, 47, 59, 15, 27, 41, 4, 11, 21, 31, 44, 50),
)


def holds_fsdd(folder: Path) -> bool:
    """Return whether a folder holds `{digit}_{speaker}_{take}.wav` files themselves."""
    return any(_digit_name(path) for path in folder.glob("[0-9]_*_*.wav"))


def holds_audiomnist(folder: Path) -> bool:
    """Return whether a folder has the layout: audioMNIST_meta.txt beside folders of speakers."""
    return (folder / "audioMNIST_meta.txt").is_file()


def read_fsdd(folder: Path) -> Manifest:
    """Return the clips with the official split by takes.

    Speakers are no groups here: each is on both sides by design.
    """
    clips = []
    for path, digit, _, take in _digits(sorted(folder.glob("*.wav"))):
        split = "test" if take in _OFFICIAL_TEST_TAKES else "train"
        clips.append(Clip(path, digit, split=split))
    return Manifest(tuple(clips), folder)


def read_fsdd_speakers(folder: Path) -> Manifest:
    """Return the clips with a fold, and a group, for each speaker."""
    return Manifest(
        tuple(
            Clip(path, digit, group=speaker, fold=speaker)
            for path, digit, speaker, _ in _digits(sorted(folder.glob("*.wav")))
        ),
        folder,
    )


def read_audiomnist(folder: Path) -> Manifest:
    """Return the clips: the group is the speaker, the fold 1 to 5 the authors' for digits.

    Raises:
        ManifestError: a speaker that is in no fold.
    """
    fold = {str(who): str(i + 1) for i, some in enumerate(AUDIOMNIST_FOLDS) for who in some}
    clips = []
    for path, digit, speaker, _ in _digits(sorted(folder.glob("*/*.wav"))):
        if speaker.lstrip("0") not in fold:
            raise ManifestError(f"{path}: speaker {speaker} is in none of the authors' folds.")
        clips.append(Clip(path, digit, group=speaker, fold=fold[speaker.lstrip("0")]))
    if not clips:
        raise ManifestError(f"{folder}: no folder of a speaker's recordings in it.")
    return Manifest(tuple(clips), folder)


def _digits(paths: list[Path]) -> Iterator[tuple[Path, str, str, int]]:
    """Yield (path, digit, speaker, take)."""
    for path in paths:
        told = _digit_name(path)
        if told is None:
            raise ManifestError(
                f"{path}: its name is not {{digit}}_{{speaker}}_{{take}}; move it away."
            )
        yield path, *told


def _digit_name(path: Path) -> tuple[str, str, int] | None:
    parts = path.stem.split("_")
    if len(parts) != 3 or parts[0] not in "0123456789" or not parts[2].isdecimal():
        return None
    return parts[0], parts[1], int(parts[2])
