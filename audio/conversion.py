"""From clips to levels, many clips at a time, on as many cores as there are.

A worker (a thread, or a forked process where that can be) takes a few clips and does everything for
them: read, mix, resample, cut, mel, and hands the levels to a sink (`PictureFolder`,
`audio.shards.ShardFolder`) that writes them. Nothing waits for a stage, and what a worker works on
stays in its cache.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from audio.clips import Clip, Manifest
from audio.crew import by_processes, by_threads, can_fork, cores
from audio.decoding import read_duration_s, read_sound, sound_blocks
from audio.files import write_atomically
from audio.images import Orientation, colour_table, encode_pictures
from audio.mel_numpy import NumpyLogMel
from audio.settings import CutSettings, SpectrogramSettings
from audio.sound import ClipError, Waveform
from audio.waveform import Resampler, fit_length, resampled_blocks, trim_silence

Levels = NDArray[np.float32]
LevelFunction = Callable[[Waveform, NDArray[np.int64]], Levels]

_MOST_CLIPS = 128  # of one worker at once; 32 are a tenth slower where clips last half a second
_FEWEST_CLIPS = 8
_SHARES_EACH = 8  # so that no worker has much to do when the others are done
_MOST_SAMPLES = 1 << 21  # of those clips together: 8 MB
_LONG_BYTES = 1 << 25  # files from here on are streamed, if only a part of them is shown,
_LONG_S = 60.0  # and pieces of them from here on


class Sink(Protocol):
    """Where levels go. Called from several threads at once, each with rows of its own.

    may_be_copied: whether copies of it in several processes may write, each its own rows.
    """

    @property
    def may_be_copied(self) -> bool: ...

    def write(self, rows: Sequence[int], levels: Levels, n_valid: Sequence[int]) -> None:
        """Take the levels (n, n_mels, n_frames) of some of the manifest's clips."""

    def skip(self, row: int, reason: str) -> None:
        """Be told that a clip cannot be used, and why."""


@dataclass
class Outcome:
    """What became of the clips. failed, notes: why, or what is odd, by the clip's row. n_cut: clips
    longer than the window. n_new: clips that went to the sink."""

    failed: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    n_cut: int = 0
    n_new: int = 0

    def add(self, other: Outcome) -> None:
        """Take in what became of other clips."""
        self.failed |= other.failed
        self.notes |= other.notes
        self.n_cut += other.n_cut
        self.n_new += other.n_new


@dataclass(frozen=True)
class PictureFolder:
    """A sink that writes a PNG a clip. paths: relative to root, by row."""

    root: Path
    paths: Sequence[Path]
    settings: SpectrogramSettings
    colormap: str | None = None
    orientation: Orientation = "upright"
    may_be_copied: bool = True

    def write(self, rows: Sequence[int], levels: Levels, n_valid: Sequence[int]) -> None:
        colours = None if self.colormap is None else (self.colormap, colour_table(self.colormap))
        pictures = encode_pictures(
            levels,
            self.settings,
            n_valid=n_valid,
            colours=colours,
            orientation=self.orientation,
        )
        root = str(self.root)
        for row, png in zip(rows, pictures, strict=True):
            write_atomically(f"{root}/{self.paths[row]}", png)

    def skip(self, row: int, reason: str) -> None:
        pass


def read_durations(clips: Sequence[Clip], *, workers: int) -> list[float | None]:
    """Return the length of each clip in seconds, or None where it cannot be read; a clip that is a
    piece of a file has the length of the piece."""
    paths = list({clip.path for clip in clips if clip.duration_s is None})

    def measure(path: Path) -> Iterator[tuple[Path, float | None]]:
        yield path, read_duration_s(path)

    found = dict(by_threads(iter(paths), measure, workers))
    lengths: list[float | None] = []
    for clip in clips:
        whole = clip.duration_s if clip.duration_s is not None else found[clip.path]
        if whole is not None and clip.duration_s is None:
            whole = whole - clip.start_s if whole > clip.start_s else None
        lengths.append(whole)
    return lengths


def as_windows(
    manifest: Manifest,
    durations_s: Sequence[float | None],
    settings: SpectrogramSettings,
    overlap_percent: float,
) -> Manifest:
    """Return the manifest with every clip longer than a window replaced by its windows.

    Windows are `clip_s` long, each overlapping the one before by `overlap_percent`; the last one is
    flush with the clip's end. Windows of one recording are of one group.
    """
    rate, window = settings.sample_rate_hz, settings.n_samples
    hop = max(1, round(window * (1 - overlap_percent / 100)))
    clips: list[Clip] = []
    for clip, duration in zip(manifest.clips, durations_s, strict=True):
        n = 0 if duration is None else round(duration * rate)
        if n <= window:
            clips.append(clip)
            continue
        starts = list(range(0, n - window + 1, hop))
        if starts[-1] + window < n:
            starts.append(n - window)
        group = clip.group if clip.group is not None else manifest.relative(clip.path)
        clips += [
            replace(
                clip,
                group=group,
                start_s=clip.start_s + start / rate,
                duration_s=window / rate,
            )
            for start in starts
        ]
    return replace(manifest, clips=tuple(clips))


