"""Mel levels kept in memory: between the epochs of a fit, and between fits to the same clips.

Whatever is varied at random is computed anew; the levels of clips as they are depend on the
spectrogram's settings alone, normalisation aside, and those of a search's trials recur.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audio.settings import AugmentationSettings, SpectrogramSettings

_OF_WAVEFORMS = (
    *("gain_db", "shift_percent", "speed_percent", "noise_percent", "filter_db"),
    *("pitch_semitones", "polarity_percent", "low_pass_percent", "high_pass_percent"),
    *("reverb_percent", "background_percent", "other_clip_percent"),
)

MOST_BYTES = 128 * 2**20  # of one split's clips, in one process


@dataclass(frozen=True)
class Levels:
    """Levels of windows: level (n_windows, n_mels, n_frames), n_valid (n_windows,) in samples, and
    the clip that each window is of, int64 (n_windows,)."""

    level: Tensor
    n_valid: Tensor
    owner: NDArray[np.int64]

    @property
    def n_bytes(self) -> int:
        """Memory that they take."""
        return self.level.nbytes + self.n_valid.nbytes + self.owner.nbytes


class LevelCache:
    """Levels by key, the latest used of them, in at most `most_bytes`.

    >>> import torch
    >>> cache = LevelCache(most_bytes=100)
    >>> make = lambda: Levels(torch.zeros(1, 2, 3), torch.ones(1), np.zeros(1, np.int64))
    >>> cache.get("a", make) is cache.get("a", make)
    True
    """

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, Levels] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def n_bytes(self) -> int:
        """Memory in use."""
        return sum(levels.n_bytes for levels in self._kept.values())

    def get(self, key: Hashable, make: Callable[[], Levels]) -> Levels:
        """Return what is kept under `key`, or `make()`, which is kept where it fits."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = make()
        if made.n_bytes <= self.most_bytes:
            self._kept[key] = made
            while self.n_bytes > self.most_bytes:
                self._kept.popitem(last=False)
        return made


def levels_only(settings: SpectrogramSettings) -> SpectrogramSettings:
    """Return the settings without normalisation: equal ones give equal levels."""
    return replace(settings, normalisation="none", mean_db=None, std_db=None)


def leaves_waveforms(settings: AugmentationSettings) -> bool:
    """Return whether the augmentation never touches a waveform, only its picture."""
    return not any(getattr(settings, name) for name in _OF_WAVEFORMS)


def gather(parts: Iterable[tuple[Tensor, Tensor]], owner: NDArray[np.int64]) -> Levels:
    """Return batches of (level, n_valid), in all a row a window, as one."""
    made: Levels | None = None
    done = 0
    for level, n_valid in parts:
        if made is None:  # in place, not as a list of parts that is twice as large for a while
            # laid out as the transform lays them out, so that sums over them keep their order
            tall = level.stride(1) < level.stride(2)
            like = level.mT if tall else level
            whole = like.new_empty(len(owner), *like.shape[1:])
            made = Levels(whole.mT if tall else whole, n_valid.new_empty(len(owner)), owner)
        made.level[done : done + len(level)] = level
        made.n_valid[done : done + len(level)] = n_valid
        done += len(level)
    if made is None:
        raise ValueError("no windows: there is no clip to take levels of.")
    return made
