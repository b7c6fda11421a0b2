"""Several machines on one study: what each of them ends with, and what a kill leaves.

A machine is a process of its own here, which shares nothing with the others but the storage.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from servers import postgres, postgresql, proxy
from test_rl_search import SETTINGS, SPACE, Training, score

from rl.claims import final_seeds, trial_seed
from rl.records import read_earlier
from rl.search import SearchError, SearchSettings, run_search
from rl.space import Knob, SearchSpace
from rl.studies import Place

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TRIALS = replace(SETTINGS, trials=8)
LARGE = SearchSpace([*SPACE.knobs, Knob("b", tuple(range(9)))])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as address:
        yield address


@pytest.fixture(scope="module", params=["postgresql", "grpc-postgresql", "grpc-sqlite"])
def storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Return the address of each kind of storage that machines share."""
    if request.param == "postgresql":
        yield request.getfixturevalue("server")
    elif request.param == "grpc-postgresql":
        with postgresql() as behind, proxy(behind) as address:  # its own: names are used once
            yield address
    else:
        file = tmp_path_factory.mktemp("proxy") / "studies.db"
        with proxy(f"sqlite:///{file}") as address:
            yield address


class Slow(Training):
    """Trains for a while, so that others get their share."""

    def __call__(self, values: dict, seed: int, stop: Any, report: Any) -> Any:
        time.sleep(0.05)
        return super().__call__({k: v for k, v in values.items() if k != "b"}, seed, stop, report)


def main(order: str) -> None:
    """Be a machine: search as told, and write down what came of it."""
    told = json.loads(order)
    folder = Path(told["folder"])
    names = told["names"]
    (folder / f"ready-{os.getpid()}").touch()
    while len(list(folder.glob("ready-*"))) < told["together"]:
        time.sleep(0.01)
    for name in names:
        result = run_search(
            LARGE if told["large"] else SPACE,
            Slow(folder, dies_at=tuple(told["dies_at"]), ends_at=tuple(told["ends_at"])),
            SearchSettings(**told["settings"]),
            Place(told["storage"], name, beat_s=0.2, dead_s=5.0),
        ).to_json()
        (folder / f"{name}-{told['machine']}.json").write_text(json.dumps(result))


def machine(folder: Path, storage: str, names: list[str], number: int, *, together: int = 1,
            large: bool = False, dies_at: tuple[int, ...] = (), ends_at: tuple[int, ...] = (),
            settings: SearchSettings = TRIALS) -> subprocess.Popen:  # fmt: skip
    """Start a machine on studies, one after another."""
    order = {
        "folder": str(folder), "storage": storage, "names": names, "machine": number,
        "together": together, "large": large, "dies_at": dies_at, "ends_at": ends_at,
        "settings": {"agent": settings.agent, "trials": settings.trials,
                     "minutes": settings.minutes, "workers": 1,
                     "finalists": settings.finalists, "replicates": settings.replicates},
    }  # fmt: skip
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    code = "import sys, test_machines; test_machines.main(sys.argv[1])"
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(order)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


def outcome(folder: Path, name: str, number: int) -> dict[str, Any]:
    return json.loads((folder / f"{name}-{number}.json").read_text())


def raw(storage: str, name: str, phase: str) -> list[optuna.trial.FrozenTrial]:
    """Return all entries of a study, those withdrawn too."""
    return Place(storage, name).open(phase).get_trials(deepcopy=False)  # type: ignore[arg-type]


