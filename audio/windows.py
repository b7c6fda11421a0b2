"""Windows of equal length from waveforms of any: numpy alone, since a saved model carries it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def mean_by_clip(
    outputs: Sequence[NDArray[np.float32]], owner: NDArray[np.int64], n_clips: int
) -> NDArray[np.float32]:
    """Return the mean over each clip's windows, float32 (n_clips, n_labels).

    outputs: batches of (n, n_labels), in all a row a window. owner: the clip of each window.
    """
    chances = np.concatenate(outputs)
    sums = np.zeros((n_clips, chances.shape[1]), np.float32)
    np.add.at(sums, owner, chances)
    sums /= np.bincount(owner, minlength=n_clips)[:, None]
    return sums
