"""Windows to rows: batches through the model, then files, windows or events of each recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audio.events import EventMerger
from audio.windows import Waveform
from scripts.prediction_rows import Row
from scripts.row_files import RowFiles

if TYPE_CHECKING:
    from audio.classifier import SpectrogramClassifier
    from scripts.predict import Predict


@dataclass
class _Recording:
    """What is kept of a recording until it is over: no more for a long one than for a short one."""

    path: Path
    merger: EventMerger | None
    n: int = 0  # windows scored
    total: NDArray[np.float64] | None = None
    end: int = 0
    is_over: bool = False
    is_lost: bool = False
    waiting: int = 0  # windows not scored yet
    rows: list[Row] = field(default_factory=list)
    has_begun: bool = False


class Listener:
    """Takes the windows of one recording after the other and writes rows as they are known.

    Windows of many recordings share a batch. Of a recording that cannot be read to its end, windows
    and events before that are told, the mean over it is not.
    """

    def __init__(self, model: SpectrogramClassifier, command: Predict, rows: RowFiles) -> None:
        self._model, self._command, self._files = model, command, rows
        self._rate = model.settings.spectrogram.sample_rate_hz
        self._queue: deque[_Recording] = deque()  # in order; rows of the first are written
        self._waiting: list[tuple[_Recording, int, Waveform]] = []
        self._offset_s = 0.0

    def begin(self, path: Path) -> None:
        """Say that the next windows are of another recording."""
        command = self._command
        merger = None
        if command.kind == "events":
            merger = EventMerger(command.event, top_k=command.top_k)
        self._queue.append(_Recording(path, merger))

    def add(self, start: int, piece: Waveform) -> None:
        """Take a window that starts at sample `start`."""
        self._queue[-1].waiting += 1
        self._waiting.append((self._queue[-1], start, piece))
        if len(self._waiting) >= self._command.batch_size:
            self.score()

    def end(self) -> None:
        """Say that the recording is over."""
        self._queue[-1].is_over = True
        self._write()

    def abandon(self) -> None:
        """Say that the recording cannot be read further."""
        self._queue[-1].is_over = self._queue[-1].is_lost = True
        self._write()

    def finish(self) -> None:
        """Score and write what is left."""
        self.score()

    def score(self) -> None:
        """Put the windows that wait through the model and write what follows from them."""
        if not self._waiting:
            return
        pieces = [piece for _, _, piece in self._waiting]
        found = self._model.predict(pieces, batch_size=self._command.batch_size)
        for (recording, start, piece), p in zip(self._waiting, found, strict=True):
            recording.waiting -= 1
            recording.n += 1
            recording.end = max(recording.end, start + len(piece))
            span = start / self._rate, (start + len(piece)) / self._rate
            if recording.merger is not None:
                recording.rows += self._events(recording, recording.merger.add(*span, p))
            elif self._command.kind == "windows":
                recording.rows += self._labels(recording, *span, p)
            else:
                before = 0.0 if recording.total is None else recording.total
                recording.total = before + p.astype(np.float64)
        self._waiting.clear()
        self._write()

    def _write(self) -> None:
        """Write the rows of the first recording, and of the next where that one is over."""
        while self._queue:
            recording = self._queue[0]
            if not recording.has_begun:
                self._files.begin(recording.path)
                recording.has_begun = True
            over = recording.is_over and not recording.waiting
            if over and recording.merger is not None:
                recording.rows += self._events(recording, recording.merger.finish())
            if over and recording.total is not None and not recording.is_lost:
                mean = (recording.total / recording.n).astype(np.float32)
                recording.rows += self._labels(recording, 0.0, recording.end / self._rate, mean)
            # how long the recordings before this one are is known only now
            self._files.write([replace(row, offset_s=self._offset_s) for row in recording.rows])
            recording.rows = []
            if not over:
                return
            if recording.is_lost:
                self._files.abandon()
            self._offset_s += recording.end / self._rate
            self._queue.popleft()

    def _labels(
        self, recording: _Recording, start_s: float, end_s: float, p: NDArray[np.float32]
    ) -> Iterator[Row]:
        """Yield the likeliest labels of a file or window; of a model that hears several, all that
        reach their thresholds, unless the command says how many or how likely."""
        least = self._command.event.threshold
        order = np.argsort(-p, kind="stable")
        if not self._model.is_multi_label:
            order = order[: self._command.top_k or 1]
        elif self._command.top_k is not None:
            order = order[: self._command.top_k]
        elif least is None:
            order = order[p[order] >= np.array(self._model.thresholds)[order]]
        for rank, i in enumerate(map(int, order), start=1):
            if least is not None and p[i] < least:
                return
            label = self._model.labels[i]
            yield Row(str(recording.path), start_s, end_s, label, float(p[i]), rank, p.tolist())

    def _events(self, recording: _Recording, events: Any) -> Iterator[Row]:
        for event in events:
            yield Row(
                str(recording.path),
                event.start_s,
                event.end_s,
                self._model.labels[event.label],
                event.probability,
                mean_probability=event.mean_probability,
                windows=event.windows,
            )