def check_whole(
    storage: str, name: str, result: dict[str, Any], n_trials: int, *, tries: int = 1
) -> None:
    """Check that nothing is lost, doubled or over the budget, against the storage itself."""
    live = [t for t in raw(storage, name, "trials") if "killed" not in t.user_attrs]
    assert len(live) == n_trials == len(result["trials"])
    assert {t.state for t in live} == {optuna.trial.TrialState.COMPLETE}
    assert [t["number"] for t in result["trials"]] == list(range(n_trials))
    assert len({t.user_attrs["seed"] for t in live}) == n_trials
    looks = Counter(json.dumps(t.params, sort_keys=True) for t in live)
    assert max(looks.values()) <= tries
    assert sum("default" in t.user_attrs for t in live) == 1
    for t in live:
        bare = {k: v for k, v in t.params.items() if k != "b"}
        assert t.value == pytest.approx(score(bare, t.user_attrs["seed"]))
    finals = [t for t in raw(storage, name, "finals") if "killed" not in t.user_attrs]
    assert {t.state for t in finals} == {optuna.trial.TrialState.COMPLETE}
    keys = [(json.dumps(t.user_attrs["values"]), t.user_attrs["seed"]) for t in finals]
    asked = [(json.dumps(f["values"]), s) for f in result["finalists"] for s in f["seeds"]]
    assert sorted(keys) == sorted(asked)
    assert all(s is not None for f in result["finalists"] for s in f["scores"])


def test_two_machines_share_a_study_and_end_alike(storage: str, tmp_path: Path) -> None:
    name = "alike"
    both = [machine(tmp_path, storage, [name], i, together=2) for i in range(2)]
    assert [m.wait(300) for m in both] == [0, 0]
    one, other = (outcome(tmp_path, name, i) for i in range(2))
    assert one == other
    check_whole(storage, name, one, 8)
    workers = {t.user_attrs["pid"] for t in raw(storage, name, "trials")}
    assert len(workers) == 2


@pytest.mark.parametrize("where", ["trial", "final"])
def test_a_machine_killed_in_a_training_loses_and_doubles_nothing(
    storage: str, where: str, tmp_path: Path
) -> None:
    name = f"killed-in-a-{where}"
    seed = trial_seed(0, 3) if where == "trial" else final_seeds(0, 2)[0]
    both = [machine(tmp_path, storage, [name], i, together=2, dies_at=(seed,)) for i in range(2)]
    assert sorted(m.wait(300) for m in both) == [-signal.SIGKILL, 0]
    dead = [m.returncode for m in both].index(-signal.SIGKILL)
    result = outcome(tmp_path, name, 1 - dead)
    check_whole(storage, name, result, 8)
    entries = raw(storage, name, "trials" if where == "trial" else "finals")
    (lost,) = [t for t in entries if t.user_attrs.get("killed") == "died"]
    (again,) = [t for t in entries if t.user_attrs.get("retry_of") == lost.number]
    assert again.user_attrs["seed"] == lost.user_attrs["seed"] == seed
    assert again.params == lost.params
    assert again.user_attrs.get("values") == lost.user_attrs.get("values")
    assert again.user_attrs["pid"] != lost.user_attrs["pid"]
    assert "no longer answers" in lost.user_attrs["error"]
    anew = machine(tmp_path, storage, [name], dead, dies_at=(seed,))
    assert anew.wait(300) == 0
    assert outcome(tmp_path, name, dead) == result
    check_whole(storage, name, result, 8)


@pytest.mark.parametrize("where", ["trial", "final"])
def test_what_a_stopped_machine_leaves_the_other_does(
    server: str, where: str, tmp_path: Path
) -> None:
    name = f"stopped-in-a-{where}"
    seed = trial_seed(0, 3) if where == "trial" else final_seeds(0, 2)[1]
    both = [machine(tmp_path, server, [name], i, together=2, ends_at=(seed,)) for i in range(2)]
    assert sorted(m.wait(300) for m in both) == [0, 1]
    result = outcome(tmp_path, name, [m.returncode for m in both].index(0))
    check_whole(server, name, result, 8)
    assert not any("retry_of" in t for t in result["trials"])  # no one died


