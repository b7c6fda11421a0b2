"""`melbandit predict`: label files, or a stream of samples, with a fitted model."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from audio.prediction_settings import EventSettings, RawSettings
from audio.settings import UserError
from scripts.command import DONE, FAILED, PARTLY, parse, progress, run, say
from scripts.prediction_rows import About, FormatName, RowKind

if TYPE_CHECKING:
    from audio.classifier import SpectrogramClassifier
    from audio.windows import Waveform
    from scripts.listener import Listener

STDIN = Path("-")


@dataclass(frozen=True)
class Predict:
    """Label sound files with a model that `melbandit finetune` or `search` saved.

    The model decides the preprocessing: there is nothing to set. Files of any length and format
    work; a long one is read in windows. Rows are written as they are known. `-` reads raw samples
    from standard input and tells each window as soon as it is heard.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of the model."""
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files, folders that are searched for sound files, or - for raw samples on standard input."""
    format: FormatName = "table"
    """A table to read, CSV, one JSON object a line, Audacity labels or a Raven selection table. CSV
    and JSON give every class's probability, unless a row is an event."""
    out: Path | None = None
    """File to write instead of standard output."""
    out_folder: Path | None = None
    """Folder to write a file for each recording into."""
    overwrite: bool = False
    """Replace files that are there already; a recording never."""
    windows: bool = False
    """A row for each window, with its start and end, instead of one for the file (its mean)."""
    events: bool = False
    """A row for each event: neighbouring windows of one label, merged. Audacity labels and Raven
    tables are of events unless --windows is given."""
    overlap_percent: float = 0.0
    """How much of a window the next one covers again."""
    top_k: int | None = None
    """How many labels of a file or window are told, the likeliest first, a row each (1 unless
    given; of a model for several labels all that reach their thresholds); of events, only a
    window's likeliest so many count (all unless given)."""
    batch_size: int = 32
    """Windows at a time."""
    threads: int = 0
    """CPU threads; 0 uses every core."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    event: EventSettings = EventSettings()
    raw: RawSettings = RawSettings()

    @property
    def kind(self) -> RowKind:
        """What a row is."""
        if self.events:
            return "events"
        if self.windows:
            return "windows"
        live = STDIN in self.inputs  # a stream may have no end
        return "events" if self.format in ("audacity", "raven") else "windows" if live else "files"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Predict, "predict", argv)
    return run(lambda: predict(command), stopped="stopped.")


def predict(command: Predict) -> int:
    """Write rows of each recording; returns an exit code."""
    from audio.classifier import SpectrogramClassifier
    from audio.devices import choose_device, use_threads
    from scripts.listener import Listener
    from scripts.row_files import RowFiles, files_of

    paths = _files(command.inputs)
    _check(command, paths)
    files = None
    if command.out_folder is not None:
        files = files_of(paths, command.out_folder, command.format)
    _check_outputs(command, paths, files)
    use_threads(command.threads)
    model = SpectrogramClassifier.load(command.model).to(choose_device(command.device))
    spectrogram = model.settings.spectrogram
    told = tuple(map(str, paths))
    about = About(command.kind, model.labels, spectrogram.f_min_hz, spectrogram.f_max, told)
    failures: list[tuple[str, str]] = []
    try:
        with RowFiles(command.format, about, out=command.out, files=files) as rows:
            listener = Listener(model, command, rows)
            for path in _each(paths, shown=command.out is not None or not sys.stdout.isatty()):
                _hear(listener, path, model, command, failures)
            listener.finish()
            rows.keep = len(failures) < len(paths)
    except BrokenPipeError:  # whoever reads has enough (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    if len(failures) == len(paths):
        return FAILED
    if command.out is not None:
        say(f"{rows.n} rows in {command.out}")
    elif command.out_folder is not None:
        say(f"{rows.n} rows in {rows.n_files} files in {command.out_folder}")
    return PARTLY if failures else DONE


def _check(command: Predict, paths: Sequence[Path]) -> None:
    """Refuse options that do not go together.

    Raises:
        UserError: naming them.
    """
    if not 0 <= command.overlap_percent < 100:
        raise UserError(f"overlap_percent={command.overlap_percent} must be from 0 to below 100.")
    if command.batch_size < 1:
        raise UserError(f"batch_size={command.batch_size} must be at least 1.")
    if command.top_k is not None and command.top_k < 1:
        raise UserError(f"top_k={command.top_k} must be at least 1.")
    if command.windows and command.events:
        raise UserError("a row is a window or an event; give one of --windows and --events.")
    if command.out is not None and command.out_folder is not None:
        raise UserError("give one of --out and --out-folder.")
    given = [n for n, v in vars(command.event).items() if n != "threshold" and v]
    if command.kind != "events" and given:
        raise UserError(f"{', '.join(given)} belong to events; add --events.")
    if command.format == "audacity" and len(paths) > 1 and command.out_folder is None:
        raise UserError(
            f"an Audacity label track is of one recording, and these are {len(paths)}; give "
            "--out-folder, for a file each."
        )
    if STDIN in paths:
        _ = command.raw.rate_hz  # says what is missing
    elif command.raw != RawSettings():
        raise UserError("raw samples are read from standard input: give - as the input.")


def _check_outputs(
    command: Predict, paths: Sequence[Path], files: Mapping[Path, Path] | None
) -> None:
    """Refuse to write over what is there.

    Raises:
        UserError: naming the file.
    """
    option = "--out" if files is None else "--out-folder"
    recordings = {path.resolve() for path in paths if path != STDIN}
    for out in [command.out] if files is None else files.values():
        if out is None or not out.exists():
            continue
        if out.resolve() in recordings:
            raise UserError(f"{out}: is one of the recordings; give another {option}.")
        if not command.overwrite:
            raise UserError(f"{out}: is there already; give --overwrite or another {option}.")


def _files(inputs: Sequence[Path]) -> list[Path]:
    from audio.sound_files import sort_files

    paths: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sort_files(path)
            note = found.note("name them")
            if not found.sounds:
                raise UserError(f"{path}: no sound files in it or below it. {note or ''}".rstrip())
            if note is not None:
                say(f"note: {path}: {note}")
            paths += found.sounds
        else:
            paths.append(path)  # one that is missing is told as a file that cannot be used
    if not paths:
        raise UserError("no files given.")
    return list(dict.fromkeys(paths))


def _each(paths: Sequence[Path], *, shown: bool) -> Iterator[Path]:
    """Yield the paths, with a bar on stderr where rows do not come on the same terminal."""
    if not shown or STDIN in paths:
        yield from paths
        return
    with progress("predict", "files") as draw:
        for i, path in enumerate(paths, start=1):
            yield path
            draw(i, len(paths))


def _hear(
    listener: Listener,
    path: Path,
    model: SpectrogramClassifier,
    command: Predict,
    failures: list[tuple[str, str]],
) -> None:
    """Give all windows of a recording to the listener."""
    from audio.waveform import ClipError

    listener.begin(path)
    try:
        for start, piece in _windows(path, model, command, before_waiting=listener.score):
            listener.add(start, piece)
    except ClipError as error:
        failures.append((str(path), error.reason))
        listener.abandon()
        say(f"cannot use {path}: {error.reason}")
    else:
        listener.end()


def _windows(
    path: Path,
    model: SpectrogramClassifier,
    command: Predict,
    *,
    before_waiting: Callable[[], None],
) -> Iterator[tuple[int, Waveform]]:
    """Yield (start, samples) windows of a file or of standard input at the model's rate."""
    from audio.raw_pcm import raw_blocks
    from audio.waveform import ClipError, block_windows, resampled_blocks, stream_windows

    spectrogram = model.settings.spectrogram
    rate, window = spectrogram.sample_rate_hz, spectrogram.n_samples
    hop = max(1, round(window * (1 - command.overlap_percent / 100)))
    if path != STDIN:
        yield from stream_windows(path, sample_rate_hz=rate, window=window, hop=hop)
        return
    blocks = raw_blocks(sys.stdin.buffer, command.raw, before_waiting=before_waiting)
    if command.raw.rate_hz != rate:
        blocks = resampled_blocks(blocks, command.raw.rate_hz, rate)
    empty = True
    for found in block_windows(blocks, window=window, hop=hop):
        empty = False
        yield found
    if empty:
        raise ClipError(path, "no samples on standard input.")


if __name__ == "__main__":
    sys.exit(main())
