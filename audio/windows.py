"""Windows of equal length from waveforms of any: numpy alone, since a saved model carries it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]


def fit_length(waveform: Waveform, n_samples: int, *, padding: str = "zeros") -> Waveform:
    """Return exactly `n_samples`: the middle of a longer clip; a shorter one padded at its end."""
    n = len(waveform)
    if n >= n_samples:
        start = (n - n_samples) // 2
        return waveform[start : start + n_samples]
    if padding == "repeat" and n:
        return np.resize(waveform, n_samples)
    out = np.zeros(n_samples, np.float32)
    out[:n] = waveform
    return out


def window_starts(n_samples: int, window: int) -> list[int]:
    """Return where windows start that cover a clip: end to end, the last one flush with its end.

    >>> window_starts(25, 10)
    [0, 10, 15]
    """
    starts = list(range(0, max(n_samples - window, 0) + 1, window))
    if starts[-1] + window < n_samples:
        starts.append(n_samples - window)
    return starts


def fitted_windows(
    waveform: Waveform, n_samples: int, *, padding: str
) -> Iterator[tuple[Waveform, int]]:
    """Yield the windows that cover a clip: (samples (n_samples,), how many are its own)."""
    for start in window_starts(len(waveform), n_samples):
        piece = waveform[start : start + n_samples]
        fitted = fit_length(piece, n_samples, padding=padding)
        yield fitted, n_samples if padding == "repeat" else len(piece)


def batched_windows(
    waveforms: Iterable[Waveform], n_samples: int, *, padding: str, batch_size: int
) -> Iterator[tuple[Waveform, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the windows that cover the clips, `batch_size` at a time: samples (n, n_samples), how
    many are each one's own (n,), and the clip that each is of (n,)."""
    windows = (
        (piece, n, i)
        for i, waveform in enumerate(waveforms)
        for piece, n in fitted_windows(waveform, n_samples, padding=padding)
    )
    while some := list(islice(windows, batch_size)):
        pieces, own, owner = zip(*some, strict=True)
        yield np.stack(pieces), np.array(own, np.int64), np.array(owner, np.int64)


def mean_by_clip(chances: NDArray[np.float32], owner: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean over each clip's windows, float32 (n_clips, n_labels).

    chances: (n_windows, n_labels). owner: the clip of each window; every clip has one.
    """
    count = np.bincount(owner)
    sums = np.zeros((len(count), chances.shape[1]), np.float32)
    np.add.at(sums, owner, chances)
    sums /= count[:, None]
    return sums
