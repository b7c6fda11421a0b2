"""Trials that a worker takes several of at once: each ends as it would have alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest

from rl.budget import BudgetError, SearchSettings
from rl.objective import Job, Stop, Stopped, TrialResult
from rl.search import SearchInterrupted, run_search
from rl.space import Knob, SearchSpace
from rl.studies import Heart, bury

SPACE = SearchSpace([Knob("a", tuple(range(6))), Knob("b", tuple(range(5)))])
SHORT = {"workers": 1, "finalists": 2, "replicates": 2}


@dataclass
class Stacked:
    """Scores that rise from epoch to epoch; settings of one `a` are trained together."""

    epoch_s: float = 0.0
    epochs: int = 6
    fails_at: int | None = None
    """Value of `a` whose stack raises."""
    stops_after: int | None = None
    """Number of stacks after which everything is asked to stop, once."""
    stacks: list[list[dict]] = field(default_factory=list)
    alone: int = 0

    def __call__(self, values, seed, stop, report) -> TrialResult:
        self.alone += 1
        return self.train([Job(values, seed, report)])[0]

    def many(self, jobs: Sequence[Job], stop: Stop) -> Iterator[dict]:
        for a in sorted({job.values["a"] for job in jobs}):
            numbers = [i for i, job in enumerate(jobs) if job.values["a"] == a]
            self.stacks.append([dict(jobs[i].values) for i in numbers])
            if self.stops_after is not None and len(self.stacks) > self.stops_after:
                self.stops_after = None
                raise KeyboardInterrupt
            if a == self.fails_at:
                raise MemoryError("out of memory")
            yield dict(zip(numbers, self.train([jobs[i] for i in numbers]), strict=True))

    def train(self, jobs: Sequence[Job]) -> list[TrialResult]:
        going, curves = dict(enumerate(jobs)), [[] for _ in jobs]
        for epoch in range(self.epochs):
            time.sleep(self.epoch_s)
            for i, job in list(going.items()):
                worth = job.values["a"] / 10 + job.values["b"] / 20
                curves[i].append(worth * (epoch + 1) / self.epochs)
                if job.report(curves[i][-1]):
                    del going[i]
        return [TrialResult(curve[-1], 0.1, curve) for curve in curves]


def search(folder: Path, objective: Stacked, **settings):
    return run_search(
        SPACE, objective, SearchSettings(**SHORT | settings), folder / "study.db",
        default=SPACE.default(),
    )  # fmt: skip


def test_trials_and_finals_are_taken_several_at_once(tmp_path: Path) -> None:
    objective = Stacked()
    result = search(tmp_path, objective, trials=21, stack=8, tries=1)
    assert [t["state"] for t in result.trials] == ["complete"] * 21
    assert result.trials[0]["values"] == SPACE.default()
    assert len({tuple(t["values"].values()) for t in result.trials}) == 21  # none twice
    for trial in result.trials:
        worth = trial["values"]["a"] / 10 + trial["values"]["b"] / 20
        assert trial["score"] == pytest.approx(worth)
        assert len(trial["curve"]) == 6
    trained = sum(map(len, objective.stacks)) + objective.alone
    assert trained == 21 + sum(len(f.scores) for f in result.finalists)
    assert max(map(len, objective.stacks)) > 1
    assert result.best.values == {"a": 5, "b": 4}


def test_one_worker_searches_alike_again(tmp_path: Path) -> None:
    one, other = (
        search(tmp_path / name, Stacked(), trials=12, stack=5)
        for name in ("a", "b")
        if not (tmp_path / name).mkdir()
    )
    assert [t["values"] for t in one.trials] == [t["values"] for t in other.trials]


def test_an_objective_that_knows_no_stack_is_asked_one_by_one(tmp_path: Path) -> None:
    class Alone:
        epochs = 6

        def __call__(self, values, seed, stop, report):
            return Stacked()(values, seed, stop, report)

    result = search(tmp_path, Alone(), trials=4, stack=8)
    assert [t["state"] for t in result.trials] == ["complete"] * 4


def test_a_stack_that_fails_takes_what_it_had_not_told_with_it(tmp_path: Path) -> None:
    result = search(tmp_path, Stacked(fails_at=3), trials=30, stack=30)
    for trial in result.trials:  # stacks of a = 0, 1 and 2 were told before
        failed = trial["values"]["a"] >= 3
        assert trial["state"] == ("fail" if failed else "complete")
        assert ("out of memory" in trial.get("error", "")) == failed


def test_a_pruned_trial_leaves_the_others_of_its_stack(tmp_path: Path) -> None:
    result = search(tmp_path, Stacked(), trials=30, stack=10, pruner="median")
    states = [t["state"] for t in result.trials]
    assert set(states) == {"complete", "pruned"}
    for trial in result.trials:
        if trial["state"] == "pruned":
            assert trial["stopped_after"] == len(trial["curve"]) < 6
    assert result.best.values == {"a": 5, "b": 4}


def test_when_the_time_is_up_what_has_not_begun_does_not_count(tmp_path: Path) -> None:
    objective = Stacked(epoch_s=0.05)
    result = search(tmp_path, objective, minutes=0.5 / 60, stack=30, agent="random")
    begun = [values for stack in objective.stacks for values in stack]
    assert 1 < len(result.trials) < 30
    assert all(trial["values"] in begun for trial in result.trials)
    assert {t["state"] for t in result.trials} <= {"complete", "pruned"}
    study = optuna.load_study(study_name="trials", storage=f"sqlite:///{tmp_path}/study.db")
    withdrawn = [t for t in study.trials if t.user_attrs.get("killed") is True]
    assert len(withdrawn) + len(result.trials) == len(study.trials)
    assert withdrawn


def test_a_search_stopped_between_stacks_goes_on_and_loses_what_was_told_not(
    tmp_path: Path,
) -> None:
    objective = Stacked(stops_after=2)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, objective, trials=18, stack=9)
    study = optuna.load_study(study_name="trials", storage=f"sqlite:///{tmp_path}/study.db")
    done = [t.params for t in study.trials if t.state.name == "COMPLETE"]
    told = [values for stack in objective.stacks[:2] for values in stack]
    assert len(done) == len(told)
    assert all(values in told for values in done)
    result = search(tmp_path, Stacked(), trials=18, stack=9)
    assert len(result.trials) == 18
    assert [t["values"] for t in result.trials][: len(done)] == done


def test_asked_to_stop_a_stack_gives_up_and_counts_for_nothing(tmp_path: Path) -> None:
    class Asked(Stacked):
        def many(self, jobs, stop):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            raise Stopped
            yield

    with pytest.raises(SearchInterrupted):
        search(tmp_path, Asked(), trials=8, stack=8)
    assert len(search(tmp_path, Stacked(), trials=8, stack=8).trials) == 8


def test_whose_worker_died_is_run_again_alone(tmp_path: Path) -> None:
    """Should it kill again, it takes no others with it."""
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Stacked(stops_after=0), trials=8, stack=8)
    study = optuna.load_study(study_name="trials", storage=f"sqlite:///{tmp_path}/study.db")
    running = [t for t in study.trials if t.state.name == "RUNNING"]
    assert len(running) == 8
    for trial in running[2:4]:
        bury(study, trial, "its worker died")
    objective = Stacked()
    result = search(tmp_path, objective, trials=8, stack=8)
    again = [t for t in result.trials if "retry_of" in t]
    assert [t["values"] for t in again] == [t.params for t in running[2:4]]
    assert [t["seed"] for t in again] == [t.user_attrs["seed"] for t in running[2:4]]
    several = [stack for stack in objective.stacks if len(stack) > 1]
    assert all(t["values"] not in stack for t in again for stack in several)
    assert len(result.trials) == 8


def test_trials_that_are_added_while_more_are_claimed_beat_too() -> None:
    study = optuna.create_study()
    ids: list[int] = []
    with Heart(study, ids, 0.01):
        for _ in range(3):
            ids.append(study.ask()._trial_id)
            time.sleep(0.1)
    assert all(t.user_attrs["beat"] >= 1 for t in study.trials)


def test_a_trial_that_someone_else_has_finished_costs_the_others_nothing(tmp_path: Path) -> None:
    class Robbed(Stacked):
        def block(self, seed: int) -> int:
            return 0

        def many(self, jobs, stop):
            study = optuna.load_study(study_name="trials", storage=f"sqlite:///{tmp_path}/study.db")
            if not self.stacks:
                mine = [t for t in study.trials if t.state.name == "RUNNING"]
                bury(study, mine[1], "it was taken for dead")
            yield from super().many(jobs, stop)

        def train(self, jobs):
            return [TrialResult(0.1 * job.values["a"], 0.1, [0.1]) for job in jobs]

    result = search(tmp_path, Robbed(), trials=6, stack=6)
    assert [t["state"] for t in result.trials] == ["complete"] * 6
    assert sum("retry_of" in t for t in result.trials) == 1


@pytest.mark.parametrize("budget", [{"training_seconds": 5.0}, {"cost_aware": True}])
def test_what_needs_each_trainings_time_is_refused(budget: dict) -> None:
    with pytest.raises(BudgetError, match=f"{next(iter(budget))} needs the time of each training"):
        SearchSettings(stack=2, **budget)
    with pytest.raises(BudgetError, match="stack=0 is below its least value 1"):
        SearchSettings(stack=0)
