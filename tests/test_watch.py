"""The search drawn in the terminal while it runs."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rl.budget import SearchSettings
from rl.insight import Insight
from rl.records import Record, StudyRecord
from rl.search import TrialResult, run_search
from rl.space import Knob, SearchSpace
from rl.studies import Place
from scripts.watch import Watcher, watching
from scripts.watch_view import CHART_ROWS, Snapshot, braille, planned_finals, view

SPACE = SearchSpace(
    [Knob("a", ("x", "y", "z")), Knob("noise", (0, 50)), Knob("snr", (0, 9), when={"noise": (50,)})]
)
BUDGET = SearchSettings(trials=40, workers=1, finalists=1, replicates=2)


def record(number: int, state: str, values: dict, score: float | None, **more) -> Record:
    codes = tuple(SPACE.encode(values).tolist())
    given = {"seconds": 12.0, "curve": (), "is_default": False, "error": ""} | more
    return Record(number, state, values, codes, score, score, **given)  # type: ignore[arg-type]


def snapshot(records: list[Record], *, finals=(0, 0), spent=120.0, budget=BUDGET) -> Snapshot:
    study = StudyRecord("trials", SPACE, True, tuple(records), (), "dyna-q-ucb", 0, SPACE.default())
    insight = Insight(study)
    path = tuple(insight.best_after(n) for n in range(1, len(insight.scored) + 1))
    return Snapshot(insight, path, budget, (spent, 2 * spent), finals)


def some(n: int = 10) -> list[Record]:
    rng = np.random.default_rng(0)
    made = []
    for i, codes in enumerate(SPACE.draw(rng, n)):
        values = SPACE.default() if i == 0 else SPACE.decode(codes)
        score = 0.4 + 0.3 * (values["a"] == "y") + 0.01 * rng.normal()
        made.append(record(i, "complete", values, score, is_default=i == 0))
    return made


def drawn(what, width: int = 110) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(what)
    return console.export_text()


def test_everything_there_is_to_know_is_drawn() -> None:
    running = record(12, "running", {"a": "z", "noise": 0}, None, seconds=65.0,
                     curve=((1.0, 0.25), (2.0, 0.375)))  # fmt: skip
    failed = record(10, "failed", {"a": "x", "noise": 50, "snr": 9}, None,
                    error="Traceback\nRuntimeError: out of memory")  # fmt: skip
    pruned = record(11, "pruned", {"a": "x", "noise": 50, "snr": 0}, 0.31)
    shot = snapshot([*some(), failed, pruned, running])
    text = drawn(view(shot))
    assert "dyna-q-ucb" in text
    assert "trials  12 of 40" in text
    assert "2 min spent" in text
    assert "1 failed" in text
    best = shot.path[-1].score
    assert f"best so far {best.mean:.3f}  {best.low:.3f} to {best.high:.3f}" in text
    assert "a=y" in text
    gain = shot.insight.difference(shot.insight.best.values, SPACE.default())
    assert f"against the default {gain.mean:+.3f}" in text
    assert "RuntimeError: out of memory" in text
    assert "pruned 0.310" in text
    (line,) = [line for line in text.splitlines() if "running" in line]
    assert "trial 12" in line
    assert "0.375" in line  # where it stands
    assert "1 min" in line
    assert "a=z" in line
    lines = text.splitlines()
    first = lines[next(i for i, line in enumerate(lines) if "matters" in line) + 1]
    assert first.split()[1] == "a"  # the knob that matters, with each of its values
    effects = shot.insight.knobs[0].effects
    assert all(f"{v} {e.mean:.3f}±{e.sd:.3f}" in first for v, e in zip("xyz", effects, strict=True))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_every_width(width: int) -> None:
    text = drawn(view(snapshot(some(25))), width)
    lines = text.splitlines()
    assert max(map(len, lines)) == min(width, max(map(len, lines)))
    assert {len(line) for line in lines} == {width}  # the panel's frame is whole
    assert "trial 24" in text or width == 40


def test_a_search_that_has_only_just_begun_says_so() -> None:
    assert "about to start" in drawn(view(snapshot([], spent=0.0)))
    one = drawn(view(snapshot([record(0, "running", SPACE.default(), None)], spent=3.0)))
    assert "trials  0 of 40" in one
    assert "the default setting" in one
    assert "left" not in one  # not known before anything has ended
    equal = [record(i, "complete", {"a": v, "noise": 0}, 0.5) for i, v in enumerate("xyz")]
    assert "0.500" in drawn(view(snapshot(equal)))


def test_the_time_left_is_that_of_the_trials_and_finals_to_come() -> None:
    shot = snapshot(some(10), spent=100.0)  # 10 s a trial, whatever the workers
    assert shot.left_s() == pytest.approx(30 * 10 + 4 * 10, abs=1)
    clock = SearchSettings(minutes=3, workers=1, finalists=1, replicates=2)
    assert snapshot(some(10), spent=100.0, budget=clock).left_s() == pytest.approx(80 + 40, abs=1)
    finals = snapshot(some(10), spent=100.0, finals=(3, 4))
    assert finals.left_s() == pytest.approx(10, abs=1)
    assert "finals  3 of 4" in drawn(view(finals))
    worked = SearchSettings(training_seconds=300, workers=2, finalists=1, replicates=2)
    # two at a time: 100 s on the clock were 200 s of training
    assert snapshot(some(10), spent=100.0, budget=worked).left_s() == pytest.approx(90, abs=1)
    short = [*some(5), *(record(i, "pruned", SPACE.default(), 0.1, seconds=4.0) for i in range(5))]
    mean = (5 * 12 + 5 * 4) / 10  # a final costs a whole trial, and is never pruned
    left = snapshot(short, spent=10 * mean).left_s()
    assert left == pytest.approx(30 * mean + 4 * 12, abs=1)


@pytest.mark.parametrize(("finalists", "replicates"), [(1, 2), (3, 3), (4, 4), (8, 4)])
def test_the_finals_to_come_are_counted(finalists: int, replicates: int, tmp_path: Path) -> None:
    """Against a search that holds them; none of its finalists is the default."""
    space = SearchSpace([Knob("a", tuple(range(12))), Knob("b", (1, 2))])

    class Rising(Slow):
        def __call__(self, values, seed, stop, report):
            score = values["a"] + values["b"] + 0.01 * (seed % 7)
            report(score)
            return TrialResult(score, 0.1, [score])

    budget = SearchSettings(trials=12, workers=1, finalists=finalists, replicates=replicates)
    result = run_search(space, Rising(None), budget, tmp_path / "study.db")
    assert len(result.finalists) == finalists + 1
    assert sum(len(f.scores) for f in result.finalists) == planned_finals(budget)


def test_dots_and_steps_stand_where_they_belong() -> None:
    rows = braille([(0.0, 0.0), (1.0, 1.0)], [], 10)
    assert len(rows) == CHART_ROWS
    assert rows[-1][0][0] == chr(0x2800 + 0x40)  # bottom left
    assert rows[0][0][-1] == chr(0x2800 + 0x08)  # top right
    assert not any(any(line) for _, line in rows)
    rows = braille([], [(0.0, 0.0), (0.5, 1.0)], 10)
    low, high = rows[-1][1], rows[0][1]
    assert low == [True] * 5 + [False] * 5
    assert high == [False] * 5 + [True] * 5


class Slow:
    """A cheap objective that waits until it was seen."""

    def __init__(self, seen) -> None:
        self.seen = seen

    epochs = 1

    def __call__(self, values, seed, stop, report):
        end = time.monotonic() + 20
        while not self.seen(values) and time.monotonic() < end:
            time.sleep(0.01)
        score = 0.4 + 0.3 * (values["a"] == "y") + 0.01 * np.random.default_rng(seed).normal()
        report(score)
        return TrialResult(score, 0.1, [score])


def test_a_real_search_is_seen_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    budget = SearchSettings(trials=6, workers=1, finalists=1, replicates=2, agent="dyna-q")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=50)
    watcher = Watcher(Place(str(path)), budget)
    watcher.read()  # nothing is there yet, which is no trouble
    assert "about to start" in drawn(watcher.view())

    def seen(values) -> bool:
        watcher.read()
        study = watcher.snapshot.insight.study
        return any(t.state == "running" and t.values == values for t in study.trials) or bool(
            watcher.snapshot.finals[1]
        )

    with watching(Place(str(path)), budget, console=console) as on_trial:
        result = run_search(SPACE, Slow(seen), budget, path, on_trial=on_trial)
    text = screen.getvalue()
    assert "melbandit search" in text
    assert "6 of 6" in text or "finals" in text
    watcher.read()
    shot = watcher.snapshot
    assert [t.score for t in shot.insight.study.trials] == [t["score"] for t in result.trials]
    assert [best.after for best in shot.path] == list(range(6))
    assert shot.path == tuple(shot.insight.best_after(n) for n in range(1, 7))
    assert shot.finals == (4, 4)


def test_a_study_that_cannot_be_read_does_not_disturb_the_search(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_text("no database")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with watching(Place(str(path)), BUDGET, console=console) as on_trial:
        on_trial({})
    watcher = Watcher(Place(str(path)), BUDGET)
    watcher.start()
    watcher.stop()
    assert "neither an SQLite file" in watcher.trouble
