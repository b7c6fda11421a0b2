"""A study read for looking at it: its trials and its search space, whoever made it.

A study of `melbandit search` says what its space is; that of one made with Optuna alone is found
in its trials (`rl.foreign`).

Nothing is written, and no lock is taken, so a running search can be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rl.fidelity import KILLED, Forecast
from rl.foreign import space_of
from rl.space import SearchSpace, Setting, Value
from rl.storage import open_storage as open_address
from rl.storage import sqlite_storage, without_password
from rl.studies import live_trials, quiet
from rl.trial_settings import setting_under_way, trial_index

State = Literal["complete", "pruned", "failed", "running", "waiting"]
STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class RecordError(Exception):
    """A study cannot be found or read; the message says which, why and what to do."""


@dataclass(frozen=True)
class Record:
    """One trial."""

    number: int
    """Trials before it, interrupted ones left out."""
    state: State
    values: Setting
    """Its setting in the study's space; of a running one, as far as it is known."""
    codes: tuple[int, ...] | None
    """The setting's codes; None where it is no whole setting of the space."""
    score: float | None
    """What it scored; of a pruned one, what it had reached."""
    foretold: float | None
    """The score; of a pruned one, what it would have come to (`rl.fidelity`)."""
    seconds: float | None
    """Time that it took; of a running one, up to now."""
    curve: tuple[tuple[float, float], ...]
    """(step, score) after each epoch, or whatever its steps are."""
    is_default: bool
    error: str


@dataclass(frozen=True)
class FinalScore:
    """One training of the finals."""

    values: Setting
    seed: int
    score: float | None


@dataclass(frozen=True)
class StudyRecord:
    """A study as it stands."""

    name: str
    space: SearchSpace
    maximise: bool
    trials: tuple[Record, ...]
    """In order; interrupted ones are left out."""
    finals: tuple[FinalScore, ...]
    agent: str | None
    """Who chose; None in a study not of melbandit's."""
    seed: int
    default: Setting | None
    """The setting that a recommendation is compared with."""

    @property
    def scored(self) -> list[Record]:
        """The trials that teach something: whole settings with a score or a forecast."""
        return [t for t in self.trials if t.codes is not None and t.foretold is not None]

    def count(self, state: State) -> int:
        """Return how many trials are in this state."""
        return sum(t.state == state for t in self.trials)


# Opening


def open_storage(where: str) -> BaseStorage:
    """Return the storage behind a file or an address, to be read from.

    where: an SQLite file (opened read-only), a journal file, or an address as `rl.storage` has it.

    Raises:
        RecordError: there is none, or it holds no studies.
        rl.storage.SearchError: it cannot be reached, or a package for it is missing.
    """
    if "://" in where and not where.startswith("sqlite:///"):
        return open_address(where)
    path = Path(where.removeprefix("sqlite:///"))
    if not path.is_file():
        raise RecordError(
            f"{path}: no such file; give a search's folder, its study.db, or a storage's address."
        )
    with path.open("rb") as file:
        start = file.read(16)
    try:
        if start == b"SQLite format 3\0":
            # the system itself then holds us to reading
            return sqlite_storage(f"file:{quote(str(path.resolve()))}", mode="ro", uri="true")
        if start.startswith(b"{"):
            return JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # whatever the database's driver raises
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise RecordError(f"{path}: cannot be read as an Optuna storage: {reason}") from error
    raise RecordError(f"{path}: neither an SQLite file nor an Optuna journal.")


def open_study(where: str | BaseStorage, name: str | None = None) -> tuple[Study, Study | None]:
    """Return the study called `name`, and its finals where it is one of melbandit's and has some.

    where: see `open_storage`; ADDRESS#NAME names the study too.
    name: of the study, or of the search that it is of. May be left out where there is a single
        study or search.

    Raises:
        RecordError: it is not there, which one is meant is not clear, or it has several objectives.
        rl.storage.SearchError: the storage cannot be reached.
    """
    if isinstance(where, str) and "#" in where and not Path(where).exists():
        where, _, named = where.partition("#")
        name = name or named
    storage = open_storage(where) if isinstance(where, str) else where
    shown = where if isinstance(where, str) else "the storage"
    shown = without_password(shown) if "://" in shown else shown
    names = sorted(optuna.study.get_all_study_names(storage))
    if not names:
        raise RecordError(f"{shown}: holds no study.")
    searches, others = _searches(names)
    listed = ", ".join([*searches, *others])
    found = _chosen(names, name)
    if found is None and name is None:
        raise RecordError(f"{shown}: holds several studies; name one of them: {listed}.")
    if found is None:
        raise RecordError(f"{shown}: holds no study {name!r}; there are: {listed}.")
    study = optuna.load_study(study_name=found, storage=storage)
    if len(study.directions) > 1:
        raise RecordError(
            f"{shown}: study {found} has {len(study.directions)} objectives; a report needs a "
            "study with one."
        )
    finals = found.removesuffix("trials") + "finals"
    if found.endswith("trials") and finals in names:
        return study, optuna.load_study(study_name=finals, storage=storage)
    return study, None


def _chosen(names: Sequence[str], name: str | None) -> str | None:
    """Return the study that is meant; None where that is not clear, or it is not there."""
    if name is not None:
        return next((n for n in (name, f"{name}/trials") if n in names), None)
    if len(names) == 1 or "trials" in names:
        return "trials" if "trials" in names else names[0]
    searches, others = _searches(names)
    return f"{searches[0]}/trials" if len(searches) == 1 and not others else None


