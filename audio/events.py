"""Events: neighbouring windows in which one label is likely, merged; told as soon as they end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio.prediction_settings import EventSettings


@dataclass(frozen=True)
class Event:
    """Where one label was heard.

    label: its index. probability, mean_probability: the greatest and the mean over its `windows`.
    """

    start_s: float
    end_s: float
    label: int
    probability: float
    mean_probability: float
    windows: int


@dataclass
class _Open:
    start_s: float
    end_s: float
    peak: float
    total: float
    windows: int


class EventMerger:
    """Merges the windows of one recording, which come in the order of time, overlapping or not.

    Every label is looked at by itself, so events of two labels may overlap; two of one label never
    do, and are more than `max_gap_s` apart. top_k: only a window's k likeliest labels count.
    """

    def __init__(
        self, settings: EventSettings = EventSettings(), *, top_k: int | None = None
    ) -> None:
        self.settings = settings
        self.top_k = top_k
        self._under_way: dict[int, _Open] = {}

    def add(self, start_s: float, end_s: float, probabilities: NDArray[np.float32]) -> list[Event]:
        """Return the events that are over now that this window is known.

        probabilities: (n_labels,).
        """
        # a nanosecond: times of windows that touch are rounded sums
        reach = start_s - self.settings.max_gap_s - 1e-9
        over = [label for label, event in self._under_way.items() if event.end_s < reach]
        heard = probabilities >= self.settings.release
        if self.top_k is not None and self.top_k < len(probabilities):
            best = np.argsort(-probabilities, kind="stable")[: self.top_k]
            heard &= np.isin(np.arange(len(probabilities)), best)
        ended = self._close(over)
        for label in map(int, np.flatnonzero(heard)):
            p = float(probabilities[label])
            event = self._under_way.setdefault(label, _Open(start_s, end_s, p, 0.0, 0))
            event.end_s = max(event.end_s, end_s)
            event.peak = max(event.peak, p)
            event.total += p
            event.windows += 1
        return ended

    def finish(self) -> list[Event]:
        """Return the events that were under way when the recording ended."""
        return self._close(list(self._under_way))

    def _close(self, labels: list[int]) -> list[Event]:
        events = []
        for label in labels:
            event = self._under_way.pop(label)
            long_enough = event.end_s - event.start_s >= self.settings.min_event_s - 1e-9
            if event.peak >= self.settings.onset and long_enough:
                mean = event.total / event.windows
                events.append(
                    Event(event.start_s, event.end_s, label, event.peak, mean, event.windows)
                )
        return sorted(events, key=lambda event: (event.start_s, event.label))


def merge_events(
    windows: Iterable[tuple[float, float, NDArray[np.float32]]],
    settings: EventSettings = EventSettings(),
    *,
    top_k: int | None = None,
) -> Iterator[Event]:
    """Yield the events of one recording, each as soon as it is over.

    windows: (start_s, end_s, probabilities (n_labels,)), as `EventMerger.add` takes them.

    >>> p = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8]]
    >>> windows = [(float(i), i + 1.0, np.array(row)) for i, row in enumerate(p)]
    >>> [(e.start_s, e.end_s, e.label) for e in merge_events(windows)]
    [(0.0, 2.0, 0), (2.0, 3.0, 1)]
    """
    merger = EventMerger(settings, top_k=top_k)
    for window in windows:
        yield from merger.add(*window)
    yield from merger.finish()
