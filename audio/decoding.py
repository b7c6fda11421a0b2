"""From a file to mono float32 samples at the file's own rate: whole, a piece, or block by block.

Plain 16-bit wavs are read by hand; wav, flac, ogg, opus, mp3, aiff, caf and others by libsndfile;
what it refuses goes to PyAV (FFmpeg) where that is installed: m4a, 3gp, amr, webm, wma, the sound
of videos, and caf, wav and others with codecs that libsndfile lacks.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audio.ffmpeg import av_blocks, av_pieces, read_av
from audio.riff import read_plain_wav
from audio.sound import (
    BLOCK_S,
    ClipError,
    Samples,
    Sound,
    Waveform,
    check_rate,
    check_samples,
    cut_off,
    start_of,
    to_mono,
    unreadable,
)

if TYPE_CHECKING:
    import soundfile

# libsndfile's log of a header that tells of more bytes than the file has: "data : 32000 (should be
# 18000)". Writers to a pipe put a size that none can have: that is no lie, they did not know.
_LIE = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_UNKNOWN_SIZE = 0x7FFF_0000
_UNKNOWN_FRAMES = 1 << 62  # what libsndfile says of a flac whose writer did not know its length

_REMEDY = "`pip install av` reads more formats"


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
    samples, rate, note = read_channels(path, start_s=start_s, duration_s=duration_s)
    return Sound(to_mono(samples), rate, note)


def read_channels(
    path: Path, *, start_s: float = 0.0, duration_s: float | None = None
) -> tuple[Samples, int, str | None]:
    """Return what `read_sound` does before the channels are mixed: int16 or float32 (n, channels).

    Raises:
        ClipError: as `decode`.
    """
    plain = read_plain_wav(path)
    if plain is not None:
        samples, rate = plain
        check_rate(path, rate)
        if start_s or duration_s is not None:
            start = start_of(path, start_s, rate, len(samples))
            n = len(samples) if duration_s is None else max(1, round(duration_s * rate))
            samples = samples[start : start + n]
        return samples, rate, None
    import soundfile

    _refuse(path)
    try:
        return _read_soundfile(path, start_s, duration_s)
    except (soundfile.LibsndfileError, RuntimeError) as first:
        why = _reason(first)
        check_rate(path, _told_rate(path))
    try:
        return *read_av(path, start_s, duration_s), None
    except ImportError:
        raise _needs_av(path, why) from None
    except ClipError:
        raise
    except Exception as second:  # PyAV's errors have many types
        raise unreadable(path, why, second) from None


def is_worth_another_try(reason: str) -> bool:
    """Return whether a file that could not be read for want of PyAV may be now."""
    return _REMEDY in reason and find_spec("av") is not None


def _refuse(path: Path) -> None:
    """Refuse what cannot be sound, as far as the file system knows."""
    try:
        if not path.exists():
            raise ClipError(path, "no such file.")
        if path.is_dir():
            raise ClipError(path, "is a folder.")
        if path.stat().st_size == 0:
            raise ClipError(path, "the file is empty.")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ClipError(path, f"cannot be opened ({error.strerror}).") from None


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
    return ClipError(path, f"libsndfile cannot read it ({why}); {_REMEDY}.")


def _opened(path: Path) -> soundfile.SoundFile:
    """Open a file to be read from start to end.

    python-soundfile seeks to where it is after each read, at which libsndfile's mp3 decoder loses
    the bits that frames lend one another: the first 400 samples after it come out wrong. It does
    not where it believes that it cannot seek.

    Raises:
        ClipError: it is headerless.
        soundfile.LibsndfileError: libsndfile cannot read it.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(os.fsencode(path))  # its name need not be UTF-8
    except TypeError:  # its name ends in .raw
        raise ClipError(
            path, "samples without a header: their rate is not known; write them as wav."
        ) from None
    file.seekable = lambda: False
    return file


def _sound_dtype(file: soundfile.SoundFile) -> str:
    # 16-bit files are read as integers: half the time of libsndfile's own conversion
    return "int16" if file.subtype == "PCM_16" else "float32"


def _read_soundfile(
    path: Path, start_s: float, duration_s: float | None
) -> tuple[Samples, int, str | None]:
    with _opened(path) as file:
        rate = file.samplerate
        check_rate(path, rate)
        if file.frames >= _UNKNOWN_FRAMES:
            return _read_to_the_end(file, path, start_s, duration_s), rate, None
        start = start_of(path, start_s, rate, file.frames)
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
        raise cut_off(path, told / rate, (start + len(samples)) / rate)
    check_samples(samples, path)
    return samples, rate, note


def _read_to_the_end(
    file: soundfile.SoundFile, path: Path, start_s: float, duration_s: float | None
) -> Samples:
    """Return the samples of a file, or of a piece of it, that does not tell its length."""
    rate = file.samplerate
    until = None if duration_s is None else round(start_s * rate) + max(1, round(duration_s * rate))
    kept, n = [], 0
    for block in _soundfile_blocks(file, path):
        kept.append(block)
        n += len(block)
        if until is not None and n >= until:
            break
    if not kept:
        raise ClipError(path, "no samples in it.")
    return np.concatenate(kept)[start_of(path, start_s, rate, n) : until]


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
            raise cut_off(path, seconds * told / max(there, 1), seconds)
    if ("without an End-Of-Stream flag" in log or "lacks an end-of-stream bit" in log) and (
        file.frames
    ):
        return "its Ogg stream has no end mark: the file may be cut off."
    return None


# Length, and block by block


def read_duration_s(path: Path) -> float | None:
    """Return a file's length in seconds, from its header where that tells, or None where it cannot
    be read."""
    plain = read_plain_wav(path)
    if plain is not None:
        return len(plain[0]) / plain[1]
    import soundfile

    try:
        told = soundfile.info(os.fsencode(path))
        if told.frames < _UNKNOWN_FRAMES:
            return float(told.duration)
    except Exception:  # libsndfile cannot read it; another may
        pass
    try:
        rate, blocks = sound_blocks(path)
        return sum(map(len, blocks)) / rate
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
        check_rate(path, _told_rate(path))
    else:
        try:
            check_rate(path, file.samplerate)
            _check_header(file, path, None)
        except ClipError:
            file.close()
            raise
        return file.samplerate, map(to_mono, _soundfile_blocks(file, path))
    try:
        rate, told_s, pieces = av_pieces(path)
    except ImportError:
        raise _needs_av(path, why) from None
    except ClipError:
        raise
    except Exception as second:
        raise unreadable(path, why, second) from None
    return rate, av_blocks(path, rate, told_s, pieces, why)


def _soundfile_blocks(file: soundfile.SoundFile, path: Path) -> Iterator[Samples]:
    """Yield the samples of a file, (n, channels), about 10 s at a time."""
    with file:
        size = BLOCK_S * file.samplerate
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
                check_samples(samples, path)
                yield samples
            n += len(samples)
            if len(samples) < size:
                break
        told = file.frames
        if n < told - file.samplerate // 10 and told < _UNKNOWN_FRAMES:
            raise cut_off(path, told / file.samplerate, n / file.samplerate)
