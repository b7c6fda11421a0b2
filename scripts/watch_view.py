"""What a search looks like in the terminal while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from audio.markup import duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

    from rl.budget import SearchSettings
    from rl.insight import Best, Insight
    from rl.records import Record

KNOBS_SHOWN = 5
TRIALS_SHOWN = 5
CHART_ROWS = 6
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Braille dots of a character, by row and column."""


@dataclass(frozen=True)
class Snapshot:
    """What there was to see of a search at a moment."""

    insight: Insight
    path: tuple[Best, ...]
    """The best so far after each scored trial."""
    budget: SearchSettings
    spent: tuple[float, float]
    """Time during which trials ran, and the time that they ran added up, in seconds."""
    finals: tuple[int, int]
    """Trainings of the finals that have ended, and all of them."""
    at: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Trials that have ended."""
        study = self.insight.study
        return study.count("complete") + study.count("pruned") + study.count("failed")

    def left_s(self) -> float | None:
        """Return about how long the trials and the finals will still take; None if unknown."""
        if not self.done:
            return None
        spent_s, training_s = self.spent
        each = spent_s / self.done  # however many run at a time
        limits = []
        if self.budget.most_trials is not None:
            limits.append((self.budget.most_trials - self.done) * each)
        if self.budget.minutes is not None:
            limits.append(60 * self.budget.minutes - spent_s)
        if self.budget.training_seconds is not None and training_s:
            limits.append((self.budget.training_seconds - training_s) * spent_s / training_s)
        trials = 0.0 if self.finals[1] else max(0.0, min(limits, default=0.0))
        of_finals = max(self.finals[1], planned_finals(self.budget))
        whole = [t.seconds for t in self.insight.timed if t.seconds]
        every = [t.seconds for t in self.insight.study.trials if t.seconds and t.state != "running"]
        # finals are never pruned
        longer = (sum(whole) / len(whole)) / (sum(every) / len(every)) if whole and every else 1.0
        finals = (of_finals - self.finals[0]) * each * longer
        return max(0.0, trials + finals - (time.monotonic() - self.at))


def planned_finals(budget: SearchSettings) -> int:
    """Return how many trainings the finals will be: the default's, and each round's."""
    from rl.finals import rounds

    total, before = budget.replicates, 0
    for n_settings, n_seeds in rounds(budget.finalists, budget.replicates):
        total += n_settings * (n_seeds - before)
        before = n_seeds
    return total


def view(snapshot: Snapshot) -> RenderableType:
    """Return the search as a panel: progress, the best, the curve, what runs, what is believed."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    insight = snapshot.insight
    parts: list[RenderableType] = [_progress(snapshot)]
    if insight.scored:
        parts += [Text(""), _best(snapshot), Text(""), Chart(snapshot)]
    parts += [Text(""), _trials(snapshot)]
    if insight.knobs:
        parts += [Text(""), _beliefs(insight)]
    agent = insight.study.agent or "search"
    return Panel(Group(*parts), title=f"melbandit search · {agent}", title_align="left",
                 border_style="dim", padding=(0, 1))  # fmt: skip


def _progress(snapshot: Snapshot) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    in_finals = bool(snapshot.finals[1])
    done, of = snapshot.done, snapshot.budget.most_trials
    if in_finals:  # they are queued round by round
        done, of = snapshot.finals[0], max(snapshot.finals[1], planned_finals(snapshot.budget))
    share = done / of if of else None
    if of is None and snapshot.budget.minutes:
        share = min(1.0, snapshot.spent[0] / (60 * snapshot.budget.minutes))
    elif of is None and snapshot.budget.training_seconds:
        share = min(1.0, snapshot.spent[1] / snapshot.budget.training_seconds)
    left = snapshot.left_s()
    failed = snapshot.insight.study.count("failed")
    line = Table.grid(padding=(0, 2))
    line.add_row(
        "finals" if in_finals else "trials",
        f"[bold]{done}[/bold]" + (f" of {of}" if of else ""),
        ProgressBar(total=1.0, completed=share, width=24) if share is not None else "",
        f"{duration(snapshot.spent[0])} spent",
        "" if left is None else f"about {duration(left)} left with the finals",
        f"[red]{failed} failed[/red]" if failed else "",
    )
    return line


def _best(snapshot: Snapshot) -> RenderableType:
    from rich.text import Text

    insight, best = snapshot.insight, snapshot.path[-1]
    record = next(r for r in insight.scored if r.number == best.number)
    made = Text.assemble("best so far ", (f"{best.score.mean:.3f}", "bold green"))
    if math.isfinite(best.score.low):
        made.append(f"  {best.score.low:.3f} to {best.score.high:.3f}", "dim")
    made.append(f"  trial {record.number}: ")
    made.append(_changes(record, insight.default))
    default = insight.default
    if default is not None and record.values != default and insight.space.holds(default):
        gain = insight.difference(record.values, default)
        sure = gain.low > 0 if insight.study.maximise else gain.high < 0
        made.append(f"\nagainst the default {gain.mean:+.3f}")
        if math.isfinite(gain.low):
            made.append(f"  {gain.low:+.3f} to {gain.high:+.3f}", "dim")
        made.append("" if sure else "  (may be no better)", "dim")
    return made


