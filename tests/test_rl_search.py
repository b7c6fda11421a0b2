"""The search: budget, finals, resume after every kind of end, and workers."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy import stats

from rl.claims import Work, final_seeds, trial_seed
from rl.cluster import Nodes
from rl.finals import (
    T_QUANTILES,
    Finalist,
    expectations,
    paired_difference,
    rank_finalists,
    shortlist,
)
from rl.records import open_study, read_earlier
from rl.search import (
    SearchError,
    SearchInterrupted,
    SearchResult,
    SearchSettings,
    Stopped,
    TrialResult,
    run_search,
)
from rl.space import Knob, SearchSpace, SpaceError
from rl.studies import Place
from rl.workers import Pool

SPACE = SearchSpace(
    [
        Knob("a", ("x", "y", "z")),
        Knob("noise", (0.0, 50.0)),
        Knob("snr", (0.0, 10.0), when={"noise": (50.0,)}),
        Knob("m", (40, 64, None), default=64),
    ]
)
SETTINGS = SearchSettings(trials=9, workers=1, finalists=2, replicates=2, agent="dyna-q")


def score(values: dict, seed: int) -> float:
    clean = {"x": 0.0, "y": 0.5, "z": 0.2}[values["a"]] + 0.3 * (values["m"] == 64)
    noise = np.random.default_rng(seed).normal() / 50
    return clean - values["noise"] / 100 + values.get("snr", 0.0) / 50 + noise


@dataclass
class Training:
    """A cheap objective that can go wrong, once or always, in the ways of a real one."""

    folder: Path
    dies_at: tuple[int, ...] = ()
    """Seeds at which the process kills itself, once each."""
    ends_at: tuple[int, ...] = ()
    """Seeds at which the process is asked to end, once each."""
    fails_at: tuple[int, ...] = ()
    nan_at: tuple[int, ...] = ()
    fails: bool = False
    together: int = 1
    """Workers to wait for in `prepare`."""
    waits: bool = False
    """Train until asked to stop."""
    ready: bool = False
    epochs: int = 3

    def prepare(self) -> None:
        self.ready = True
        (self.folder / f"worker-{os.getpid()}").touch()
        while len(list(self.folder.glob("worker-*"))) < self.together:
            time.sleep(0.01)

    def once(self, seed: int) -> bool:
        mark = self.folder / f"mark-{seed}"
        fresh = not mark.exists()
        mark.touch()
        return fresh

    def __call__(self, values: dict, seed: int, stop, report) -> TrialResult:
        assert self.ready
        if seed in self.dies_at and self.once(seed):
            os.kill(os.getpid(), signal.SIGKILL)
        if seed in self.ends_at and self.once(seed):
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            raise Stopped
        if self.fails or seed in self.fails_at:
            raise RuntimeError("out of memory")
        while self.waits and not stop():
            (self.folder / f"training-{os.getpid()}").touch()
            time.sleep(0.01)
        value = float("nan") if seed in self.nan_at else score(values, seed)
        curve = []
        for score_now in (0.1, float("nan"), value):
            curve.append(score_now)
            if report(score_now):
                break
        return TrialResult(curve[-1], 0.5, curve, {"pid_": os.getpid()})


def what(result: SearchResult) -> str:
    """Return all that two equal searches share."""
    made = result.to_json()
    del made["seconds"]
    for trial in made["trials"]:
        del trial["pid_"]
    return json.dumps(made)


def run(folder: Path, settings: SearchSettings = SETTINGS, on_trial=None, **faults) -> SearchResult:
    folder.mkdir(exist_ok=True)
    objective = Training(folder, **faults)
    return run_search(SPACE, objective, settings, folder / "study.db", on_trial=on_trial)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run(tmp_path_factory.mktemp("whole"))


def test_the_default_comes_first_and_every_training_is_on_record(whole: SearchResult) -> None:
    first = whole.trials[0]
    assert first["values"] == SPACE.default()
    assert first["default"] is True
    assert len(whole.trials) == 9
    assert [t["number"] for t in whole.trials] == list(range(9))
    for i, trial in enumerate(whole.trials):
        assert trial["seed"] == trial_seed(0, i)
        assert trial["score"] == pytest.approx(score(trial["values"], trial["seed"]))
        assert trial["curve"] == [0.1, None, trial["score"]]
        assert trial["seconds"] == 0.5
    json.dumps(whole.to_json(), allow_nan=False)


def test_finalists_are_trained_on_fresh_seeds_and_their_mean_decides(whole: SearchResult) -> None:
    seeds = {t["seed"] for t in whole.trials}
    assert all(seed % 2 == 0 for seed in seeds)  # even and odd never meet, whatever the budget
    assert all(seed % 2 == 1 for seed in final_seeds(0, 2))
    for finalist in whole.finalists:
        assert not seeds & set(finalist.seeds)
        assert finalist.seeds == final_seeds(0, 2)
        expected = [score(finalist.values, seed) for seed in finalist.seeds]
        assert finalist.scores == pytest.approx(expected)
        assert finalist.mean == pytest.approx(np.mean(expected))
        assert finalist.believed == pytest.approx(finalist.mean, abs=0.1)
    assert whole.best.believed == max(f.believed for f in whole.finalists)
    assert whole.default.values == SPACE.default()
    assert whole.difference.mean == pytest.approx(whole.best.mean - whole.default.mean)


def test_a_search_killed_in_a_trial_and_again_in_the_finals_ends_as_if_it_never_was(
    whole: SearchResult, tmp_path: Path
) -> None:
    kills = (trial_seed(0, 4), final_seeds(0, 2)[1])
    code = f"import pathlib, test_rl_search as t; t.run(pathlib.Path({str(tmp_path)!r}), dies_at={kills})"  # noqa: E501
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    for _ in kills:
        ended = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False
        )
        assert ended.returncode == -signal.SIGKILL
    assert what(run(tmp_path, dies_at=kills)) == what(whole)


def test_sigterm_ends_cleanly_and_the_same_call_resumes(
    whole: SearchResult, tmp_path: Path
) -> None:
    ends = (trial_seed(0, 0), trial_seed(0, 6), final_seeds(0, 2)[0])
    for _ in ends:
        with pytest.raises(SearchInterrupted, match="run it again to resume"):
            run(tmp_path, ends_at=ends)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert what(run(tmp_path, ends_at=ends)) == what(whole)


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(
    whole: SearchResult, tmp_path: Path
) -> None:
    told: list[dict] = []
    run(tmp_path, replace(SETTINGS, trials=4))
    assert what(run(tmp_path, on_trial=told.append)) == what(whole)
    assert [t["number"] for t in told if t["phase"] == "trials"] == [4, 5, 6, 7, 8]
    told.clear()
    assert what(run(tmp_path, on_trial=told.append)) == what(whole)
    assert told == []  # all was there already


def test_two_workers_lose_nothing_and_double_nothing_though_one_is_killed(tmp_path: Path) -> None:
    told: list[dict] = []
    result = run(tmp_path, replace(SETTINGS, workers=2, trials=12), told.append,
                 together=2, dies_at=(trial_seed(0, 6),))  # fmt: skip
    assert len(list(tmp_path.glob("worker-*"))) == 2
    assert [t["number"] for t in result.trials] == list(range(12))
    assert len({json.dumps(t["values"]) for t in result.trials}) == 12
    assert {t["state"] for t in result.trials} == {"complete"}
    (again,) = [t for t in result.trials if "retry_of" in t]  # run once more, with its seed
    assert again["seed"] == trial_seed(0, 6)
    assert len({t["seed"] for t in result.trials}) == 12
    assert len({t["pid_"] for t in result.trials if "pid_" in t}) == 2
    assert None not in [s for f in result.finalists for s in f.scores]
    assert sorted(t["number"] for t in told if t["phase"] == "trials") == list(range(12))


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = f"""if __name__ == "__main__":
        import pathlib, test_rl_search as t
        t.pool(pathlib.Path({str(tmp_path)!r}))"""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    (tmp_path / "main.py").write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")], env={**os.environ, "PYTHONPATH": paths}
    )
    until(lambda: any(tmp_path.glob("training-*")))
    parent.kill()
    parent.wait()
    for mark in tmp_path.glob("training-*"):
        pid = mark.name.split("-")[1]
        until(lambda pid=pid: not alive(pid))


def pool(folder: Path) -> None:
    """Run one worker process that trains until its parent ends."""
    settings = SearchSettings(agent="random", trials=9)
    work = Work(SPACE, Training(folder, waits=True), Place(str(folder / "s.db")), settings)
    Pool(work, 1, lambda: False, lambda: None).run("trials")


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.02)


def test_a_failed_trial_is_kept_with_its_error_and_the_search_goes_on(tmp_path: Path) -> None:
    result = run(tmp_path, fails_at=(trial_seed(0, 2),), nan_at=(trial_seed(0, 0),))
    zero, two = result.trials[0], result.trials[2]
    assert "out of memory" in two["error"]
    assert "the score is nan" in zero["error"]
    assert zero["score"] is None
    assert len(result.trials) == 9
    assert [t["state"] for t in result.trials].count("complete") == 7
    assert result.default.mean is not None  # the finals train it again


def test_a_search_in_which_everything_fails_shows_the_error_and_can_be_resumed(
    tmp_path: Path,
) -> None:
    with pytest.raises(SearchError, match=r"(?s)all 5 trials failed.*out of memory"):
        run(tmp_path, fails=True)
    result = run(tmp_path)
    defaults = [t for t in result.trials if t.get("default")]
    assert [t["state"] for t in defaults] == ["fail", "complete"]


def test_failing_finals_leave_the_others_to_win(tmp_path: Path) -> None:
    result = run(tmp_path, replace(SETTINGS, trials=4), fails_at=final_seeds(0, 2)[:1])
    assert all(f.scores[0] is None and f.scores[1] is not None for f in result.finalists)
    assert result.best.standard_error is None


def test_optuna_s_own_tools_see_what_the_finals_were_trained_with(tmp_path: Path) -> None:
    run(tmp_path, replace(SETTINGS, trials=4))
    finals = optuna.load_study(study_name="finals", storage=f"sqlite:///{tmp_path}/study.db")
    assert len(finals.trials) > 2
    for trial in finals.trials:
        assert trial.params == trial.user_attrs["values"]
        for name, distribution in trial.distributions.items():
            values = next(knob.values for knob in SPACE.knobs if knob.name == name)
            assert distribution == optuna.distributions.CategoricalDistribution(values)


def test_a_search_ends_when_every_setting_was_tried(tmp_path: Path) -> None:
    space = SearchSpace([Knob("a", ("x", "y")), Knob("noise", (0.0,)), Knob("m", (40,))])
    result = run_search(space, Training(tmp_path), SETTINGS, tmp_path / "study.db")
    assert len(result.trials) == space.size() == 2
    twice = replace(SETTINGS, agent="dyna-q-ucb")
    result = run_search(space, Training(tmp_path), twice, tmp_path / "twice.db")
    assert [t["values"]["a"] for t in result.trials].count("x") == len(result.trials) / 2 == 2


def test_a_second_look_at_a_setting_has_a_seed_of_its_own(tmp_path: Path) -> None:
    settings = replace(SETTINGS, agent="dyna-q-ucb", trials=24)
    looks: dict[str, list[int]] = {}
    for trial in run(tmp_path / "twice", settings).trials:
        looks.setdefault(str(trial["values"]), []).append(trial["seed"])
    assert max(map(len, looks.values())) == 2
    assert all(len(set(seeds)) == len(seeds) for seeds in looks.values())
    with pytest.raises(SearchError, match="tries=2, not 1; give the same tries"):
        run(tmp_path / "twice", replace(settings, tries=1))
    once = run(tmp_path / "once", replace(settings, tries=1)).trials
    assert len({str(trial["values"]) for trial in once}) == 24


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("queue", "trials", "ran"),
    [("yz", 2, "xy"), ("yx", 4, "xxyz")],  # the default, x, comes first
    ids=["more than the budget", "one that was tried"],
)
def test_what_was_queued_is_run_within_the_budget_and_never_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue, trials, ran, shared
) -> None:
    def withdraw(study, trial_id):
        raise AssertionError(f"trial {trial_id} is withdrawn")

    monkeypatch.setattr("rl.claims._withdraw", withdraw)
    path = tmp_path / "study.db"
    place = Place(f"sqlite:///{path}", name="s") if shared else Place(str(path))
    space = SearchSpace([Knob("a", ("x", "y", "z")), Knob("noise", (0.0,)), Knob("m", (40,))])
    study = place.open("trials")
    for value in queue:
        study.enqueue_trial({"a": value, "noise": 0.0, "m": 40})
    settings = replace(SETTINGS, trials=trials, agent="random")
    result = run_search(space, Training(tmp_path), settings, place)
    assert sorted(trial["values"]["a"] for trial in result.trials) == list(ran)


def test_what_an_objective_adds_takes_no_place_of_the_records_own(tmp_path: Path) -> None:
    own = {"score": 99.0, "state": "fine", "number": -5, "phase": "x", "values": {}, "mine": 7}

    class Adding(Training):
        def __call__(self, values: dict, seed: int, stop, report) -> TrialResult:
            return replace(super().__call__(values, seed, stop, report), extra=own)

    settings = replace(SETTINGS, trials=2, replicates=1)
    result = run_search(SPACE, Adding(tmp_path), settings, tmp_path / "study.db")
    for number, trial in enumerate(result.trials):
        assert (trial["number"], trial["state"], trial["phase"]) == (number, "complete", "trials")
        assert trial["score"] == score(trial["values"], trial["seed"])
        assert trial["mine"] == 7


def test_a_folder_may_have_any_signs_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "why? 100% {x} #3&a=b"
    run(folder, replace(SETTINGS, trials=2, replicates=1))
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
    assert (folder / "study.db").stat().st_size > 0
    study, finals = open_study(str(folder / "study.db"))
    assert len(study.trials) == 2
    assert finals is not None
    assert len(read_earlier(str(folder))) == 2


def test_minutes_stop_the_trials_but_not_the_finals(tmp_path: Path) -> None:
    result = run(tmp_path, replace(SETTINGS, minutes=1e-6))
    assert len(result.trials) == 1
    assert result.best.mean is not None


def test_a_second_search_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "study.db.lock").open("w") as file:
        file.write("4321")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SearchError, match=r"another search is running.*process 4321"):
            run(tmp_path)


def test_resuming_with_other_grounds_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    short = replace(SETTINGS, trials=1, finalists=1, replicates=1)
    run(tmp_path, short)
    with pytest.raises(SearchError, match="agent=dyna-q, not random"):
        run(tmp_path, replace(short, agent="random"))
    objective = Training(tmp_path)
    with pytest.raises(SearchError, match="seed=0, not 3"):
        run_search(SPACE, objective, short, tmp_path / "study.db", seed=3)
    wider = SearchSpace([*SPACE.knobs[:3], Knob("m", (40, 64), default=64)])
    with pytest.raises(SearchError, match=r"space=.*null.*not .*\[40, 64\]"):
        run_search(wider, objective, short, tmp_path / "study.db")
    home = {"a": "z", "noise": 0.0, "m": 64}
    with pytest.raises(SearchError, match="default="):
        run_search(SPACE, objective, short, tmp_path / "study.db", default=home)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    assert SearchSettings().most_trials == 100
    assert SearchSettings(minutes=1).most_trials is None
    with pytest.raises(ValueError, match="replicates=0"):
        SearchSettings(replicates=0)
    with pytest.raises(ValueError, match="minutes=-1"):
        SearchSettings(minutes=-1)
    with pytest.raises(SpaceError, match="m=7"):
        run_search(SPACE, Training(tmp_path), SETTINGS, tmp_path / "s.db",
                   default={"a": "x", "noise": 0.0, "m": 7})  # fmt: skip


def finalist(*scores: float | None, default: bool = False) -> Finalist:
    return Finalist({"a": "x"}, default, None, tuple(range(len(scores))), scores)


def test_the_paired_interval_is_the_textbook_s() -> None:
    one, other = finalist(0.8, 0.9, 0.7, None), finalist(0.5, 0.9, 0.6, 0.1)
    differences = [0.3, 0.0, 0.1]
    found = paired_difference(one, other)
    low, high = stats.t.interval(0.95, 2, np.mean(differences), stats.sem(differences))
    assert (found.mean, found.low, found.high) == pytest.approx(
        (np.mean(differences), low, high), abs=1e-3
    )
    assert paired_difference(finalist(1.0), finalist(None)) is None
    exact = stats.t.ppf(0.975, np.arange(1, 31))
    assert np.allclose(T_QUANTILES, exact, atol=6e-4)


def test_ranking_puts_the_default_first_among_equals_and_the_unscored_last() -> None:
    default, same, none, low = (
        finalist(0.5, default=True),
        finalist(0.5),
        finalist(None),
        finalist(-1.0),
    )
    assert rank_finalists([none, same, low, default]) == [default, same, low, none]


def test_the_shortlist_holds_the_best_and_the_default() -> None:
    at = {"a": "x", "noise": 0.0}
    tried = [({**at, "m": 40}, 0.3), ({**at, "m": 40}, 0.0), ({**at, "m": None}, 0.2),
             (SPACE.default(), 0.1)]  # fmt: skip
    found = shortlist(SPACE, tried, SPACE.default(), 1)
    assert found == [({**at, "m": None}, 0.2), (SPACE.default(), 0.1)]
    assert shortlist(SPACE, [], SPACE.default(), 3) == [(SPACE.default(), None)]


def test_a_file_is_refused_as_the_storage_of_a_cluster(tmp_path: Path) -> None:
    for storage in (str(tmp_path / "study.db"), f"sqlite:///{tmp_path}/study.db"):
        with pytest.raises(
            SearchError, match=r"ray=auto cannot go.*give a storage that every node"
        ):
            run_search(SPACE, Training(tmp_path), SETTINGS, Place(storage), nodes=Nodes("auto"))
    assert not list(tmp_path.iterdir())


def test_short_trials_are_lifted_by_what_a_settings_finals_are_above_them() -> None:
    """However often each setting was trained: here the better ones more often."""
    space = SearchSpace([Knob("a", (0, 1, 2)), Knob("b", (0, 1))])
    worth = [({"a": 0, "b": 0}, 0.7), ({"a": 1, "b": 0}, 0.9), ({"a": 2, "b": 1}, 0.5)]
    finals = [pair for pair, n in zip(worth, (2, 4, 0), strict=True) for _ in range(n)]
    short = [(setting, score - 0.25) for setting, score in [*worth, worth[0]]]
    asked = [setting for setting, _ in worth]
    as_long = expectations(space, asked, [*worth, worth[0]], finals)
    lifted = expectations(space, asked, short, finals, same_fidelity=False)
    assert lifted == pytest.approx(as_long)
