"""From a file to mono float32 samples at the file's own rate: whole, a piece, or block by block.

Plain 16-bit wavs are read by hand; wav, flac, ogg, opus, mp3, aiff, caf and others by libsndfile;
what it refuses goes to PyAV (FFmpeg) where that is installed: m4a, 3gp, amr, webm, wma, the sound
of videos, and caf, wav and others with codecs that libsndfile lacks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.riff import read_plain_wav
from audio.settings import UserError

if TYPE_CHECKING:
    import soundfile

Waveform = NDArray[np.float32]

# FFmpeg's names of containers whose header has a length; of others it guesses from the bit rate
_TELL_LENGTH = ("matroska,webm", "caf")

_BLOCK_S = 10  # seconds held at once of a recording that is streamed

# libsndfile's log of a header that tells of more bytes than the file has: "data : 32000 (should be
# 18000)". Writers to a pipe put a size that none can have: that is no lie, they did not know.
_LIE = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_UNKNOWN_SIZE = 0x7FFF_0000

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


def decode(
    path: Path, *, start_s: float = 0.0, duration_s: float | None = None
) -> tuple[Waveform, int]:
    """Return the mono samples of a file, float32 (n_samples,) in [-1, 1], and its rate in Hz.

    Raises:
        ClipError: the file is missing, empty, no sound, cut off, without samples, or holds NaN.
    """
    return read_sound(path, start_s=start_s, duration_s=duration_s)[:2]


def read_sound(path: Path, *, start_s: float = 0.0, duration_s: float | None = None) -> Sound:
    """Return the mono samples of a file or of a piece of it, and what is odd about it.

    Raises:
        ClipError: as `decode`.
    """
    plain = read_plain_wav(path)
    if plain is not None:
        samples, rate = plain
        _check_rate(path, rate)
        if start_s or duration_s is not None:
            start = _start(path, start_s, rate, len(samples))
            n = len(samples) if duration_s is None else max(1, round(duration_s * rate))
            samples = samples[start : start + n]
        return Sound(_to_mono(samples), rate)
    import soundfile

    _refuse(path)
    try:
        return _read_soundfile(path, start_s, duration_s)
    except (soundfile.LibsndfileError, RuntimeError) as first:
        why = _reason(first)
        _check_rate(path, _told_rate(path))
    try:
        return _read_av(path, start_s, duration_s)
    except ImportError:
        raise _needs_av(path, why) from None
    except ClipError:
        raise
    except Exception as second:  # PyAV's errors have many types
        raise _unreadable(path, why, second) from None


def _refuse(path: Path) -> None:
    """Refuse what cannot be sound, as far as the file system knows."""
    if not path.exists():
        raise ClipError(path, "no such file.")
    if path.is_dir():
        raise ClipError(path, "is a folder.")
    if path.stat().st_size == 0:
        raise ClipError(path, "the file is empty.")


def _check_rate(path: Path, rate: int | None) -> None:
    if rate is not None and not 0 < rate <= _HIGHEST_HZ:
        raise ClipError(path, f"its header tells of a sample rate of {rate} Hz; it is damaged.")


def _told_rate(path: Path) -> int | None:
    """Return the rate in a wav's header, which libsndfile refuses without a word where it is 0."""
    try:
        with path.open("rb") as file:
            head = file.read(28)
    except OSError:
        return None
    is_wav = len(head) == 28 and head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt "
    return int.from_bytes(head[24:28], "little") if is_wav else None


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return text or "its header is damaged or cut off"


def _needs_av(path: Path, why: str) -> ClipError:
    return ClipError(
        path, f"libsndfile cannot read it ({why}); `pip install av` reads more formats."
    )


def _unreadable(path: Path, why: str, second: Exception) -> ClipError:
    told = getattr(second, "strerror", None) or type(second).__name__
    return ClipError(
        path, f"not a sound file that can be read (libsndfile: {why}; FFmpeg: {told})."
    )


