"""`melbandit predict`: label files with a fitted model."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audio.settings import UserError
from scripts.command import DONE, FAILED, PARTLY, parse, progress, run, say

if TYPE_CHECKING:
    from audio.classifier import SpectrogramClassifier


@dataclass(frozen=True)
class Predict:
    """Label sound files with a model that `melbandit finetune` or `search` saved.

    The model decides the preprocessing: there is nothing to set. Files of any length and format
    work; a long one is read in windows.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of the model."""
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files, and folders that are searched for sound files."""
    format: Literal["table", "csv", "jsonl"] = "table"
    """A table to read, CSV, or one JSON object a line; these two give every class's probability."""
    out: Path | None = None
    """File to write instead of standard output."""
    windows: bool = False
    """A row for each window of a long file, with its start and end, instead of one for the file."""
    overlap_percent: float = 0.0
    """How much of a window the next one covers again."""
    batch_size: int = 32
    """Windows at a time."""
    threads: int = 0
    """CPU threads; 0 uses every core."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Predict, "predict", argv)
    return run(lambda: predict(command))


def predict(command: Predict) -> int:
    """Write a row for each file or window; returns an exit code."""
    from audio.classifier import SpectrogramClassifier
    from audio.devices import choose_device, use_threads

    if not 0 <= command.overlap_percent < 100:
        raise UserError(f"overlap_percent={command.overlap_percent} must be from 0 to below 100.")
    if command.batch_size < 1:
        raise UserError(f"batch_size={command.batch_size} must be at least 1.")
    paths = _files(command.inputs)
    use_threads(command.threads)
    model = SpectrogramClassifier.load(command.model).to(choose_device(command.device))
    rows: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    with progress("predict", "files") as draw:
        for row in _predicted(model, paths, command, failures):
            rows.append(row)
            draw(row.pop("file_number"), len(paths))
    for path, reason in failures:
        say(f"cannot use {path}: {reason}")
    if rows:
        text = _FORMATS[command.format](rows, model.labels)
        if command.out is None:
            sys.stdout.write(text)
        else:
            from audio.files import write_atomically

            write_atomically(command.out, text.encode("utf-8"))
            say(f"{len(rows)} rows in {command.out}")
    if not rows:
        return FAILED
    return PARTLY if failures else DONE


def _files(inputs: Sequence[Path]) -> list[Path]:
    from data.corpus import list_sounds

    paths: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = list_sounds(path)
            if not found:
                raise UserError(f"{path}: no sound files in it or below it.")
            paths += found
        else:
            paths.append(path)  # one that is missing is told as a file that cannot be used
    if not paths:
        raise UserError("no files given.")
    return list(dict.fromkeys(paths))


def _predicted(
    model: SpectrogramClassifier,
    paths: Sequence[Path],
    command: Predict,
    failures: list[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    """Yield a row for each file (or window) in order; windows of many files share a batch."""
    import numpy as np

    from audio.waveform import ClipError, Waveform, stream_windows

    spectrogram = model.settings.spectrogram
    rate, window = spectrogram.sample_rate_hz, spectrogram.n_samples
    hop = max(1, round(window * (1 - command.overlap_percent / 100)))
    waiting: list[tuple[int, int, Waveform]] = []
    scored: dict[int, list[tuple[int, int, Any]]] = {}  # of files not written yet

    def score() -> None:
        found = model.predict([piece for _, _, piece in waiting], batch_size=command.batch_size)
        for (i, start, piece), p in zip(waiting, found, strict=True):
            scored.setdefault(i, []).append((start, len(piece), p))
        waiting.clear()

    def rows_of(i: int) -> Iterator[dict[str, Any]]:
        pieces = scored.pop(i)
        end = max(start + n for start, n, _ in pieces)
        if not command.windows:
            pieces = [(0, end, np.mean([p for _, _, p in pieces], axis=0))]
        for start, n, p in pieces:
            best = int(p.argmax())
            yield {
                "file_number": i + 1,
                "path": str(paths[i]),
                "start_s": start / rate,
                "end_s": (start + n) / rate,
                "label": model.labels[best],
                "probability": float(p[best]),
                "probabilities": p,
            }

    unwritten: list[int] = []
    for i, path in enumerate(paths):
        try:
            for start, piece in stream_windows(path, sample_rate_hz=rate, window=window, hop=hop):
                waiting.append((i, start, piece))
                if len(waiting) >= 4 * command.batch_size:
                    score()
        except ClipError as error:
            failures.append((str(path), error.reason))
            waiting[:] = [w for w in waiting if w[0] != i]
            scored.pop(i, None)
            continue
        unwritten.append(i)
        while unwritten and all(w[0] != unwritten[0] for w in waiting):
            yield from rows_of(unwritten.pop(0))
    if waiting:
        score()
    for i in unwritten:
        yield from rows_of(i)


def _as_table(rows: list[dict[str, Any]], labels: Sequence[str]) -> str:
    import io

    from rich.console import Console
    from rich.table import Table

    del labels
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("from", justify="right")
    table.add_column("to", justify="right")
    table.add_column("label")
    table.add_column("probability", justify="right")
    for row in rows:
        span = [f"{row['start_s']:.2f}", f"{row['end_s']:.2f}"]
        table.add_row(row["path"], *span, row["label"], f"{row['probability']:.3f}")
    out = io.StringIO()
    console = Console(file=out, width=max(80, Console().width), markup=False, highlight=False)
    console.print(table)
    return out.getvalue()


def _as_csv(rows: list[dict[str, Any]], labels: Sequence[str]) -> str:
    import io

    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["path", "start_s", "end_s", "label", "probability", *labels])
    for row in rows:
        span = [f"{row['start_s']:.3f}", f"{row['end_s']:.3f}"]
        shares = [f"{p:.6f}" for p in row["probabilities"]]
        table.writerow([row["path"], *span, row["label"], f"{row['probability']:.6f}", *shares])
    return out.getvalue()


def _as_json_lines(rows: list[dict[str, Any]], labels: Sequence[str]) -> str:
    lines = []
    for row in rows:
        shares = dict(zip(labels, map(float, row["probabilities"]), strict=True))
        lines.append(json.dumps(row | {"probabilities": shares}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


_FORMATS = {"table": _as_table, "csv": _as_csv, "jsonl": _as_json_lines}

if __name__ == "__main__":
    sys.exit(main())
