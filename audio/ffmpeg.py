"""Files that libsndfile cannot read, by PyAV (FFmpeg), where that is installed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio.sound import (
    BLOCK_S,
    ClipError,
    Waveform,
    check_length,
    check_rate,
    check_samples,
    start_of,
    to_mono,
    unreadable,
)

# FFmpeg's names of containers whose header has a length; of others it guesses from the bit rate
_TELL_LENGTH = ("matroska,webm", "caf")


def _check_caf(path: Path) -> None:
    """Refuse a caf whose data chunk tells of more than is there: FFmpeg would not say so."""
    with path.open("rb") as file:
        head = file.read(8)
        while head[:4] == b"caff" and len(chunk := file.read(12)) == 12:
            size = int.from_bytes(chunk[4:], "big", signed=True)  # -1: to the end of the file
            left = path.stat().st_size - file.tell()
            if chunk[:4] == b"data" and size > left:
                raise ClipError(
                    path,
                    f"cut off: its header tells of {size} bytes of sound, {left} are there. Get it "
                    "whole.",
                )
            if size < 0:
                return
            file.seek(size, 1)


def read_av(
    path: Path, start_s: float, duration_s: float | None
) -> tuple[NDArray[np.float32], int]:
    """Return the samples of a file or of a piece of it, (n, channels), and its rate in Hz.

    Raises:
        ImportError: PyAV is not installed.
        ClipError: there is no sound in it, it is damaged, cut off, or not finite.
        av.FFmpegError: FFmpeg cannot read it.
    """
    rate, told_s, pieces = av_pieces(path)
    start = round(start_s * rate)
    until = math.inf if duration_s is None else round((start_s + duration_s) * rate)
    kept: list[NDArray[np.float32]] = []
    n = 0
    for piece in pieces:
        if n + piece.shape[1] > start:
            kept.append(piece[:, max(0, start - n) :])
        n += piece.shape[1]
        if n >= until:
            break
    if not n:
        raise ClipError(path, "no samples in it.")
    start_of(path, start_s, rate, n)
    if duration_s is None:
        check_length(path, told_s, n, rate)
    samples = np.concatenate(kept, axis=1).T
    if duration_s is not None:
        samples = samples[: int(until) - start]
    check_samples(samples, path)
    return samples, rate


def av_pieces(path: Path) -> tuple[int, float | None, Iterator[NDArray[np.float32]]]:
    """Return the rate in Hz, the length that the header tells in seconds, and the sound piece by
    piece, float32 (channels, n)."""
    import av

    _check_caf(path)
    av.logging.set_level(av.logging.PANIC)  # what is wrong is told by errors, in a line each
    container = av.open(str(path))
    try:
        if not container.streams.audio:
            raise ClipError(path, "there is no sound in it.")
        stream = container.streams.audio[0]
        rate = int(stream.rate or 0)
        check_rate(path, rate)
        told_s = None
        if stream.duration is not None and stream.time_base is not None:
            told_s = float(stream.duration * stream.time_base)
        elif container.duration is not None and container.format.name in _TELL_LENGTH:
            told_s = container.duration / 1e6
    except BaseException:
        container.close()
        raise

    def pieces() -> Iterator[NDArray[np.float32]]:
        with container:
            to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            n = 0
            try:
                for frame in container.decode(stream):
                    for piece in to_float.resample(frame):
                        n += piece.samples
                        yield piece.to_ndarray()
            except av.FFmpegError as error:
                if not n:
                    raise
                raise ClipError(
                    path, f"damaged or cut off after {n / rate:.3f} s (FFmpeg: {error.strerror})."
                ) from None

    return rate, told_s, pieces()


def av_blocks(
    path: Path,
    rate: int,
    told_s: float | None,
    pieces: Iterator[NDArray[np.float32]],
    why: str,
) -> Iterator[Waveform]:
    """Yield the mono samples of what `av_pieces` gives, about 10 s at a time; why: libsndfile's."""
    held: list[NDArray[np.float32]] = []
    n_held = n = 0
    try:
        for piece in pieces:
            held.append(piece)
            n_held += piece.shape[1]
            if n_held >= BLOCK_S * rate:
                samples = np.concatenate(held, axis=1).T
                check_samples(samples, path)
                n += n_held
                held, n_held = [], 0
                yield to_mono(samples)
    except ClipError:
        raise
    except Exception as second:
        raise unreadable(path, why, second) from None
    if held:
        samples = np.concatenate(held, axis=1).T
        check_samples(samples, path)
        n += n_held
        yield to_mono(samples)
    check_length(path, told_s, n, rate)