def _start(path: Path, start_s: float, rate: int, n: int) -> int:
    start = round(start_s * rate)
    if start and start >= n:
        raise ClipError(path, f"start_s={start_s:g} is past its end at {n / rate:.3f} s.")
    return start


def _check_length(path: Path, told_s: float | None, n: int, rate: int) -> None:
    """Refuse a file that gave much less than its header tells of."""
    # encoders pad by up to 2112 samples and round up to blocks of 1024, which some headers count
    if told_s is not None and n < 0.95 * told_s * rate - 3200:
        raise _cut_off(path, told_s, n / rate)


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


def _cut_off(path: Path, told_s: float, there_s: float) -> ClipError:
    return ClipError(
        path,
        f"cut off: its header tells of {told_s:.3f} s, {there_s:.3f} s are there. Get it whole, or "
        "list the piece to use in a CSV (start_s, duration_s).",
    )


def _check(samples: NDArray[Any], path: Path) -> None:
    if not samples.size:
        raise ClipError(path, "no samples in it.")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        bad = int(np.size(samples) - np.isfinite(samples).sum())
        raise ClipError(path, f"{bad} of its {samples.size} samples are NaN or infinite.")


def _to_mono(samples: NDArray[Any]) -> Waveform:
    """Return (n, channels) as the mean of the channels, float32 in [-1, 1]."""
    scale = np.float32(2.0**-15 if samples.dtype.kind == "i" else 1.0)
    channels = samples.shape[1]
    if channels == 1:
        return np.asarray(np.multiply(samples[:, 0], scale, dtype=np.float32))
    mono: Waveform = samples[:, 0].astype(np.float32)
    for channel in range(1, channels):  # numpy's mean over a short axis takes 10 times as long
        mono += samples[:, channel]
    mono *= scale / np.float32(channels)
    return mono


# libsndfile


def _opened(path: Path) -> soundfile.SoundFile:
    """Open a file to be read from start to end.

    python-soundfile seeks to where it is after each read, at which libsndfile's mp3 decoder loses
    the bits that frames lend one another: the first 400 samples after it come out wrong. It does
    not where it believes that it cannot seek.
    """
    import soundfile

    file = soundfile.SoundFile(path)
    file.seekable = lambda: False
    return file


def _sound_dtype(file: soundfile.SoundFile) -> str:
    # 16-bit files are read as integers: half the time of libsndfile's own conversion
    return "int16" if file.subtype == "PCM_16" else "float32"


def _read_soundfile(path: Path, start_s: float, duration_s: float | None) -> Sound:
    with _opened(path) as file:
        rate = file.samplerate
        _check_rate(path, rate)
        start = _start(path, start_s, rate, file.frames)
        if start and file.subtype.startswith("MPEG"):
            file.read(start, dtype="float32")  # seeking in an mp3 is off by up to a frame or more
        elif start:
            file.seek(start)
        wanted = math.inf if duration_s is None else max(1, round(duration_s * rate))
        n = int(min(file.frames - start, wanted))
        note = _check_header(file, path, None if duration_s is None else start + int(wanted))
        samples = file.read(n, dtype=_sound_dtype(file), always_2d=True)
        told = file.frames
    if duration_s is None and len(samples) < told - start - rate // 10:
        raise _cut_off(path, told / rate, (start + len(samples)) / rate)
    _check(samples, path)
    return Sound(_to_mono(samples), rate, note)


def _check_header(file: soundfile.SoundFile, path: Path, until: int | None) -> str | None:
    """Refuse a header that tells of more than is there, unless the piece up to frame `until` is.

    Returns a note about an Ogg stream without its end.
    """
    log = file.extra_info
    lie = _LIE.search(log)
    if lie and file.frames:
        told, there = int(lie[1]), int(lie[2])
        cut = there < told < _UNKNOWN_SIZE and (until is None or until > file.frames)
        if cut:
            seconds = file.frames / file.samplerate
            raise _cut_off(path, seconds * told / max(there, 1), seconds)
    if ("without an End-Of-Stream flag" in log or "lacks an end-of-stream bit" in log) and (
        file.frames
    ):
        return "its Ogg stream has no end mark: the file may be cut off."
    return None


