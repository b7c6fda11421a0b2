"""Speech Commands V2 (Warden 2018): 35 words of a second, by speakers known by a hash.

The archive lists its validation and test clips; a speaker is on one side alone. The rest trains.
The long recordings in _background_noise_ are no words and are left out.
"""

from __future__ import annotations

from pathlib import Path

from audio.clips import Clip, Manifest, ManifestError

_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def holds_speech_commands(folder: Path) -> bool:
    """Return whether a folder has the layout: both lists, and folders of words."""
    return all((folder / name).is_file() for name in _LISTS.values())


def read_speech_commands(folder: Path) -> Manifest:
    """Return the clips: the label is the word, the group the speaker's hash, the split official.

    Raises:
        ManifestError: a file name without `_nohash_`, or no words.
    """
    side: dict[str, str] = {}
    for split, name in _LISTS.items():
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        side |= {Path(name).with_suffix("").as_posix(): split for name in names}
    clips = []
    words = (f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(("_", ".")))
    for word in sorted(words):
        for path in sorted(p for p in word.iterdir() if not p.name.startswith(".")):
            speaker, mark, _ = path.stem.partition("_nohash_")
            if not mark:
                raise ManifestError(
                    f"{path}: its name is not {{speaker}}_nohash_{{number}}; move it away."
                )
            split = side.get(f"{word.name}/{path.stem}", "train")
            clips.append(Clip(path, word.name, group=speaker, split=split))
    if not clips:
        raise ManifestError(f"{folder}: no folder of words in it.")
    return Manifest(tuple(clips), folder)
