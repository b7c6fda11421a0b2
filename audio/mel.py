"""The mel scale, its triangular bands and the analysis window: numpy alone.

Shared by the two mel transforms, `audio.spectrogram.LogMel` (torch: inside the model) and
`audio.mel_numpy.NumpyLogMel` (conversion), which one test holds equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio.settings import SettingsError, SpectrogramSettings


def hz_to_mel(hz: NDArray[Any], scale: str) -> NDArray[np.float64]:
    """Return frequencies on the mel scale.

    slaney: linear below 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998).
    htk, kaldi: `2595 log10(1 + f / 700)` (O'Shaughnessy, 1987).
    """
    hz = np.asarray(hz, np.float64)
    if scale != "slaney":
        return 2595 * np.log10(1 + hz / 700)
    above = 15 + np.log(np.maximum(hz, 1e-9) / 1000) / (math.log(6.4) / 27)
    return np.where(hz < 1000, hz * 3 / 200, above)


def mel_to_hz(mel: NDArray[Any], scale: str) -> NDArray[np.float64]:
    """Return mel values in Hz; the inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale != "slaney":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((math.log(6.4) / 27) * (mel - 15)))


def mel_centres_hz(settings: SpectrogramSettings) -> NDArray[np.float64]:
    """Return the centre of each band, float64 (n_mels,), in Hz."""
    return mel_to_hz(_mel_edges(settings), settings.mel_scale)[1:-1]


def _mel_edges(settings: SpectrogramSettings) -> NDArray[np.float64]:
    ends = hz_to_mel(np.array([settings.f_min_hz, settings.f_max]), settings.mel_scale)
    return np.linspace(ends[0], ends[1], settings.n_mels + 2)


def mel_filter_bank(settings: SpectrogramSettings) -> NDArray[np.float32]:
    """Return the triangular bands' weights, float32 (n_fft // 2 + 1, n_mels).

    Raises:
        SettingsError: a band so narrow that no FFT bin falls into it. (Not for the kaldi scale:
            AST's published checkpoints were trained with such bands.)
    """
    # as np.fft.rfftfreq(n_fft, 1 / rate), without numpy.fft, which the conversion does not import
    bins_hz = np.arange(settings.n_fft // 2 + 1) * (settings.sample_rate_hz / settings.n_fft)
    points: NDArray[Any]
    if settings.mel_scale == "kaldi":
        points = hz_to_mel(bins_hz, "kaldi")
        edges = _mel_edges(settings)
    else:
        points = bins_hz
        edges = mel_to_hz(_mel_edges(settings), settings.mel_scale)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (points[:, None] - low) / (centre - low)
    falling = (high - points[:, None]) / (high - centre)
    bank = np.maximum(0, np.minimum(rising, falling))
    if settings.mel_scale == "kaldi":
        bank[-1] = 0  # Kaldi leaves the Nyquist bin out
    else:
        empty = np.flatnonzero(bank.sum(axis=0) == 0)
        if empty.size:
            raise SettingsError(
                f"n_mels={settings.n_mels} leaves {empty.size} bands without any bin of "
                f"n_fft={settings.n_fft} at {settings.sample_rate_hz} Hz (the first near "
                f"{centre[empty[0]]:.0f} Hz); lower n_mels, or raise n_fft or f_min_hz."
            )
    if settings.mel_norm == "slaney":
        hz = mel_to_hz(_mel_edges(settings), settings.mel_scale)
        bank *= 2 / (hz[2:] - hz[:-2])
    return bank.astype(np.float32)


@dataclass(frozen=True)
class BandBlock:
    """Neighbouring bands and the bins that they cover.

    bins, bands: slices of the FFT's bins and of the mel bands. weights: float32 (bins, bands).
    """

    bins: slice
    bands: slice
    weights: NDArray[np.float32]


def band_blocks(bank: NDArray[np.float32], width: int = 16) -> list[BandBlock]:
    """Return the bank as blocks of `width` bands, each with only the bins that they cover.

    The product over blocks is the dense one with its zeros left out: 3 to 8 times faster. Blocks
    of 16 were the fastest of 8, 16, 32 and 64 for 64 bands of 257 bins and 128 bands of 1025.
    """
    blocks = []
    for first in range(0, bank.shape[1], width):
        part = bank[:, first : first + width]
        used = np.flatnonzero(part.any(axis=1))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        bands = slice(first, first + part.shape[1])
        blocks.append(BandBlock(slice(low, high), bands, np.ascontiguousarray(part[low:high])))
    return blocks


def analysis_window(settings: SpectrogramSettings) -> NDArray[np.float32]:
    """Return the window, centred in a frame, float32 (frame_length,)."""
    n = settings.win_length
    turn = 2 * np.pi * np.arange(n) / max(1, n - 1 if settings.symmetric_window else n)
    shape = {
        "hann": 0.5 - 0.5 * np.cos(turn),
        "hamming": 0.54 - 0.46 * np.cos(turn),
        "blackman": 0.42 - 0.5 * np.cos(turn) + 0.08 * np.cos(2 * turn),
    }[settings.window]
    short = settings.frame_length - n
    return np.pad(shape, (short // 2, short - short // 2)).astype(np.float32)


def smoothing(settings: SpectrogramSettings) -> float:
    """Return the coefficient b of PCEN's smoother, `m[t] = (1 - b) m[t - 1] + b e[t]`.

    From the time constant in frames as librosa.pcen has it: `b = (sqrt(1 + 4 T^2) - 1) / (2 T^2)`.
    """
    t = settings.pcen_time_constant_s * settings.sample_rate_hz / settings.hop_length
    return (math.sqrt(1 + 4 * t * t) - 1) / (2 * t * t)


#: PCEN's input is the band's power or amplitude times this, as librosa.pcen's documentation has it
#: for samples in [-1, 1]: its bias and eps are meant for 32-bit integers.
PCEN_SCALE = 2.0**31
PCEN_EPS = 1e-6
_SMOOTHER_FRAMES = 128  # frames smoothed by one product


def smoother_weights(b: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return PCEN's smoother over one block as a matrix, so that no loop runs over frames.

    The smoothed block is `e @ weights + carried * fading`: weights (frames, frames) upper
    triangular, `b (1 - b) ** (t - s)`; fading (frames,), `(1 - b) ** (t + 1)` of what the block
    before ended with.
    """
    t = np.arange(_SMOOTHER_FRAMES)
    lag = t[None, :] - t[:, None]
    weights = np.where(lag >= 0, b * (1 - b) ** np.maximum(lag, 0), 0.0)
    return weights.astype(np.float32), ((1 - b) ** (t + 1)).astype(np.float32)