# PyAV


def _read_av(path: Path, start_s: float, duration_s: float | None) -> Sound:
    rate, told_s, pieces = _av_pieces(path)
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
    _start(path, start_s, rate, n)
    if duration_s is None:
        _check_length(path, told_s, n, rate)
    samples = np.concatenate(kept, axis=1).T
    if duration_s is not None:
        samples = samples[: int(until) - start]
    _check(samples, path)
    return Sound(_to_mono(samples), rate)


def _av_pieces(path: Path) -> tuple[int, float | None, Iterator[NDArray[np.float32]]]:
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
        _check_rate(path, rate)
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


# Length, and block by block


def read_duration_s(path: Path) -> float | None:
    """Return a file's length in seconds from its header, or None where that cannot be read."""
    plain = read_plain_wav(path)
    if plain is not None:
        return len(plain[0]) / plain[1]
    import soundfile

    try:
        return float(soundfile.info(path).duration)
    except Exception:
        try:
            waveform, rate = decode(path)
            return len(waveform) / rate
        except ClipError:
            return None


def sound_blocks(path: Path) -> tuple[int, Iterator[Waveform]]:
    """Return a file's rate in Hz and its mono samples, about 10 s at a time.

    Raises:
        ClipError: as `decode`; while iterating, too.
    """
    import soundfile

    _refuse(path)
    try:
        file = _opened(path)
    except (soundfile.LibsndfileError, RuntimeError) as first:
        why = _reason(first)
        _check_rate(path, _told_rate(path))
    else:
        try:
            _check_rate(path, file.samplerate)
            _check_header(file, path, None)
        except ClipError:
            file.close()
            raise
        return file.samplerate, _soundfile_blocks(file, path)
    try:
        rate, told_s, pieces = _av_pieces(path)
    except ImportError:
        raise _needs_av(path, why) from None
    except ClipError:
        raise
    except Exception as second:
        raise _unreadable(path, why, second) from None
    return rate, _av_blocks(path, rate, told_s, pieces, why)


def _soundfile_blocks(file: soundfile.SoundFile, path: Path) -> Iterator[Waveform]:
    with file:
        size = _BLOCK_S * file.samplerate
        dtype = _sound_dtype(file)
        n = 0
        while True:
            try:
                samples = file.read(size, dtype=dtype, always_2d=True)
            except RuntimeError as error:
                at = n / file.samplerate
                raise ClipError(
                    path, f"damaged or cut off after {at:.3f} s (libsndfile: {_reason(error)})."
                ) from None
            if len(samples):
                _check(samples, path)
                yield _to_mono(samples)
            n += len(samples)
            if len(samples) < size:
                break
        if n < file.frames - file.samplerate // 10:
            raise _cut_off(path, file.frames / file.samplerate, n / file.samplerate)


def _av_blocks(
    path: Path,
    rate: int,
    told_s: float | None,
    pieces: Iterator[NDArray[np.float32]],
    why: str,
) -> Iterator[Waveform]:
    held: list[NDArray[np.float32]] = []
    n_held = n = 0
    try:
        for piece in pieces:
            held.append(piece)
            n_held += piece.shape[1]
            if n_held >= _BLOCK_S * rate:
                samples = np.concatenate(held, axis=1).T
                _check(samples, path)
                n += n_held
                held, n_held = [], 0
                yield _to_mono(samples)
    except ClipError:
        raise
    except Exception as second:
        raise _unreadable(path, why, second) from None
    if held:
        samples = np.concatenate(held, axis=1).T
        _check(samples, path)
        n += n_held
        yield _to_mono(samples)
    _check_length(path, told_s, n, rate)
