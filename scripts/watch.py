"""`melbandit search --watch`: the search as it runs, in the terminal.

A thread reads the study, without writing or locking, and `scripts.watch_view` draws what it saw:
the search itself knows nothing of being watched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scripts.watch_view import Snapshot, view

if TYPE_CHECKING:
    from optuna.study import Study
    from rich.console import Console, RenderableType

    from rl.budget import SearchSettings
    from rl.insight import Best, Insight
    from rl.studies import Place

POLL_S = 2.0
MOST_REDONE = 30
"""Points of the best so far that are worked out anew at one look."""


class Watcher:
    """Reads a search's study again and again, in a thread of its own.

    Args:
        place: where the search is kept; it need not be there yet.
        budget: of the search.
    """

    def __init__(self, place: Place, budget: SearchSettings) -> None:
        self.place = place
        self.budget = budget
        self.snapshot: Snapshot | None = None
        self.trouble = ""
        self._studies: tuple[Study, Study | None] | None = None
        self._insight: Insight | None = None
        self._scores: list[float | None] = []
        self._path: dict[int, Best] = {}
        self._wake = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read once more, and no further."""
        self._over.set()
        self._wake.set()
        self._thread.join()

    def look(self) -> None:
        """Read soon: something has happened."""
        self._wake.set()

    def _run(self) -> None:
        while True:
            over = self._over.is_set()
            self._wake.clear()
            try:
                self.read()
            except Exception as error:  # a study not there yet, or a busy file: the next look tells
                self.trouble = str(error).splitlines()[0] if str(error) else repr(error)
            if over:
                return
            self._wake.wait(POLL_S)

    def read(self) -> None:
        """Take a snapshot of the study."""
        from rl.insight import Insight
        from rl.records import open_study, read_study
        from rl.studies import is_killed, live_trials, spent_s, training_s

        if self._studies is None or self._studies[1] is None:
            if not self.place.is_shared and not self.place.path.exists():
                return
            name = f"{self.place.name}/trials" if self.place.is_shared else "trials"
            self._studies = open_study(self.place.storage, name)
        study, finals = self._studies
        insight = Insight(read_study(study, finals))
        self._learn(insight)
        assert self._insight is not None
        trials = live_trials(study)
        in_finals = finals.get_trials(deepcopy=False) if finals else []
        live = [t for t in in_finals if not is_killed(t)]
        self.snapshot = Snapshot(
            self._insight.at(insight.study),
            tuple(self._path[count] for count in sorted(self._path)),
            self.budget,
            (spent_s(trials), training_s(trials)),
            (sum(t.state.is_finished() for t in live), len(live)),
        )
        self.trouble = ""

    def _learn(self, insight: Insight) -> None:
        """Take in what is new since the last look; nothing, mostly."""
        scores = [t.foretold for t in insight.scored]
        if self._insight is not None and scores == self._scores:
            return
        n, had = len(scores), len(self._scores)
        if scores[:had] == self._scores:
            self._path |= {count: insight.best_after(count) for count in range(had + 1, n + 1)[-3:]}
        else:  # what pruned trials foretell has changed, and with it all that was known
            steps = -(-n // MOST_REDONE)
            self._path = {count: insight.best_after(count) for count in range(n, 0, -steps)}
        self._scores, self._insight = scores, insight

    def view(self) -> RenderableType:
        """Return what to draw now."""
        from rich.text import Text

        if self.snapshot is None:
            return Text("search: the first trial is about to start ...", style="dim")
        return view(self.snapshot)


@contextmanager
def watching(
    place: Place, budget: SearchSettings, *, console: Console | None = None
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Draw the search in `place` while the body runs; gives what to call after each training."""
    from rich.console import Console
    from rich.live import Live

    console = console or Console(stderr=True)
    watcher = Watcher(place, budget)
    with Live(console=console, get_renderable=watcher.view, refresh_per_second=1) as live:
        watcher.start()
        try:
            yield lambda _: watcher.look()
        finally:
            watcher.stop()
            live.refresh()
