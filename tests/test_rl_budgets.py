"""A search's budgets, trials that end early, and trials of another length than the finals."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rl.budget import BudgetError, SearchSettings
from rl.objective import TrialResult
from rl.search import run_search
from rl.space import Knob, SearchSpace

SPACE = SearchSpace([Knob("a", tuple(range(6))), Knob("b", tuple(range(5)))])
SHORT = {"workers": 1, "finalists": 1, "replicates": 1}


@dataclass
class Rising:
    """Scores that rise from epoch to epoch to what the setting is worth."""

    epoch_s: float = 0.0
    epochs: int = 10
    given: list[dict] = field(default_factory=list)

    def __call__(self, values, seed, stop, report) -> TrialResult:
        self.given.append(dict(values))
        worth = values["a"] / 10 + values["b"] / 20
        curve = []
        for epoch in range(values.get("epochs", self.epochs)):
            time.sleep(self.epoch_s)
            curve.append(worth * (epoch + 1) / self.epochs)
            if report(curve[-1]):
                break
        return TrialResult(curve[-1], len(curve) * self.epoch_s, curve)


def search(folder: Path, objective: Rising, **settings):
    return run_search(SPACE, objective, SearchSettings(**SHORT, **settings), folder / "study.db")


@pytest.mark.parametrize("budget", [{"minutes": 1.5 / 60}, {"training_seconds": 1.5}])
def test_when_the_time_is_up_a_trial_ends_after_its_epoch(tmp_path: Path, budget: dict) -> None:
    result = search(tmp_path, Rising(epoch_s=0.05), agent="random", **budget)
    first, *_, last = result.trials
    assert first["state"] == "complete"  # without one there would be nothing to recommend
    assert len(first["curve"]) == 10
    if last["state"] == "pruned":  # else the time was up between two trials
        assert last["stopped_after"] == len(last["curve"]) < 10
        assert last["reached"] == pytest.approx(last["curve"][-1])
        assert last["score"] is None
    assert len(result.trials) < 10  # 10 whole ones take 5 s
    assert all(len(f.scores) == 1 for f in result.finalists)  # in full, after the time


def test_stop_epoch_ends_trials_there_and_not_the_finals(tmp_path: Path) -> None:
    result = search(tmp_path, Rising(), agent="dyna-q-ucb", trials=8, stop_epoch=3)
    assert {t["state"] for t in result.trials} == {"complete"}
    assert {len(t["curve"]) for t in result.trials} == {3}
    best = result.best
    worth = best.values["a"] / 10 + best.values["b"] / 20
    assert best.scores == (pytest.approx(worth),)
    assert best.believed == pytest.approx(worth, abs=0.15)  # in the finals' unit


def test_trials_may_be_trained_with_what_the_finals_are_not(tmp_path: Path) -> None:
    objective = Rising()
    settings = SearchSettings(**SHORT, agent="dyna-q-ucb", trials=4, trial_epochs=2)
    run_search(SPACE, objective, settings, tmp_path / "s.db", trial_values={"epochs": 2})
    assert [given.get("epochs") for given in objective.given[:4]] == [2] * 4
    assert all("epochs" not in given for given in objective.given[4:])


def test_halving_spends_few_epochs_on_bad_settings_and_resumes_alike(tmp_path: Path) -> None:
    whole = search(tmp_path, Rising(), agent="dyna-q-ucb", trials=20, pruner="halving")
    states = [t["state"] for t in whole.trials]
    assert states.count("pruned") >= 5
    assert {len(t["curve"]) for t in whole.trials if t["state"] == "pruned"} <= {1, 3}
    assert whole.best.values == {"a": 5, "b": 4}
    parts = tmp_path / "parts"
    parts.mkdir()
    search(parts, Rising(), agent="dyna-q-ucb", trials=9, pruner="halving")
    again = search(parts, Rising(), agent="dyna-q-ucb", trials=20, pruner="halving")
    assert [t["values"] for t in again.trials] == [t["values"] for t in whole.trials]


@dataclass
class Thrifty(Rising):
    """Scores only where it is asked to."""

    scored: list[list[int]] = field(default_factory=list)
    """Of each training, the epochs."""
    epoch: int = 0
    """Of the one under way."""

    def __call__(self, values, seed, stop, report) -> TrialResult:
        self.epoch = 0
        self.scored.append([])

        def told(score: float) -> bool:
            self.epoch += 1
            is_wanted = report.wants()
            if is_wanted:
                self.scored[-1].append(self.epoch)
            return report(score if is_wanted else math.nan)

        return super().__call__(values, seed, stop, told)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [3, 6, 9, 10]),
        ({"stop_epoch": 5}, [2, 4, 5]),
        ({"trial_epochs": 2}, [1, 2]),
        ({"pruner": "median"}, [*range(1, 11)]),
    ],
)
def test_what_nobody_reads_need_not_be_scored(tmp_path: Path, settings, expected) -> None:
    thrifty, rising = Thrifty(), Rising()
    made = []
    for name, objective in (("thrifty", thrifty), ("rising", rising)):
        folder = tmp_path / name
        folder.mkdir()
        given = SearchSettings(**SHORT, agent="dyna-q-ucb", trials=4, **settings)
        n = settings.get("trial_epochs", 10)
        made.append(
            run_search(SPACE, objective, given, folder / "s.db", trial_values={"epochs": n})
        )
    assert thrifty.scored[:4] == [expected] * 4
    assert thrifty.scored[4:] == [[10]] * len(thrifty.scored[4:])  # finals
    assert len(thrifty.scored) == len(rising.given) > 4
    assert [t["values"] for t in made[0].trials] == [t["values"] for t in made[1].trials]
    assert [t["score"] for t in made[0].trials] == [t["score"] for t in made[1].trials]
    assert made[0].best == made[1].best


def test_a_trial_that_the_clock_ends_is_scored_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thrifty = Thrifty(epochs=16)  # on the way it is scored after 4, 8 and 12 of them
    monkeypatch.setattr(
        "rl.overseer.over_budget", lambda *_: len(thrifty.scored) == 3 and thrifty.epoch >= 7
    )
    result = search(tmp_path, thrifty, agent="random", minutes=60, trials=3)
    assert [t["state"] for t in result.trials] == ["complete", "complete", "pruned"]
    assert thrifty.scored[2] == [4, 7]
    assert result.trials[2]["stopped_after"] == 7
    assert result.trials[2]["reached"] == result.trials[2]["curve"][6] > 0


def test_a_search_that_minds_the_cost_tries_the_cheap_half_first(tmp_path: Path) -> None:
    @dataclass
    class Dear(Rising):
        def __call__(self, values, seed, stop, report):
            time.sleep(0.15 * (values["b"] % 2))  # b says nothing of the score but costs
            values = {**values, "b": 0}
            return Rising.__call__(self, values, seed, stop, report)

    spent = {}
    for cost_aware in (False, True):
        folder = tmp_path / str(cost_aware)
        folder.mkdir()
        result = search(folder, Dear(), agent="dyna-q-ucb", trials=12, cost_aware=cost_aware)
        spent[cost_aware] = sum(t["values"]["b"] % 2 for t in result.trials[4:])
    assert spent[True] < spent[False]


def test_budgets_that_cannot_be_are_refused() -> None:
    for given, words in (
        ({"training_seconds": 0}, "training_seconds=0 must be above 0"),
        ({"stop_epoch": 0}, "stop_epoch=0 is below"),
        ({"tries": -1}, "tries=-1 must not be negative"),
        ({"tries": 2, "agent": "tpe"}, "agent=tpe tries a setting as often as it likes"),
        ({"cost_aware": True, "agent": "tpe"}, "cost_aware goes with agent=dyna-q-ucb, not tpe"),
    ):
        with pytest.raises(BudgetError, match=words):
            SearchSettings(**given)
