"""From a file to mono float32 samples at one rate, and windows of equal length from those.

Decoding is libsndfile's (wav, flac, ogg, opus, mp3, aiff, caf); what it refuses goes to PyAV where
that is installed (m4a, 3gp, amr, webm, wma). Resampling is soxr's HQ.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audio.clips import Clip, Manifest
from audio.files import file_state
from audio.settings import UserError, fingerprint

Waveform = NDArray[np.float32]


class ClipError(UserError):
    """A clip cannot be used. `str(error)` is one line: the path and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self.reason))


def _refusal(path: Path) -> str | None:
    """Return why a file cannot be sound, as far as the file system knows."""
    if not path.exists():
        return "no such file."
    if path.is_dir():
        return "is a folder."
    if path.stat().st_size == 0:
        return "the file is empty."
    return None


def _check(samples: NDArray[Any], path: Path) -> None:
    if not samples.size:
        raise ClipError(path, "no samples in it.")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        bad = int(np.size(samples) - np.isfinite(samples).sum())
        raise ClipError(path, f"{bad} of its {samples.size} samples are NaN or infinite.")


def _to_mono(samples: NDArray[Any]) -> Waveform:
    """Return (n, channels) as the mean of the channels, float32 in [-1, 1]."""
    scale = 2.0**-15 if samples.dtype == np.int16 else 1.0
    if samples.shape[1] == 1:
        mono = samples[:, 0].astype(np.float32)
    else:
        mono = samples.mean(axis=1, dtype=np.float32)
    return np.multiply(mono, np.float32(scale), dtype=np.float32)


def _sound_dtype(file: soundfile.SoundFile) -> str:
    # 16-bit files are read as integers: half the time of libsndfile's own conversion
    return "int16" if file.subtype == "PCM_16" else "float32"


def _decode_soundfile(path: Path, start_s: float, duration_s: float | None) -> tuple[Waveform, int]:
    with soundfile.SoundFile(path) as file:
        rate = file.samplerate
        start = round(start_s * rate)
        if start and start >= file.frames:
            have = file.frames / rate
            raise ClipError(path, f"start_s={start_s:g} is past its end at {have:.3f} s.")
        if start:
            file.seek(start)
        n = -1 if duration_s is None else max(1, round(duration_s * rate))
        samples = file.read(n, dtype=_sound_dtype(file), always_2d=True)
    _check(samples, path)
    return _to_mono(samples), rate


def _decode_av(path: Path, start_s: float, duration_s: float | None) -> tuple[Waveform, int]:
    import av

    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise ClipError(path, "there is no sound in it.")
        stream = container.streams.audio[0]
        rate = int(stream.rate or 0)
        if rate <= 0:
            raise ClipError(path, f"its sample rate is {rate} Hz.")
        to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        until = math.inf if duration_s is None else round((start_s + duration_s) * rate)
        pieces: list[NDArray[np.float32]] = []
        n = 0
        for frame in container.decode(stream):
            for piece in to_float.resample(frame):
                pieces.append(piece.to_ndarray())
                n += pieces[-1].shape[1]
            if n >= until:
                break
    if not pieces:
        raise ClipError(path, "no samples in it.")
    samples = np.concatenate(pieces, axis=1).T
    start = round(start_s * rate)
    if start >= len(samples):
        have = len(samples) / rate
        raise ClipError(path, f"start_s={start_s:g} is past its end at {have:.3f} s.")
    samples = samples[start : None if duration_s is None else int(until)]
    _check(samples, path)
    return _to_mono(samples), rate


def decode(
    path: Path, *, start_s: float = 0.0, duration_s: float | None = None
) -> tuple[Waveform, int]:
    """Return the mono samples of a file, float32 (n_samples,) in [-1, 1], and its rate in Hz.

    Raises:
        ClipError: the file is missing, empty, no sound, without samples, or holds NaN.
    """
    reason = _refusal(path)
    if reason:
        raise ClipError(path, reason)
    try:
        return _decode_soundfile(path, start_s, duration_s)
    except (soundfile.LibsndfileError, RuntimeError) as first:
        why = str(getattr(first, "error_string", first)).strip().rstrip(".")
    try:
        return _decode_av(path, start_s, duration_s)
    except ImportError:
        raise ClipError(
            path, f"libsndfile cannot read it ({why}); `pip install av` reads more formats."
        ) from None
    except ClipError:
        raise
    except Exception:  # PyAV's errors have many types; each means that FFmpeg cannot read it either
        raise ClipError(path, f"not a sound file that can be read ({why}).") from None