def _searches(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of melbandit's searches in a shared storage, and of all other studies."""
    searches = [n.removesuffix("/trials") for n in names if n.endswith("/trials")]
    others = [n for n in names if n.rpartition("/")[0] not in searches or "/" not in n]
    return searches, others


# Reading


def read_earlier(where: str) -> list[tuple[Setting, float]]:
    """Return settings and scores (large is good) of the trials of an earlier study.

    where: a search's folder, a file, or a storage's address, and #NAME of the study behind it
    where it is not clear which is meant.

    Raises:
        RecordError: there is none, or fewer than two of its trials have a score.
    """
    # a folder's name may have a # in it
    address, _, name = (where, "", "") if Path(where).exists() else where.partition("#")
    if "://" not in address and Path(address).is_dir():
        address = str(Path(address) / "study.db")
    with quiet():
        study, _ = open_study(address, name or None)
        live = live_trials(study)
    maximise = study.direction == StudyDirection.MAXIMIZE
    sign = 1.0 if maximise else -1.0
    forecast = Forecast(live, maximise=maximise)
    scored = [(dict(t.params), forecast.score(t)) for t in live]
    made = [(setting, sign * score) for setting, score in scored if score is not None]
    if len(made) < 2:
        raise RecordError(f"{where}: has {len(made)} trials with a score; at least 2 are needed.")
    return made


def read_study(study: Study, finals: Study | None = None) -> StudyRecord:
    """Return the study as it stands now.

    Raises:
        RecordError: no trial has any parameter.
    """
    every = study.get_trials(deepcopy=False)
    live = [t for t in every if KILLED not in t.user_attrs]
    search = study.user_attrs.get("search")
    convert: dict[str, Callable[[Any], Value]] = {}
    if search is not None:
        space = SearchSpace.from_json(search["space"])
    else:
        found = space_of(live)
        if found is None:
            raise RecordError(f"no trial of study {study.study_name} has a parameter yet: nothing "
                              "can be shown.")  # fmt: skip
        space, convert = found
    forecast = Forecast(live)
    records = []
    for trial in live:
        given = setting_under_way(trial)
        values = {k: convert[k](v) if k in convert else v for k, v in given.items()}
        values = {k.name: values[k.name] for k in space.knobs if k.name in values}
        records.append(
            Record(
                number=trial_index(every, trial.number),
                state=STATES[trial.state],
                values=values,
                codes=tuple(space.encode(values).tolist()) if space.holds(values) else None,
                score=_score(trial),
                foretold=None if _score(trial) is None else _finite(forecast.score(trial)),
                seconds=_seconds(trial),
                curve=_curve(trial),
                is_default=bool(trial.user_attrs.get("default")),
                error=str(trial.user_attrs.get("error", "")).strip(),
            )
        )
    return StudyRecord(
        name=study.study_name,
        space=space,
        maximise=study.direction == StudyDirection.MAXIMIZE,
        trials=tuple(records),
        finals=_finals(finals),
        agent=search["agent"] if search else None,
        seed=search["seed"] if search else 0,
        default=search["default"] if search else None,
    )


def study_of_results(results: Mapping[str, Any], space: SearchSpace) -> StudyRecord:
    """Return the study that a finished search's results tell of, where its storage is out of reach.

    results: what `SearchResult.to_json` gives. What pruned trials would have come to is not in
    them, so these teach nothing.
    """
    states: Mapping[str, State] = {"complete": "complete", "pruned": "pruned"}
    records = []
    for row in results["trials"]:
        values = {k.name: row["values"][k.name] for k in space.knobs if k.name in row["values"]}
        curve = [(float(i), _finite(v)) for i, v in enumerate(row.get("curve") or [], 1)]
        score = _finite(row["score"])
        records.append(
            Record(
                number=row["number"],
                state=states.get(row["state"], "failed"),
                values=values,
                codes=tuple(space.encode(values).tolist()) if space.holds(values) else None,
                score=score,
                foretold=score,
                seconds=_finite(row.get("seconds")),
                curve=tuple((at, v) for at, v in curve if v is not None),
                is_default=bool(row.get("default")),
                error=str(row.get("error", "")).strip(),
            )
        )
    return StudyRecord(
        name="trials", space=space, maximise=True, trials=tuple(records), finals=(),
        agent=results["settings"]["agent"], seed=0, default=results["default"]["values"],
    )  # fmt: skip


def _finals(study: Study | None) -> tuple[FinalScore, ...]:
    if study is None:
        return ()
    return tuple(
        FinalScore(t.user_attrs["values"], t.user_attrs["seed"], _score(t))
        for t in study.get_trials(deepcopy=False)
        if KILLED not in t.user_attrs and "values" in t.user_attrs and t.state.is_finished()
    )


def _score(trial: FrozenTrial) -> float | None:
    """Return what a finished trial scored; Optuna gives a pruned one the last score it reported."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    return _finite(trial.values[0]) if trial.values else None


def _finite(value: object) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(cast("float", value)) if known else None


def _seconds(trial: FrozenTrial) -> float | None:
    said = _finite(trial.user_attrs.get("seconds"))
    if said is not None or trial.datetime_start is None:
        return said
    return ((trial.datetime_complete or datetime.now()) - trial.datetime_start).total_seconds()


def _curve(trial: FrozenTrial) -> tuple[tuple[float, float], ...]:
    told = trial.user_attrs.get("curve")
    if isinstance(told, list) and told:
        steps = enumerate(told, 1)
    else:
        steps = cast("Any", sorted(trial.intermediate_values.items()))
    return tuple((float(at), v) for at, value in steps if (v := _finite(value)) is not None)
