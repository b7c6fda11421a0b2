"""The clips that a script was given: opened, split, decoded, less those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audio.clips import SPLITS, Clip, Manifest, ManifestError, labels_of_cells
from audio.examples import Examples, PictureExamples, ShardExamples, SoundExamples
from audio.images import is_images_folder, read_images_folder, read_picture
from audio.leakage import check_leakage, content_digest
from audio.settings import SettingsError, SpectrogramSettings
from audio.shards import is_shards_folder, open_shards
from audio.splits import check_splits
from audio.waveform import WaveformStore, open_store
from scripts.command import progress, say, say_failures

Failures = list[tuple[str, str]]


@dataclass(frozen=True)
class ClipsIn:
    """Usable clips, each in a split, with what the network is to be fitted to.

    leakage: what is on two sides of the split, where that was allowed.
    """

    manifest: Manifest
    labels: tuple[str, ...]
    examples: dict[str, Examples]
    failures: Failures
    leakage: dict[str, Any] | None = None

    def groups(self, split: str) -> list[str | None]:
        """Return the group of each clip of a split, in order."""
        return [clip.group for clip in self.manifest.in_split(split).clips]


@dataclass(frozen=True)
class DecodedClips:
    """Usable clips, decoded; `digests` tells the same sound by `Clip.key`."""

    manifest: Manifest
    store: WaveformStore
    digests: Mapping[str, str | None]
    failures: Failures

    def check(
        self, manifest: Manifest, *, allow_leakage: bool, fold: str | None = None
    ) -> tuple[Manifest, dict[str, Any] | None]:
        """Return the usable clips of a split manifest, and what is on two of its sides.

        fold: as `check_splits` has it.

        Raises:
            ManifestError: they cannot be trained on, or something is on two sides and may not be.
        """
        manifest = replace(
            manifest, clips=tuple(c for c in manifest.clips if c.key in self.digests)
        )
        check_splits(manifest, allow_leakage=allow_leakage, fold=fold)
        digests = [self.digests[clip.key] for clip in manifest.clips]
        return manifest, check_leakage(manifest, digests, allow=allow_leakage)

    def split_as(
        self, manifest: Manifest, *, allow_leakage: bool, fold: str | None = None
    ) -> ClipsIn:
        """Return these clips in the splits that `manifest` says.

        Raises:
            ManifestError: as `check`.
        """
        manifest, leakage = self.check(manifest, allow_leakage=allow_leakage, fold=fold)
        if leakage is not None:
            say(
                f"note: leakage allowed: {leakage['groups_on_two_sides']} groups and "
                f"{leakage['same_content_on_two_sides']} sounds are on two sides of the split; "
                "the scores are too good."
            )
        labels = self.manifest.labels
        examples = sound_examples(manifest, self.store, labels)
        return ClipsIn(manifest, labels, examples, self.failures, leakage)


def decode_sounds(
    manifest: Manifest,
    *,
    sample_rate_hz: int,
    folder: Path,
    workers: int,
    allow_leakage: bool = False,
) -> ClipsIn:
    """Return the clips, split already, decoded at a rate into `folder`, less the unusable ones.

    Raises:
        ManifestError: what is left cannot be trained on, or the same sound is on two sides.
    """
    decoded = decode_clips(manifest, sample_rate_hz=sample_rate_hz, folder=folder, workers=workers)
    return decoded.split_as(manifest, allow_leakage=allow_leakage)


def decode_clips(
    manifest: Manifest, *, sample_rate_hz: int, folder: Path, workers: int
) -> DecodedClips:
    """Return the clips decoded at a rate into `folder`, less those that cannot be used.

    Raises:
        ManifestError: none can be used.
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
    silent = [key for i, key in enumerate(store.keys) if not store[i].any()]
    if silent:
        say(f"note: {len(silent)} clips are silent throughout, the first {silent[0]}.")
    with ThreadPoolExecutor(workers) as pool:  # hashing releases the GIL
        digests = list(pool.map(content_digest, (store[i] for i in range(len(store)))))
    return DecodedClips(manifest, store, dict(zip(store.keys, digests, strict=True)), failures)


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
    if manifest.is_multi_label:
        several = np.zeros((len(manifest), len(labels)), np.float32)
        for row, clip in zip(several, manifest.clips, strict=True):
            row[[index[name] for name in clip.classes]] = 1
        return several
    return np.array([index[clip.label] for clip in manifest.clips], np.int64)


