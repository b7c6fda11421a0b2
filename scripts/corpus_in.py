"""The corpus that a script was given, and what there is to tell of it."""

from __future__ import annotations

from pathlib import Path

from audio.clips import Manifest
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