def _changes(record: Record, default: Mapping[str, Any] | None) -> str:
    """Return what of a setting differs from the default."""
    changed = [
        f"{name}={'none' if value is None else value}"
        for name, value in record.values.items()
        if default is None or name not in default or default[name] != value
    ]
    return " ".join(changed) or "the default setting"


def _trials(snapshot: Snapshot) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    study, default = snapshot.insight.study, snapshot.insight.default
    since = time.monotonic() - snapshot.at
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # what room there is left
    running = [t for t in study.trials if t.state == "running"]
    ended = [t for t in study.trials if t.state in ("complete", "pruned", "failed")]
    if not ended and not running:
        return Text("the first trial is about to start ...", "dim")
    shown = ended[-max(1, TRIALS_SHOWN - len(running)) :] if ended else []
    for trial in [*shown, *running]:
        is_running = trial.state == "running"
        what = "" if trial.state == "complete" else f"{trial.state} "
        score = f"{trial.score:.3f}" if trial.score is not None else ""
        if is_running and trial.curve:
            score = f"{trial.curve[-1][1]:.3f}"
        style = {"running": "cyan", "failed": "red", "pruned": "dim"}.get(trial.state, "")
        seconds = None if trial.seconds is None else trial.seconds + (since if is_running else 0)
        error = trial.error.splitlines()[-1] if trial.error else ""
        table.add_row(
            f"trial {trial.number}", Text(what + score, style), duration(seconds),
            Text(error or _changes(trial, default), "red" if error else "dim"),
        )  # fmt: skip
    return table


def _beliefs(insight: Insight) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    table.add_row("[dim]setting[/dim]", "[dim]matters[/dim]", "[dim]score of each value[/dim]")
    for known in insight.knobs[:KNOBS_SHOWN]:
        knob = insight.space.knobs[known.position]
        means = [insight.sign * effect.mean for effect in known.effects]
        best = max((m for m in means if math.isfinite(m)), default=math.nan)
        line = Text()
        for value, effect, mean in zip(knob.values, known.effects, means, strict=True):
            if not math.isfinite(mean):
                continue
            style = "bold green" if mean == best else ""
            line.append("none" if value is None else str(value), style)
            line.append(f" {effect.mean:.3f}", style)
            line.append(f"±{effect.sd:.3f}   ", "dim")
        table.add_row(knob.name, Text(f"{100 * known.together:.0f} %", "magenta"), line)
    return table


@dataclass(frozen=True)
class Chart:
    """The scores as dots and the best so far as a line, in braille, as wide as there is room."""

    snapshot: Snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the lines."""
        from rich.text import Text

        insight = self.snapshot.insight
        trials = [(t.number, t.score) for t in insight.study.trials
                  if t.score is not None and t.state == "complete"]  # fmt: skip
        if len(trials) < 2:
            return
        columns = max(10, min(100, options.max_width - 9))
        low, high = min(s for _, s in trials), max(s for _, s in trials)
        last = max(t.number for t in insight.study.trials)
        lines = braille(
            [(number / last, _height(score, low, high)) for number, score in trials],
            [(b.after / last, _height(b.score.mean, low, high)) for b in self.snapshot.path],
            columns,
        )
        for i, (cells, is_line) in enumerate(lines):
            edge = f"{high:.3f} " if i == 0 else f"{low:.3f} " if i == CHART_ROWS - 1 else ""
            made = Text(edge.rjust(8), "dim")
            for cell, of_best in zip(cells, is_line, strict=True):
                made.append(cell, "yellow" if of_best else "blue")
            yield made


def _height(score: float, low: float, high: float) -> float:
    return 0.5 if high <= low else min(1.0, max(0.0, (score - low) / (high - low)))


def braille(
    dots: list[tuple[float, float]], path: list[tuple[float, float]], columns: int
) -> list[tuple[str, list[bool]]]:
    """Return rows of braille characters, and which of them the line runs through.

    dots, path: (x, y), each in [0, 1]; the line is drawn in steps.
    """
    wide, tall = 2 * columns, 4 * CHART_ROWS
    cells = [[0] * columns for _ in range(CHART_ROWS)]
    lined = [[False] * columns for _ in range(CHART_ROWS)]

    def put(x: int, y: int, of_line: bool) -> None:
        row, column = (tall - 1 - y) // 4, x // 2
        cells[row][column] |= DOTS[(tall - 1 - y) % 4][x % 2]
        lined[row][column] |= of_line

    for x, y in dots:
        put(round(x * (wide - 1)), round(y * (tall - 1)), False)
    points = [(round(x * (wide - 1)), round(y * (tall - 1))) for x, y in path]
    for (x, y), (until, _) in zip(points, [*points[1:], (wide, 0)], strict=False):
        for step in range(x, until):
            put(step, y, True)
    return [
        ("".join(chr(0x2800 + cell) for cell in row), line)
        for row, line in zip(cells, lined, strict=True)
    ]
