"""What a script was given to hear: the corpus, what there is to tell of it, and backgrounds."""

from __future__ import annotations

from pathlib import Path

from audio.clips import Manifest
from audio.settings import Settings
from audio.sound_files import sounds_state
from data.corpus import CorpusSettings, open_corpus
from scripts.command import say


def read_corpus(source: Path, settings: CorpusSettings | None = None) -> Manifest:
    """Return what `open_corpus` does, and say the manifest's notes.

    Raises:
        ManifestError: as `open_corpus`.
    """
    manifest = open_corpus(source, settings)
    for note in manifest.notes:
        say(f"note: {note}")
    return manifest


def backgrounds_of(settings: Settings) -> dict[str, str]:
    """Return what a run's record holds of its background recordings, {} where it has none.

    A run that goes on with other recordings in the folder would be another run.
    """
    folder = Path(settings.augmentation.background_folder)
    if not settings.augmentation.background_folder or not folder.is_dir():
        return {}
    return {"backgrounds": sounds_state(folder)}