def resample(waveform: Waveform, from_hz: int, to_hz: int) -> Waveform:
    """Return the waveform at another rate, by soxr's HQ filter."""
    if from_hz == to_hz or not waveform.size:
        return waveform
    out: Waveform = soxr.resample(waveform, from_hz, to_hz, quality="HQ")
    return out if out.size else np.zeros(1, np.float32)


def read_clip(clip: Clip, sample_rate_hz: int) -> Waveform:
    """Return a clip's mono samples at a rate, float32 (n_samples,) in [-1, 1].

    Raises:
        ClipError: as `decode`.
    """
    waveform, rate = decode(clip.path, start_s=clip.start_s, duration_s=clip.duration_s)
    return resample(waveform, rate, sample_rate_hz)


def read_duration_s(path: Path) -> float | None:
    """Return a file's length in seconds from its header, or None where that cannot be read."""
    try:
        return float(soundfile.info(path).duration)
    except Exception:
        try:
            waveform, rate = decode(path)
            return len(waveform) / rate
        except ClipError:
            return None


def choose_clip_s(durations_s: Sequence[float], *, most_s: float = 10.0) -> float:
    """Return the window that holds 95 % of the clips whole, in seconds, at most `most_s`.

    >>> choose_clip_s([1.0] * 99 + [60.0])
    1.0
    """
    if not durations_s:
        raise ValueError("no durations: there is no usable clip to take the window from.")
    window = float(np.percentile(durations_s, 95, method="higher"))
    return min(most_s, max(0.1, math.ceil(window * 100 - 1e-6) / 100))


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


def stream_windows(
    path: Path, *, sample_rate_hz: int, window: int, hop: int
) -> Iterator[tuple[int, Waveform]]:
    """Yield (start, samples) windows of a file of any length, holding one block in memory.

    start: in samples at `sample_rate_hz`. The last window is flush with the end; a file shorter
    than a window gives one shorter piece.

    Raises:
        ClipError: as `decode`.
    """
    reason = _refusal(path)
    if reason:
        raise ClipError(path, reason)
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError):
        blocks = iter([read_clip(Clip(path, ""), sample_rate_hz)])  # PyAV: whole
    else:
        blocks = _stream_blocks(file, path, sample_rate_hz)
    held = np.zeros(0, np.float32)
    first = 0  # where `held` starts in the file
    done_to = 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= window:
            if first + window > done_to:  # not told before the last block came
                yield first, held[:window].copy()
                done_to = first + window
            if len(held) < window + hop:
                break
            held = held[hop:]
            first += hop
    end = first + len(held)
    if end == 0:
        raise ClipError(path, "no samples in it.")
    if end > done_to:
        tail = held[-window:]
        yield end - len(tail), tail.copy()


def _stream_blocks(
    file: soundfile.SoundFile, path: Path, sample_rate_hz: int
) -> Iterator[Waveform]:
    with file:
        rate = file.samplerate
        dtype = _sound_dtype(file)
        converter = None
        if rate != sample_rate_hz:
            converter = soxr.ResampleStream(rate, sample_rate_hz, 1, dtype="float32", quality="HQ")
        while True:
            samples = file.read(10 * rate, dtype=dtype, always_2d=True)
            if len(samples):
                _check(samples, path)
            mono = _to_mono(samples)
            last = len(samples) < 10 * rate
            yield mono if converter is None else converter.resample_chunk(mono, last=last)
            if last:
                return


