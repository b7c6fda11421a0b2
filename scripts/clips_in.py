"""The clips that a script was given: opened, split, decoded, less those that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audio.clips import SPLITS, Manifest, ManifestError, check_splits
from audio.images import read_images_folder, read_picture
from audio.settings import SettingsError, SpectrogramSettings
from audio.train import Examples, PictureExamples, SoundExamples
from audio.waveform import WaveformStore, open_store
from scripts.command import progress, say, say_failures

Failures = list[tuple[str, str]]


@dataclass(frozen=True)
class ClipsIn:
    """Usable clips, each in a split, with what the network is to be fitted to."""

    manifest: Manifest
    labels: tuple[str, ...]
    examples: dict[str, Examples]
    failures: Failures

    def groups(self, split: str) -> list[str | None]:
        """Return the group of each clip of a split, in order."""
        return [clip.group for clip in self.manifest.in_split(split).clips]


def decode_sounds(
    manifest: Manifest, *, sample_rate_hz: int, folder: Path, workers: int
) -> ClipsIn:
    """Return the clips decoded at a rate into `folder`, less those that cannot be used.

    Raises:
        ManifestError: what is left cannot be trained on.
    """
    with progress("decode") as draw:
        store = open_store(
            manifest,
            sample_rate_hz=sample_rate_hz,
            folder=folder,
            workers=workers,
            progress=draw,
        )
    failures = list(store.failures)
    say_failures(failures)
    usable = set(store.keys)
    manifest = replace(manifest, clips=tuple(c for c in manifest.clips if c.key in usable))
    if not len(manifest):
        raise ManifestError(f"{manifest.root}: no clip in it can be used.")
    check_splits(manifest)
    silent = [key for i, key in enumerate(store.keys) if not store[i].any()]
    if silent:
        say(f"note: {len(silent)} clips are silent throughout, the first {silent[0]}.")
    labels = manifest.labels
    return ClipsIn(manifest, labels, sound_examples(manifest, store, labels), failures)


def sound_examples(
    manifest: Manifest, store: WaveformStore, labels: tuple[str, ...]
) -> dict[str, Examples]:
    """Return the decoded clips of each split; those that are not in the store are left out."""
    row = {key: i for i, key in enumerate(store.keys)}
    examples: dict[str, Examples] = {}
    for split in SPLITS:
        part = manifest.in_split(split)
        part = replace(part, clips=tuple(clip for clip in part.clips if clip.key in row))
        examples[split] = SoundExamples(
            [store[row[clip.key]] for clip in part.clips], _targets(part, labels)
        )
    return examples


def _targets(manifest: Manifest, labels: tuple[str, ...]) -> Any:
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[clip.label] for clip in manifest.clips], np.int64)


def read_pictures(root: Path) -> tuple[ClipsIn, SpectrogramSettings]:
    """Return the pictures that `melbandit convert` made, and the settings it made them with.

    Raises:
        ManifestError: the folder is unfinished, or its pictures are coloured or of several sizes.
    """
    manifest, settings = read_images_folder(root)
    check_splits(manifest)
    labels = manifest.labels
    examples: dict[str, Examples] = {}
    n_done = 0
    with progress("read", "pictures") as draw:
        for split in SPLITS:
            part = manifest.in_split(split)
            pixels, low, high, n_valid = [], [], [], []
            for clip in part.clips:
                picture = read_picture(clip.path)
                if picture.settings_fingerprint != settings.fingerprint():
                    raise ManifestError(
                        f"{clip.path}: made with other settings than its folder's; convert anew."
                    )
                pixels.append(picture.pixels)
                low.append(picture.low)
                high.append(picture.high)
                n_valid.append(picture.n_valid)
                n_done += 1
                draw(n_done, len(manifest))
            if len({p.shape for p in pixels}) > 1:
                raise ManifestError(f"{root}: pictures of several sizes; convert anew.")
            shape = (0, settings.n_mels, 0)
            examples[split] = PictureExamples(
                np.stack(pixels) if pixels else np.zeros(shape, np.uint8),
                np.array(low, np.float32),
                np.array(high, np.float32),
                np.array(n_valid, np.int64),
                _targets(part, labels),
            )
    return ClipsIn(manifest, labels, examples, []), settings


def check_same_pictures(given: SpectrogramSettings, made: SpectrogramSettings) -> None:
    """Refuse spectrogram options beside pictures: they were settled when those were made.

    Raises:
        SettingsError: an option was given that says something else than the pictures.
    """
    if given not in (SpectrogramSettings(), made):
        default = SpectrogramSettings().to_json()
        changed = [
            k for k, v in given.to_json().items() if v not in (default[k], made.to_json()[k])
        ]
        raise SettingsError(
            f"pictures keep the settings that they were made with; leave out "
            f"{', '.join(changed) or 'the spectrogram options'}, convert anew, or give the clips."
        )