def read_pictures(
    root: Path, *, allow_leakage: bool = False
) -> tuple[ClipsIn, SpectrogramSettings]:
    """Return the pictures that `melbandit convert` made, and the settings it made them with.

    Raises:
        ManifestError: the folder is unfinished, its pictures are coloured or of several sizes, or
            the same picture is on two sides of the split.
    """
    manifest, settings = read_images_folder(root)
    check_splits(manifest, allow_leakage=allow_leakage)
    labels = manifest.labels
    examples: dict[str, Examples] = {}
    digests: dict[str, str | None] = {}
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
                digest = content_digest(picture.pixels)
                level = f"{picture.low!r} {picture.high!r}"
                digests[clip.key] = None if digest is None else f"{digest} {level}"
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
    told = [digests.get(clip.key) for clip in manifest.clips]
    leakage = check_leakage(manifest, told, allow=allow_leakage)
    return ClipsIn(manifest, labels, examples, [], leakage), settings


def reader_of(source: Path) -> Callable[..., tuple[ClipsIn, SpectrogramSettings]] | None:
    """Return what reads a folder that `melbandit convert` wrote; None where it is of clips."""
    if is_images_folder(source):
        return read_pictures
    return read_shards if is_shards_folder(source) else None


def read_shards(root: Path, *, allow_leakage: bool = False) -> tuple[ClipsIn, SpectrogramSettings]:
    """Return the shards that `melbandit convert --format uint8` or `float16` wrote, mapped into
    memory, and the settings they were made with. They are read once, for what is in them twice.

    Raises:
        ManifestError: the folder is unfinished, or the same sound is on two sides of the split.
    """
    shards = open_shards(root)
    clips = []
    for row in shards.rows:
        label, labels = labels_of_cells(row, str(root / "index.csv"))
        clips.append(
            Clip(
                path=root / row["source"],
                label=label,
                labels=labels,
                group=row["group"] or None,
                fold=row["fold"] or None,
                split=row["split"],
                start_s=float(row["start_s"]),
            )
        )
    manifest = Manifest(tuple(clips), root)
    check_splits(manifest, allow_leakage=allow_leakage)
    digests: list[str | None] = []
    with progress("read", "levels") as draw:
        for i, row in enumerate(shards.rows):
            digest = content_digest(shards.stored(i))
            level = f"{row['low_db']} {row['high_db']}"
            digests.append(None if digest is None else f"{digest} {level}")
            draw(i + 1, len(manifest))
    leakage = check_leakage(manifest, digests, allow=allow_leakage)
    names = manifest.labels
    examples: dict[str, Examples] = {
        split: ShardExamples(shards.in_split(split), _targets(manifest.in_split(split), names))
        for split in SPLITS
    }
    return ClipsIn(manifest, names, examples, [], leakage), shards.settings


def check_same_pictures(
    given: SpectrogramSettings, made: SpectrogramSettings, base: SpectrogramSettings
) -> list[str]:
    """Refuse spectrogram options beside pictures: they were settled when those were made.

    given: what the fit was asked for. made: what the pictures were made with. base: what `given`
    started from, the backbone's own; returned are the names in which the pictures differ from it.

    Raises:
        SettingsError: an option was given that says something else than the pictures.
    """
    default, have, own = (s.to_json() for s in (SpectrogramSettings(), made, base))
    changed = [k for k, v in given.to_json().items() if v not in (default[k], have[k], own[k])]
    if changed:
        raise SettingsError(
            f"pictures keep the settings that they were made with; leave out {', '.join(changed)}, "
            "convert anew, or give the clips."
        )
    return [k for k, v in own.items() if v != have[k] and k not in ("clip_s", "padding")]