def convert_clips(
    clips: Sequence[Clip],
    rows: Sequence[int],
    settings: SpectrogramSettings,
    sink: Sink,
    *,
    cut: CutSettings | None = None,
    workers: int = 0,
    log_mel: LevelFunction | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Send the levels of `clips[row]` for each row to the sink, and return what became of them.

    workers: how many at once; 0 is one a core. They are forked processes where that is possible
    (`audio.crew.can_fork`), the sink may be copied, and no recording is cut into windows, of which
    one worker has all; else threads.
    log_mel: what makes levels of (batch, n_samples) and n_valid; by default `NumpyLogMel`.
    progress: called with the number of clips that were dealt with.

    Raises:
        OSError: the sink could not write; nothing is half-written.
        UserError: a worker was killed.
    """
    maker = log_mel or NumpyLogMel(settings)
    cut = cut or CutSettings()
    total = Outcome()
    threads = threading.local()  # a worker holds filters that only one thread may use

    def work(some: Sequence[int]) -> Iterator[Outcome]:
        if not hasattr(threads, "worker"):
            threads.worker = _Worker(clips, settings, cut, maker, sink)
        worker: _Worker = threads.worker
        return worker.convert(some)

    windows = cut.longer == "windows"
    workers = workers or cores()
    fair = max(_FEWEST_CLIPS, -(-len(rows) // (_SHARES_EACH * workers)))
    most = min(fair, _clips_at_once(settings))
    shares = _shares(clips, rows, most, windows=windows)
    outcomes: Iterator[Outcome]
    if workers > 1 and log_mel is None and sink.may_be_copied and not windows and can_fork():
        outcomes = by_processes(list(shares), work, workers)
    else:
        outcomes = by_threads(shares, work, workers)
    for outcome in outcomes:
        total.add(outcome)
        if progress:
            progress(total.n_new + len(total.failed))
    return total


def _shares(
    clips: Sequence[Clip], rows: Sequence[int], most: int, *, windows: bool
) -> Iterator[list[int]]:
    """Yield rows that one worker takes at once, at most `most`; with `windows`, all those of one
    recording."""
    share: list[int] = []
    for row in rows:
        if share:
            whole = len(share) >= most
            if windows and clips[row].duration_s is not None:
                whole = clips[row].path != clips[share[-1]].path
            elif windows and clips[share[-1]].duration_s is not None:
                whole = True
            if whole:
                yield share
                share = []
        share.append(row)
    if share:
        yield share


def _clips_at_once(settings: SpectrogramSettings) -> int:
    return max(1, min(_MOST_CLIPS, _MOST_SAMPLES // settings.n_samples))


class _Worker:
    """What one worker does with shares of the clips."""

    def __init__(
        self,
        clips: Sequence[Clip],
        settings: SpectrogramSettings,
        cut: CutSettings,
        log_mel: LevelFunction,
        sink: Sink,
    ) -> None:
        self.clips, self.settings, self.cut = clips, settings, cut
        self.log_mel, self.sink = log_mel, sink
        self.resampler = Resampler(settings.sample_rate_hz)
        self.most = _clips_at_once(settings)

    def convert(self, rows: Sequence[int]) -> Iterator[Outcome]:
        """Read the clips, make levels of as many as fit at once, and send them to the sink; yield
        what became of some of them, again and again."""
        outcome = Outcome()
        held: list[tuple[int, Waveform]] = []
        streamed = self.cut.longer == "windows" and self.clips[rows[0]].duration_s is not None
        pieces = self._stream(rows) if streamed else ((row, self._read(row)) for row in rows)
        for row, piece in pieces:
            if isinstance(piece, ClipError):
                outcome.failed[row] = piece.reason
                self.sink.skip(row, piece.reason)
                continue
            waveform, is_longer, note = piece
            held.append((row, waveform))
            outcome.n_cut += is_longer
            if note:
                outcome.notes[row] = note
            if len(held) == self.most:
                self._send(held)
                outcome.n_new = len(held)
                yield outcome
                held.clear()
                outcome = Outcome()
        if held:
            self._send(held)
        outcome.n_new = len(held)
        yield outcome

    def _send(self, held: Sequence[tuple[int, Waveform]]) -> None:
        n, repeat = self.settings.n_samples, self.settings.padding == "repeat"
        batch = np.zeros((len(held), n), np.float32)
        n_valid = np.empty(len(held), np.int64)
        for i, (_, waveform) in enumerate(held):
            n_valid[i] = n if repeat else len(waveform)
            if repeat:
                waveform = fit_length(waveform, n, padding="repeat")
            batch[i, : len(waveform)] = waveform
        levels = self.log_mel(batch, n_valid)
        self.sink.write([row for row, _ in held], levels, n_valid.tolist())

    def _read(self, row: int) -> tuple[Waveform, bool, str | None] | ClipError:
        """Return at most a window of a clip, whether there was more, and a note."""
        clip = self.clips[row]
        try:
            if self._is_long(clip):
                return self._read_long(clip)
            sound = read_sound(clip.path, start_s=clip.start_s, duration_s=clip.duration_s)
            waveform = self.resampler(sound.samples, sound.rate)
        except ClipError as error:
            return error
        if self.cut.trim_db is not None:
            waveform = trim_silence(waveform, self.cut.trim_db)
        n = self.settings.n_samples
        start = self._start(clip, len(waveform))
        window = waveform[start : start + n]
        if len(waveform) > n:
            window = window.copy()  # a view would keep all of the clip until the others are read
        return window, len(waveform) > n, sound.note

    def _start(self, clip: Clip, length: int) -> int:
        """Return where the window starts in a clip of `length` samples."""
        more = length - self.settings.n_samples
        if more <= 0 or self.cut.longer == "start":
            return 0
        if self.cut.longer == "random":
            # by the clip's name, so that neither order nor number of threads changes it; by the
            # end of its path, so that it does not matter how the corpus was given
            name = f"{'/'.join(clip.path.parts[-2:])}@{clip.start_s:.3f}"
            seed = zlib.crc32(name.encode("utf-8", "surrogateescape"))
            return int(np.random.default_rng((self.cut.crop_seed, seed)).integers(more + 1))
        return more // 2

    def _is_long(self, clip: Clip) -> bool:
        try:
            size = clip.path.stat().st_size
        except OSError:
            return False
        is_long = clip.duration_s is None or clip.duration_s >= _LONG_S
        return size >= _LONG_BYTES and is_long and self.cut.trim_db is None

    def _read_long(self, clip: Clip) -> tuple[Waveform, bool, str | None]:
        duration = read_duration_s(clip.path)
        if duration is None or duration <= clip.start_s:
            raise ClipError(clip.path, f"start_s={clip.start_s:g} is past its end.")
        rate = self.settings.sample_rate_hz
        there_s = duration - clip.start_s
        length = round(min(there_s, clip.duration_s or there_s) * rate)
        start = round(clip.start_s * rate) + self._start(clip, length)
        n = self.settings.n_samples
        (waveform,) = cut_from_stream(clip.path, [start], n, rate)
        return waveform, length > n, None

    def _stream(
        self, rows: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Waveform, bool, str | None] | ClipError]]:
        """Yield the windows of one recording, reading it once."""
        rate = self.settings.sample_rate_hz
        order = sorted(rows, key=lambda row: self.clips[row].start_s)
        starts = [round(self.clips[row].start_s * rate) for row in order]
        lengths = [round((self.clips[row].duration_s or 0) * rate) for row in order]
        done = 0
        try:
            for waveform in cut_from_stream(self.clips[rows[0]].path, starts, max(lengths), rate):
                row, length = order[done], lengths[done]
                done += 1
                n = self.settings.n_samples
                piece = waveform[: max(1, length)]
                start = self._start(self.clips[row], len(piece))
                yield row, (piece[start : start + n], len(piece) > n, None)
        except ClipError as error:
            for row in order[done:]:
                yield row, error


def cut_from_stream(
    path: Path, starts: Sequence[int], length: int, sample_rate_hz: int
) -> Iterator[Waveform]:
    """Yield pieces of a recording of any length, holding a block and a piece in memory.

    starts: ascending, in samples at `sample_rate_hz`. A piece that reaches past the end is shorter.

    Raises:
        ClipError: it cannot be read, or ends before a piece starts.
    """
    rate, blocks = sound_blocks(path)
    if rate != sample_rate_hz:
        blocks = resampled_blocks(blocks, rate, sample_rate_hz)
    held = np.zeros(0, np.float32)
    first = 0  # where `held` starts in the recording
    todo = list(starts)
    for block in blocks:
        held = np.concatenate([held, block])
        while todo and todo[0] + length <= first + len(held):
            start = todo.pop(0) - first
            yield held[start : start + length].copy()
        if not todo:
            return
        gone = min(len(held), max(0, todo[0] - first))
        held, first = held[gone:], first + gone
    for start in todo:
        if start >= first + len(held):
            end = (first + len(held)) / sample_rate_hz
            at = start / sample_rate_hz
            raise ClipError(path, f"start_s={at:g} is past its end at {end:.3f} s.")
        yield held[start - first : start - first + length].copy()


def on_device(settings: SpectrogramSettings, name: str) -> LevelFunction:
    """Return `LogMel` on a device, as a function of numpy arrays.

    Raises:
        SettingsError: no such device here.
    """
    import torch

    from audio.devices import choose_device
    from audio.spectrogram import LogMel

    device = choose_device(name)
    log_mel = LogMel(settings).to(device)

    def levels(waveform: Waveform, n_valid: NDArray[np.int64]) -> Levels:
        with torch.inference_mode():
            made = log_mel(torch.from_numpy(waveform).to(device), torch.tensor(n_valid).to(device))
            result: Levels = made.cpu().numpy()
        return result

    return levels