@dataclass(frozen=True)
class WaveformStore:
    """Decoded clips, end to end in one float32 array that processes can share.

    samples: float32 (total,), memory-mapped. starts, lengths: int64 (n_clips,), in samples.
    keys: `Clip.key` of each. failures: (path, reason) of the clips that are not in it.
    """

    samples: NDArray[np.float32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    keys: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Waveform:
        """Return clip `i`, float32 (n_samples,)."""
        return self.samples[self.starts[i] : self.starts[i] + self.lengths[i]]


def open_store(
    manifest: Manifest,
    *,
    sample_rate_hz: int,
    folder: Path,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> WaveformStore:
    """Return the manifest's clips decoded at a rate, kept in `folder` for the next time.

    A journal (`index.jsonl`) is appended after the samples of every 256 clips, so a decode that was
    killed goes on from there. Clips that cannot be used are in `failures`.

    Raises:
        OSError: the folder cannot be written.
    """
    identity = {
        "manifest": fingerprint([[c.key, file_state(c.path)] for c in manifest.clips]),
        "sample_rate_hz": sample_rate_hz,
    }
    folder.mkdir(parents=True, exist_ok=True)
    index_path, samples_path = folder / "index.jsonl", folder / "samples.f32"
    rows = _read_journal(index_path, identity)
    if rows is None or not samples_path.exists():
        index_path.write_text(json.dumps(identity) + "\n", encoding="utf-8")
        samples_path.write_bytes(b"")
        rows = []
    end = sum(row["length"] for row in rows)
    if samples_path.stat().st_size < 4 * end:  # the samples were lost: start over
        index_path.unlink()
        return open_store(
            manifest,
            sample_rate_hz=sample_rate_hz,
            folder=folder,
            workers=workers,
            progress=progress,
        )
    todo = manifest.clips[len(rows) :]
    if todo:
        with samples_path.open("r+b") as samples_file, index_path.open("r+b") as index_file:
            samples_file.truncate(4 * end)
            samples_file.seek(0, os.SEEK_END)
            _cut_torn_line(index_file)
            _decode_into(
                samples_file,
                index_file,
                todo,
                sample_rate_hz,
                workers,
                rows,
                len(manifest),
                progress,
            )
    lengths = np.array([row["length"] for row in rows], np.int64)
    starts = np.cumsum(lengths) - lengths
    usable = [i for i, row in enumerate(rows) if "error" not in row]
    samples = np.memmap(samples_path, np.float32, "r") if lengths.sum() else np.zeros(0, np.float32)
    return WaveformStore(
        samples=samples,
        starts=starts[usable],
        lengths=lengths[usable],
        keys=tuple(rows[i]["key"] for i in usable),
        failures=tuple((row["path"], row["error"]) for row in rows if "error" in row),
    )


def _read_journal(path: Path, identity: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the journal's whole rows, or None where it is of something else or not there."""
    if not path.exists():
        return None
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # torn by a kill
        rows.append(json.loads(line))
    if not rows or rows[0] != identity:
        return None
    return rows[1:]


def _cut_torn_line(file: IO[bytes]) -> None:
    """Leave the file open at the end of its last whole line."""
    text = file.read()
    whole = text.rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(whole)


def _decode_into(
    samples_file: IO[bytes],
    index_file: IO[bytes],
    clips: Sequence[Clip],
    sample_rate_hz: int,
    workers: int,
    rows: list[dict[str, Any]],
    n_all: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    def read(clip: Clip) -> Waveform | str:
        try:
            return read_clip(clip, sample_rate_hz)
        except ClipError as error:
            return error.reason

    with ThreadPoolExecutor(workers) as pool:  # soundfile and soxr release the GIL
        for first in range(0, len(clips), 256):  # so that only a few decoded clips wait at once
            some = clips[first : first + 256]
            for clip, result in zip(some, pool.map(read, some), strict=True):
                row: dict[str, Any] = {"key": clip.key, "length": 0}
                if isinstance(result, str):
                    row |= {"path": str(clip.path), "error": result}
                else:
                    row["length"] = len(result)
                    samples_file.write(np.ascontiguousarray(result, np.float32).tobytes())
                rows.append(row)
                index_file.write(json.dumps(row).encode() + b"\n")
                if progress:
                    progress(len(rows), n_all)
            samples_file.flush()  # before the journal, which says that they are there
            index_file.flush()
