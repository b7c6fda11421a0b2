"""What a file gives when it is read as sound, or why it cannot be; the checks of every reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.settings import UserError

Waveform = NDArray[np.float32]
Samples = NDArray[Any]  # int16 or float32 (n, channels), as a file has them

BLOCK_S = 10  # seconds held at once of a recording that is streamed

_HIGHEST_HZ = 768_000  # a header that tells of more is damaged


class ClipError(UserError):
    """A clip cannot be used. `str(error)` is one line: the path and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self.reason))


class Sound(NamedTuple):
    """What a file holds. samples: mono float32 (n,), in [-1, 1]. rate: in Hz. note: what is odd
    about it though it can be used, or None."""

    samples: Waveform
    rate: int
    note: str | None = None


def check_rate(path: Path, rate: int | None) -> None:
    """Refuse a rate in Hz that no recording has; None, where it is not known, passes."""
    if rate is not None and not 0 < rate <= _HIGHEST_HZ:
        raise ClipError(path, f"its header tells of a sample rate of {rate} Hz; it is damaged.")


def start_of(path: Path, start_s: float, rate: int, n: int) -> int:
    """Return where a piece starts in a file of `n` samples; refuse a start past its end."""
    start = round(start_s * rate)
    if start and start >= n:
        raise ClipError(path, f"start_s={start_s:g} is past its end at {n / rate:.3f} s.")
    return start


def check_length(path: Path, told_s: float | None, n: int, rate: int) -> None:
    """Refuse a file that gave much less than its header tells of."""
    # encoders pad by up to 2112 samples and round up to blocks of 1024, which some headers count
    if told_s is not None and n < 0.95 * told_s * rate - 3200:
        raise cut_off(path, told_s, n / rate)


def cut_off(path: Path, told_s: float, there_s: float) -> ClipError:
    """Return the error of a file that is shorter than its header tells, both in seconds."""
    return ClipError(
        path,
        f"cut off: its header tells of {told_s:.3f} s, {there_s:.3f} s are there. Get it whole, or "
        "list the piece to use in a CSV (start_s, duration_s).",
    )


def check_samples(samples: NDArray[Any], path: Path) -> None:
    """Refuse no samples, and samples that are NaN or infinite."""
    if not samples.size:
        raise ClipError(path, "no samples in it.")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        bad = int(np.size(samples) - np.isfinite(samples).sum())
        raise ClipError(path, f"{bad} of its {samples.size} samples are NaN or infinite.")


def _scale(samples: NDArray[Any]) -> np.float32:
    return np.float32(2.0**-15 if samples.dtype.kind == "i" else 1.0)


def to_float(samples: Samples) -> NDArray[np.float32]:
    """Return samples as float32 in [-1, 1]."""
    return np.asarray(np.multiply(samples, _scale(samples), dtype=np.float32))


def to_mono(samples: NDArray[Any]) -> Waveform:
    """Return (n, channels) as the mean of the channels, float32 in [-1, 1]."""
    scale = _scale(samples)
    channels = samples.shape[1]
    if channels == 1:
        return np.asarray(np.multiply(samples[:, 0], scale, dtype=np.float32))
    mono: Waveform = samples[:, 0].astype(np.float32)
    for channel in range(1, channels):  # numpy's mean over a short axis takes 10 times as long
        mono += samples[:, channel]
    mono *= scale / np.float32(channels)
    return mono


# libsndfile


def unreadable(path: Path, why: str, second: Exception) -> ClipError:
    """Return the error of a file that libsndfile refused (why), and then FFmpeg."""
    told = getattr(second, "strerror", None) or type(second).__name__
    return ClipError(
        path, f"not a sound file that can be read (libsndfile: {why}; FFmpeg: {told})."
    )
