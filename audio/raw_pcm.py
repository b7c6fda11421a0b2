"""Raw PCM: samples without a header, read from a pipe as they come."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from audio.prediction_settings import RawSettings
from audio.sound import ClipError
from audio.windows import Waveform

#: NumPy's type of each format, and what a sample is divided by to be in [-1, 1].
_TYPES = {
    "u8": ("u1", 2.0**7),
    "s16le": ("<i2", 2.0**15),
    "s16be": (">i2", 2.0**15),
    "s24le": ("<i4", 2.0**31),  # three bytes, moved to the top of four
    "s32le": ("<i4", 2.0**31),
    "f32le": ("<f4", 1.0),
    "f64le": ("<f8", 1.0),
}

_READ_BYTES = 1 << 16


def samples_of(data: bytes, settings: RawSettings) -> Waveform:
    """Return raw bytes as mono samples, float32 (n,), in [-1, 1].

    data: a whole number of frames.

    >>> samples_of(bytes([0, 64, 0, 192]), RawSettings())
    array([ 0.5, -0.5], dtype=float32)
    """
    kind, full = _TYPES[settings.raw_format]
    if settings.raw_format == "s24le":
        bytes_ = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(bytes_), 4), np.uint8)
        wide[:, 1:] = bytes_
        values: NDArray[np.float64] = wide.reshape(-1).view(kind).astype(np.float64)
    else:
        values = np.frombuffer(data, kind).astype(np.float64)
    if settings.raw_format == "u8":
        values -= 128
    mono: Waveform = (values.reshape(-1, settings.raw_channels).mean(1) / full).astype(np.float32)
    return mono


def raw_blocks(
    stream: BinaryIO, settings: RawSettings, *, before_waiting: Callable[[], None] | None = None
) -> Iterator[Waveform]:
    """Yield the stream's samples as they come, float32 (n,); Ctrl-C ends it like its end.

    before_waiting: called whenever nothing is there to be read yet.

    Raises:
        ClipError: the stream ends within a sample, or holds NaN: its format is another.
    """
    name = Path("standard input")
    held = b""
    n = 0
    while True:
        try:
            if before_waiting is not None and not _is_ready(stream):
                before_waiting()
            # read would wait for all that it was asked for
            data = getattr(stream, "read1", stream.read)(_READ_BYTES)
        except KeyboardInterrupt:
            return
        if not data:
            break
        held += data
        whole = len(held) - len(held) % settings.frame_bytes
        if not whole:
            continue
        samples = samples_of(held[:whole], settings)
        held = held[whole:]
        if not np.isfinite(samples).all():
            raise ClipError(
                name,
                f"NaN or infinite after {n / settings.rate_hz:.3f} s; is it "
                f"--raw-format {settings.raw_format}?",
            )
        n += len(samples)
        yield samples
    if held:
        raise ClipError(
            name,
            f"ends {len(held)} bytes into a frame of {settings.frame_bytes}; are --raw-format "
            f"{settings.raw_format} and --raw-channels {settings.raw_channels} right?",
        )


def _is_ready(stream: BinaryIO) -> bool:
    """Return whether a read would not wait, where the system can tell."""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except (OSError, ValueError):  # no file of the system's: a buffer
        return True
