"""Waveforms at one rate, windows of equal length from those, and the store of decoded clips.

Resampling is soxr's HQ.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from audio.clips import Clip, Manifest
from audio.decoding import (
    decode,
    is_worth_another_try,
    read_duration_s,
    read_sound,
    sound_blocks,
)
from audio.files import file_state
from audio.settings import fingerprint
from audio.sound import ClipError, Sound, Waveform
from audio.windows import fit_length, window_starts

__all__ = [
    "ClipError",
    "Resampler",
    "Sound",
    "Waveform",
    "WaveformStore",
    "block_windows",
    "choose_clip_s",
    "decode",
    "fit_length",
    "open_store",
    "read_clip",
    "read_duration_s",
    "read_sound",
    "resample",
    "resampled_blocks",
    "stream_windows",
    "trim_silence",
    "window_starts",
]


def resample(waveform: Waveform, from_hz: int, to_hz: int) -> Waveform:
    """Return the waveform at another rate, by soxr's HQ filter."""
    if from_hz == to_hz or not waveform.size:
        return waveform
    import soxr

    out: Waveform = soxr.resample(waveform, from_hz, to_hz, quality="HQ")
    return out if out.size else np.zeros(1, np.float32)


class Resampler:
    """`resample` to one rate, for one thread: the filters are designed once for each rate met.

    For a clip of half a second that is half the work; the samples are the same to the bit.
    """

    def __init__(self, to_hz: int) -> None:
        self.to_hz = to_hz
        self._streams: dict[int, Any] = {}

    def __call__(self, waveform: Waveform, from_hz: int) -> Waveform:
        """Return the waveform at the rate."""
        if from_hz == self.to_hz or not waveform.size:
            return waveform
        stream = self._streams.get(from_hz)
        if stream is None:
            import soxr

            stream = soxr.ResampleStream(from_hz, self.to_hz, 1, dtype="float32", quality="HQ")
            self._streams[from_hz] = stream
        out: Waveform = stream.resample_chunk(waveform, last=True)
        stream.clear()
        return out if out.size else np.zeros(1, np.float32)


def read_clip(clip: Clip, sample_rate_hz: int) -> Waveform:
    """Return a clip's mono samples at a rate, float32 (n_samples,) in [-1, 1].

    Raises:
        ClipError: as `decode`.
    """
    waveform, rate = decode(clip.path, start_s=clip.start_s, duration_s=clip.duration_s)
    return resample(waveform, rate, sample_rate_hz)


def trim_silence(waveform: Waveform, top_db: float) -> Waveform:
    """Return the waveform without its quiet ends, as librosa.effects.trim does.

    Frames of 2048 samples, 512 apart and centred, are quiet where their mean power is `top_db` or
    more below the loudest frame's. A clip that is silent throughout stays whole.

    >>> len(trim_silence(np.pad(np.ones(5000, np.float32), 8000), 60.0))
    7168
    """
    length, hop = 2048, 512
    n = 1 + len(waveform) // hop
    squares = np.pad(waveform.astype(np.float64) ** 2, (length // 2, length // 2 + hop))
    # a frame is four hops: sums of hops, then of four neighbours
    hops = squares[: (n + 3) * hop].reshape(-1, hop).sum(axis=1)
    power = (hops[:n] + hops[1 : n + 1] + hops[2 : n + 2] + hops[3 : n + 3]) / length
    power = np.maximum(power, 1e-10)  # librosa's floor: below it, all is equally quiet
    loud = np.flatnonzero(power > power.max() * 10 ** (-top_db / 10))
    return waveform[loud[0] * hop : min(len(waveform), (loud[-1] + 1) * hop)]


def choose_clip_s(durations_s: Sequence[float], *, most_s: float = 10.0) -> float:
    """Return the window that holds 95 % of the clips whole, in seconds, at most `most_s`.

    >>> choose_clip_s([1.0] * 99 + [60.0])
    1.0
    """
    if not durations_s:
        raise ValueError("no durations: there is no usable clip to take the window from.")
    window = float(np.percentile(durations_s, 95, method="higher"))
    return min(most_s, max(0.1, math.ceil(window * 100 - 1e-6) / 100))


def stream_windows(
    path: Path, *, sample_rate_hz: int, window: int, hop: int
) -> Iterator[tuple[int, Waveform]]:
    """Yield (start, samples) windows of a file of any length, holding one block in memory.

    start: in samples at `sample_rate_hz`. The last window is flush with the end; a file shorter
    than a window gives one shorter piece.

    Raises:
        ClipError: as `decode`.
    """
    rate, blocks = sound_blocks(path)
    if rate != sample_rate_hz:
        blocks = resampled_blocks(blocks, rate, sample_rate_hz)
    empty = True
    for start, piece in block_windows(blocks, window=window, hop=hop):
        empty = False
        yield start, piece
    if empty:
        raise ClipError(path, "no samples in it.")


def block_windows(
    blocks: Iterable[Waveform], *, window: int, hop: int
) -> Iterator[tuple[int, Waveform]]:
    """Yield (start, samples) windows of blocks of samples, each as soon as it is full.

    The last window is flush with the end; fewer samples than a window give one shorter piece, none
    give nothing.
    """
    held = np.zeros(0, np.float32)
    first = 0  # where `held` starts in the recording
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
    if end > done_to:
        tail = held[-window:]
        yield end - len(tail), tail.copy()


def resampled_blocks(blocks: Iterator[Waveform], from_hz: int, to_hz: int) -> Iterator[Waveform]:
    import soxr

    converter = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield converter.resample_chunk(block)
    yield converter.resample_chunk(np.zeros(0, np.float32), last=True)


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
    killed goes on from there. Clips that cannot be used are in `failures`; where PyAV was missing
    and now is there, all is decoded anew.

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
    """Return the journal's whole rows, or None where it is of something else, not there, or to be
    made anew."""
    if not path.exists():
        return None
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # torn by a kill
        rows.append(json.loads(line))
    if not rows or rows[0] != identity:
        return None
    if any(is_worth_another_try(row.get("error", "")) for row in rows[1:]):
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