def test_a_training_that_kills_twice_has_failed(storage: str, tmp_path: Path) -> None:
    name, seed = "twice", trial_seed(0, 2)
    for number in range(2):
        (tmp_path / f"mark-{seed}").unlink(missing_ok=True)
        assert machine(tmp_path, storage, [name], number, dies_at=(seed,)).wait(300) != 0
    assert machine(tmp_path, storage, [name], 2, dies_at=(seed,)).wait(300) == 0
    trials = outcome(tmp_path, name, 2)["trials"]
    assert len(trials) == 8
    (failed,) = [t for t in trials if t["state"] == "fail"]
    assert failed["seed"] == seed
    assert "no longer answers" in failed["error"]


@pytest.mark.parametrize("agent", ["dyna-q-ucb", "random"])
def test_four_machines_in_many_searches_never_lose_or_double(
    storage: str, agent: str, tmp_path: Path
) -> None:
    names = [f"many-{agent}-{i}" for i in range(int(os.environ.get("MELBANDIT_ROUNDS", "5")))]
    settings = replace(TRIALS, agent=agent, trials=10)
    all_four = [
        machine(tmp_path, storage, names, i, together=4, large=True, settings=settings)
        for i in range(4)
    ]
    assert [m.wait(600) for m in all_four] == [0, 0, 0, 0]
    for name in names:
        first, *others = (outcome(tmp_path, name, i) for i in range(4))
        assert all(other == first for other in others)
        check_whole(storage, name, first, 10, tries=settings.tries_each)


def test_minutes_end_all_machines_alike(storage: str, tmp_path: Path) -> None:
    name = "minutes"
    settings = replace(TRIALS, trials=None, minutes=0.05, finalists=1, replicates=1)
    three = [
        machine(tmp_path, storage, [name], i, together=3, large=True, settings=settings)
        for i in range(3)
    ]
    assert [m.wait(300) for m in three] == [0, 0, 0]
    first, *others = (outcome(tmp_path, name, i) for i in range(3))
    assert others == [first, first]
    assert first["trials"]


def test_a_search_outlasts_a_database_that_is_started_anew(tmp_path: Path) -> None:
    with postgres() as server:
        settings = replace(TRIALS, trials=20)
        searching = machine(tmp_path, server.address, ["outage"], 0, large=True, settings=settings)
        while not (tmp_path / f"ready-{searching.pid}").exists():
            assert searching.poll() is None
            time.sleep(0.05)
        while len(raw(server.address, "outage", "trials")) < 5:
            time.sleep(0.05)
        server.stop()
        time.sleep(1.0)
        server.start()
        assert len(raw(server.address, "outage", "trials")) < 20
        assert searching.wait(300) == 0
        result = outcome(tmp_path, "outage", 0)
        assert len(result["trials"]) == 20
        assert sum(t["state"] == "complete" for t in result["trials"]) == 20


def test_joining_a_study_on_other_grounds_is_refused(server: str, tmp_path: Path) -> None:
    place = Place(server, "grounds")
    short = SearchSettings(agent="random", trials=1, workers=1, finalists=1, replicates=1)
    run_search(SPACE, Training(tmp_path), short, place, grounds={"corpus": "a1"})
    with pytest.raises(SearchError, match=r"corpus=a1, not b2; give the same corpus to join"):
        run_search(SPACE, Training(tmp_path), short, place, grounds={"corpus": "b2"})
    with pytest.raises(SearchError, match="seed=0, not 3"):
        run_search(SPACE, Training(tmp_path), short, place, seed=3, grounds={"corpus": "a1"})


def test_an_earlier_study_in_a_shared_storage_can_be_started_from(
    server: str, tmp_path: Path
) -> None:
    settings = SearchSettings(agent="random", trials=3, workers=1, finalists=1, replicates=1)
    result = run_search(SPACE, Training(tmp_path), settings, Place(server, "earlier"))
    found = read_earlier(f"{server}#earlier")
    assert [s for _, s in found] == pytest.approx([t["score"] for t in result.trials])


def test_a_database_that_is_not_there_is_said_without_the_password() -> None:
    with pytest.raises(SearchError, match="check the address, and that its server runs") as told:
        Place("postgresql://me:secret@127.0.0.1:9/none", "x").open("trials")
    assert "secret" not in str(told.value)
