"""Studies read for looking at: melbandit's own and those made with Optuna alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from rl.foreign import space_of
from rl.records import (
    RecordError,
    open_storage,
    open_study,
    read_study,
    study_of_results,
)
from rl.search import SearchSettings, TrialResult, run_search
from rl.space import Knob, SearchSpace
from rl.storage import SearchError
from rl.storage import open_storage as open_shared
from rl.studies import Place

SPACE = SearchSpace([Knob("a", ("x", "y", "z")), Knob("m", (40, 64, None), default=64)])


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_foreign(storage, name: str = "mine", n: int = 24, direction: str = "maximize"):
    study = optuna.create_study(
        storage=storage, study_name=name, direction=direction,
        sampler=optuna.samplers.RandomSampler(seed=1),
    )  # fmt: skip

    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["sgd", "adam"])
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        drop = trial.suggest_float("drop", 0.0, 0.9, step=0.3)
        depth = trial.suggest_int("depth", 1, 3)
        momentum = trial.suggest_float("momentum", 0, 1) if kind == "sgd" else 0.0
        for epoch in range(1, 4):
            trial.report(epoch * 0.1 + depth, epoch)
        if trial.number == 3:
            raise optuna.TrialPruned
        if trial.number == 4:
            raise ValueError
        return depth - drop + momentum + rate

    study.optimize(objective, n_trials=n, catch=(ValueError,))
    return study


class Objective:
    epochs = 2

    def __call__(self, values, seed, stop, report):
        if values == {"a": "z", "m": 40}:
            raise RuntimeError("out of memory")
        score = {"x": 0.1, "y": 0.5, "z": 0.3}[values["a"]] + 0.2 * (values["m"] == 64)
        report(score / 2)
        report(score)
        return TrialResult(score, 2.5, [score / 2, score])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ours") / "study.db"
    settings = SearchSettings(trials=9, workers=1, finalists=2, replicates=2, agent="dyna-q")
    run_search(SPACE, Objective(), settings, path)
    return path


def test_our_study_is_read_whole(ours: Path) -> None:
    study = read_study(*open_study(str(ours)))
    assert study.space == SPACE
    assert (study.agent, study.default, study.maximise) == ("dyna-q", SPACE.default(), True)
    assert [t.number for t in study.trials] == list(range(9))
    assert study.trials[0].is_default
    assert [t.is_default for t in study.trials].count(True) == 1
    (failed,) = [t for t in study.trials if t.state == "failed"]
    assert "out of memory" in failed.error
    assert failed.values == {"a": "z", "m": 40}
    best = max(study.scored, key=lambda t: t.foretold)
    assert best.values == {"a": "y", "m": 64}
    assert best.curve == ((1.0, best.score / 2), (2.0, best.score))
    assert best.seconds == 2.5
    assert len(study.finals) == 2 * len({str(f.values) for f in study.finals})


def test_reading_needs_no_lock_and_cannot_write(ours: Path) -> None:
    before = ours.read_bytes()
    listing = sorted(ours.parent.iterdir())
    ours.chmod(0o444)
    study, _ = open_study(str(ours))
    read_study(study)
    with pytest.raises(optuna.exceptions.StorageInternalError) as refused:
        study.set_user_attr("mine", 1)
    assert "readonly database" in str(refused.value.__cause__)
    ours.chmod(0o644)
    assert ours.read_bytes() == before
    assert sorted(ours.parent.iterdir()) == listing


def test_interrupted_trials_do_not_count_and_running_ones_are_shown(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db", study_name="trials")
    study.ask()
    study.set_user_attr("search", {"agent": "random", "seed": 0, "space": SPACE.to_json(),
                                   "default": SPACE.default()})  # fmt: skip
    study.tell(0, state=TrialState.FAIL)
    study._storage.create_new_trial(
        study._study_id,
        optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"killed": True}),
    )
    study.enqueue_trial({"a": "y", "m": None})
    study.enqueue_trial({"a": "x", "m": None})
    trial = study.ask()
    trial.suggest_categorical("a", ("x", "y", "z"))
    read = read_study(study)
    assert [(t.number, t.state) for t in read.trials] == [
        (0, "failed"), (1, "running"), (2, "waiting"),
    ]  # fmt: skip
    assert read.trials[1].values == {"a": "y", "m": None}  # also what is not suggested yet
    assert read.trials[1].seconds >= 0
    assert read.count("running") == 1
    assert read.scored == []


def test_a_study_of_somebody_else_gets_a_space_from_its_trials(tmp_path: Path) -> None:
    make_foreign(f"sqlite:///{tmp_path}/s.db")
    study = read_study(*open_study(f"{tmp_path}/s.db"))
    assert study.agent is None
    assert study.space["kind"].values == ("sgd", "adam")
    assert study.space["drop"].values == (0.0, 0.3, 0.6, 0.9)
    assert study.space["depth"].values == (1, 2, 3)
    rates = study.space["rate"].values  # continuous: five bins, equally wide in the logarithm
    assert rates[0] == "0.0001 to 0.000398"
    assert rates[-1] == "0.0251 to 0.1"
    assert len(rates) == 5
    assert study.space["momentum"].when == {"kind": ("sgd",)}
    assert study.count("failed") == study.count("pruned") == 1
    pruned = study.trials[3]
    assert pruned.curve[-1] == (3.0, pruned.score)
    assert pruned.foretold != pruned.score  # by those that were scored at that step
    assert {t.values["kind"] for t in study.trials if "momentum" in t.values} == {"sgd"}
    assert all(t.codes is not None for t in study.trials)


def test_every_value_falls_into_its_own_bin(tmp_path: Path) -> None:
    study = make_foreign(None)
    space, convert = space_of(study.trials)
    for trial in study.trials:
        low, high = map(float, convert["rate"](trial.params["rate"]).split(" to "))
        assert low * 0.998 <= trial.params["rate"] <= high * 1.002
    assert convert["rate"](1e-4) == space["rate"].values[0]
    assert convert["rate"](1e-1) == space["rate"].values[-1]
    assert convert["drop"](0.30000000000000004) == 0.3


def test_ranges_that_changed_and_odd_choices_are_borne() -> None:
    study = optuna.create_study()
    for high, odd in ((4, 1), (8, True), (6, 1)):
        study.enqueue_trial({"odd": odd})
        trial = study.ask()
        trial.suggest_int("n", 2, high, step=2)
        trial.suggest_int("wide", 1, 10_000)
        trial.suggest_float("fixed", 0.5, 0.5)
        trial.suggest_categorical("odd", [1, True, "1"])
        study.tell(trial, 0.5)
    read = read_study(study)
    assert read.space["n"].values == (2, 4, 6, 8)
    assert read.space["wide"].values[0] == "1 to 2001"
    assert len(read.space["fixed"].values) == 1
    assert read.space["odd"].values == ("1", "true", '"1"')
    assert all(t.codes is not None for t in read.trials)


def test_a_journal_file_is_read_too(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.log")
    backend = optuna.storages.journal.JournalFileBackend(path)
    make_foreign(optuna.storages.JournalStorage(backend), n=6)
    assert len(read_study(*open_study(path)).trials) == 6


def test_the_study_is_named_or_found(tmp_path: Path, ours: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    make_foreign(url, "one", 2)
    assert open_study(url)[0].study_name == "one"
    make_foreign(url, "two", 2)
    with pytest.raises(RecordError, match=r"holds several studies; name one of them: one, two"):
        open_study(url)
    assert open_study(url, "two")[0].study_name == "two"
    for where in (url, f"{tmp_path}/s.db"):
        with pytest.raises(RecordError, match=r"no study 'three'; there are: one, two") as refused:
            open_study(where, "three")
        assert str(refused.value).startswith(f"{where}: ")
    study, finals = open_study(str(ours))
    assert (study.study_name, finals.study_name) == ("trials", "finals")
    assert open_study(f"{tmp_path}/s.db#two")[0].study_name == "two"


def test_a_search_in_a_storage_that_machines_share_is_found_by_its_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    settings = SearchSettings(trials=4, workers=1, finalists=1, replicates=1, agent="random")
    run_search(SPACE, Objective(), settings, Place(url, "digits"))
    for where, name in ((url, None), (url, "digits"), (f"{url}#digits", None)):
        study, finals = open_study(where, name)
        assert (study.study_name, finals.study_name) == ("digits/trials", "digits/finals")
    assert len(read_study(study, finals).trials) == 4
    run_search(SPACE, Objective(), settings, Place(url, "voices"))
    with pytest.raises(RecordError, match=r"name one of them: digits, voices\."):
        open_study(url)


def test_results_alone_tell_of_the_study_too(ours: Path, tmp_path: Path) -> None:
    settings = SearchSettings(trials=9, workers=1, finalists=2, replicates=2, agent="dyna-q")
    results = run_search(SPACE, Objective(), settings, ours).to_json()
    told = study_of_results(results, SPACE)
    read = read_study(*open_study(str(ours)))
    assert told.default == read.default
    for one, other in zip(told.trials, read.trials, strict=True):
        assert (one.number, one.state, one.values, one.codes) == (
            other.number, other.state, other.values, other.codes
        )  # fmt: skip
        assert (one.score, one.curve, one.is_default) == (
            other.score, other.curve, other.is_default
        )  # fmt: skip


def test_what_cannot_be_shown_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        open_storage(str(tmp_path / "nothing.db"))
    (tmp_path / "text").write_text("a letter")
    with pytest.raises(RecordError, match="neither an SQLite file nor an Optuna journal"):
        open_storage(str(tmp_path / "text"))
    (tmp_path / "torn.db").write_bytes(b"SQLite format 3\0" + b"\0" * 50)
    with pytest.raises(RecordError, match="torn"):
        open_storage(str(tmp_path / "torn.db"))
    with pytest.raises(SearchError, match=r"nosuch://localhost/x: the storage cannot be opened"):
        open_storage("nosuch://me:secret@localhost/x")
    url = f"sqlite:///{tmp_path}/s.db"
    optuna.create_study(storage=url, study_name="both", directions=["minimize", "maximize"])
    with pytest.raises(RecordError, match="2 objectives"):
        open_study(url)
    optuna.create_study(storage=f"sqlite:///{tmp_path}/e.db", study_name="empty")
    with pytest.raises(RecordError, match="no trial of study empty has a parameter"):
        read_study(*open_study(f"{tmp_path}/e.db"))


def test_a_database_that_is_full_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = optuna.storages.InMemoryStorage()
    answers: list[Any] = ["FATAL:  sorry, too many clients already", "Too many connections", there]

    def answer(*_: str) -> Any:
        if isinstance(words := answers.pop(0), str):
            raise sqlalchemy.exc.OperationalError(words, None, Exception(words))
        return words

    monkeypatch.setattr("rl.storage._open_shared", answer)
    monkeypatch.setattr("rl.storage._PAUSE_S", 0.0)
    assert open_shared("postgresql://host/db").get_all_studies() == []
    answers[:] = ["FATAL:  password authentication failed"]
    with pytest.raises(SearchError, match="password authentication failed"):
        open_shared("postgresql://host/db")
    monkeypatch.setattr("rl.storage.PATIENCE_S", 0.0)
    answers[:] = ["sorry, too many clients already"]
    with pytest.raises(SearchError, match="too many clients"):
        open_shared("postgresql://host/db")
