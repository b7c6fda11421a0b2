"""Recordings to be heard behind training clips: a folder of streets, rooms, crowds, in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.decoding import sound_blocks
from audio.settings import SettingsError
from audio.sound import ClipError
from audio.sound_files import list_sounds
from audio.waveform import Waveform, resampled_blocks

MOST_BYTES = 256 * 2**20  # of all recordings: 70 minutes at 16 kHz


@dataclass(frozen=True)
class Backgrounds:
    """Recordings, one after another: float32 (n,); where each begins and its length, in samples."""

    samples: Tensor
    start: NDArray[np.int64]
    length: NDArray[np.int64]

    def pieces(self, place: NDArray[np.float64], n_samples: int) -> Tensor:
        """Return a piece for each place in [0, 1), float32 (len(place), n_samples).

        Every recording has an equal share of the places; within it they are where a piece begins.
        A recording shorter than a piece goes round.
        """
        at = place * len(self.start)
        which = np.minimum(at.astype(np.int64), len(self.start) - 1)
        length = self.length[which]
        # of a longer recording all of a piece; of a shorter one any beginning
        room = np.where(length > n_samples, length - n_samples + 1, length)
        first = ((at - which) * room).astype(np.int64)
        device = self.samples.device
        begin, size, offset = (
            torch.from_numpy(values).to(device)[:, None]
            for values in (first, length, self.start[which])
        )
        t = torch.arange(n_samples, device=device)
        return self.samples[offset + (begin + t) % size]

    def to(self, device: torch.device) -> Backgrounds:
        """Return them on a device."""
        return Backgrounds(self.samples.to(device), self.start, self.length)


def read_backgrounds(
    folder: Path, *, sample_rate_hz: int, most_bytes: int = MOST_BYTES
) -> Backgrounds:
    """Return the recordings in a folder and below it, at a rate; of long ones the beginning, so
    that all together take at most `most_bytes` and each has an equal share.

    Raises:
        SettingsError: there are none, one cannot be read, or one is silent throughout.
    """
    paths = list_sounds(folder) if folder.is_dir() else []
    if not paths:
        what = "no sound files in it or below it" if folder.is_dir() else "there is no such folder"
        raise SettingsError(f"background_folder={folder}: {what}; give a folder of recordings.")
    most = max(1, most_bytes // 4 // len(paths))
    recordings: list[Waveform] = []
    for path in paths:
        try:
            recording = _beginning(path, sample_rate_hz, most)
        except ClipError as error:
            raise SettingsError(f"background_folder: {error}") from None
        if not recording.any():
            raise SettingsError(f"background_folder: {path}: is silent throughout; take it out.")
        recordings.append(recording)
    length = np.array([len(recording) for recording in recordings], np.int64)
    start = np.cumsum(length) - length
    return Backgrounds(torch.from_numpy(np.concatenate(recordings)), start, length)


def _beginning(path: Path, sample_rate_hz: int, most: int) -> Waveform:
    """Return at most `most` samples of a file at a rate."""
    rate, blocks = sound_blocks(path)
    if rate != sample_rate_hz:
        blocks = resampled_blocks(_at_most(blocks, math.ceil(most * rate / sample_rate_hz)), rate,
                                  sample_rate_hz)  # fmt: skip
    kept: list[Waveform] = []
    left = most
    for block in blocks:
        kept.append(block[:left])
        left -= len(kept[-1])
        if left <= 0:
            break
    whole = np.concatenate(kept) if kept else np.zeros(0, np.float32)
    if not len(whole):
        raise ClipError(path, "no samples in it.")
    return whole


def _at_most(blocks: Iterator[Waveform], most: int) -> Iterator[Waveform]:
    """Yield blocks until `most` samples have come."""
    for block in blocks:
        yield block
        most -= len(block)
        if most <= 0:
            return
