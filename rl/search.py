"""The search: trials by an agent, then the finalists again on fresh seeds.

Everything is in one storage, so a search that was killed goes on where it stopped:
the trials are one Optuna study in it, the finals another. In a storage that
machines share, each of them runs this same code: what is decided is a function of
the finished trials, so all decide alike. `rl` does not know what is trained: the
objective is handed in.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from rl.budget import SearchSettings
from rl.fidelity import Forecast
from rl.finals import (
    Difference,
    Finalist,
    expectations,
    paired_difference,
    rank_finalists,
    rounds,
    shortlist,
)
from rl.objective import Objective, Stop, Stopped, TrialResult
from rl.samplers import (
    DynaQSampler,
    Earlier,
    KnobSampler,
    RandomSettingsSampler,
    trial_index,
)
from rl.space import SearchSpace, Setting, Value
from rl.studies import (
    Phase,
    Place,
    Pulse,
    SearchError,
    bury,
    finish_failed,
    is_killed,
    live_trials,
    quiet,
    spent_s,
)
from rl.tuners import Agent, Beliefs
from rl.workers import Here, Pool, SearchInterrupted, Work, final_seeds, may_start, plain

__all__ = [
    "Objective", "Place", "SearchError", "SearchInterrupted", "SearchResult", "SearchSettings",
    "Stopped", "TrialResult", "run_search",
]  # fmt: skip

OnTrial = Callable[[dict[str, Any]], None]

_LOOK_S = 0.5  # between looks at what others do


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    settings: SearchSettings
    trials: tuple[dict[str, Any], ...]
    """Every trial: number, state, values, score, error, seconds, seed, curve and what the
    objective added."""
    finalists: tuple[Finalist, ...]
    """By what the reward model expects of them after all trainings, best first."""
    beliefs: Beliefs
    """What the agent thinks of every value of every knob (for tpe and random: what the reward
    model does)."""
    seconds: float
    """Time during which anything was trained, over all sessions."""

    @property
    def best(self) -> Finalist:
        """The recommendation: of those that came to the last round of the finals, the one of which
        the reward model expects most after all trainings."""
        return self.finalists[0]

    @property
    def default(self) -> Finalist:
        """The default settings in the finals."""
        return next(finalist for finalist in self.finalists if finalist.is_default)

    @property
    def difference(self) -> Difference | None:
        """The best minus the default, on the same seeds; None where one has no score."""
        return paired_difference(self.best, self.default)

    def to_json(self) -> dict[str, Any]:
        """Return everything JSON-ready."""
        difference = self.difference
        made = {
            "settings": asdict(self.settings),
            "best": self.best.to_json(),
            "default": self.default.to_json(),
            "difference": asdict(difference) if difference else None,
            "finalists": [finalist.to_json() for finalist in self.finalists],
            "trials": list(self.trials),
            "beliefs": self.beliefs,
            "seconds": self.seconds,
        }
        return plain(made)  # type: ignore[no-any-return]


def run_search(
    space: SearchSpace,
    objective: Objective,
    settings: SearchSettings,
    place: Place | Path,
    *,
    seed: int = 0,
    default: Mapping[str, Value] | None = None,
    earlier: Earlier = (),
    trial_values: Mapping[str, Any] | None = None,
    on_trial: OnTrial | None = None,
) -> SearchResult:
    """Return what the search found, having run, or resumed, its trials and finals.

    Args:
        space: the settings to choose among.
        objective: trains with one setting; see `rl.objective.Objective`.
        place: the SQLite file, or a shared storage; where it holds the search, it goes on.
        seed: of the agent and of the trainings; with one worker the search repeats exactly.
        default: the setting that comes first and stands in every final; None is the space's own.
        earlier: settings and scores of earlier studies, a list for each, to start from.
        trial_values: what a trial is trained with beside its choices, and the finals are not.
        on_trial: called with the record of each training that ends, those of the finals too
            (their `phase` is "finals").

    Raises:
        SearchError: another search runs on the file, it holds a different search, or nothing
            could be trained.
        SearchInterrupted: Ctrl-C or SIGTERM; the same call resumes.
        rl.space.SpaceError: `default` is not a setting of the space.
    """
    home = dict(default) if default is not None else space.default()
    space.check(home)
    if not isinstance(place, Place):
        place = Place(str(Path(place).resolve()))
    work = Work(
        space=space,
        objective=objective,
        place=place,
        settings=settings,
        seed=seed,
        earlier=earlier,
        trial_values=trial_values or {},
    )
    with quiet(), _alone(place), _stoppable() as stop:
        trials, finals = work.study("trials"), work.study("finals")
        _hold_to_first(trials, work, home)
        if not place.is_shared:  # the lock is held: no one works on what is not finished
            for study in (trials, finals):
                _sweep(study)
        work = replace(work, first_number=len(trials.get_trials(deepcopy=False)))
        _enqueue_default(trials, home)
        report = _Reporter([trials, finals], on_trial)
        workers = _workers(work, settings.workers, stop, report)
        try:
            _run(workers, "trials", trials, stop)
            agent = _agent(space, trials)
            chosen = _shortlist(space, trials, home, settings, agent)
            finalists = _finals(workers, trials, finals, chosen, home, stop)
        finally:
            workers.close()
            report()
        return SearchResult(
            settings=settings,
            trials=tuple(
                report.record(trials, t) for t in live_trials(trials) if t.state.is_finished()
            ),
            finalists=tuple(finalists),
            beliefs=agent.beliefs(),
            seconds=spent_s(live_trials(trials)) + spent_s(live_trials(finals)),
        )


def _run(workers: Here | Pool, phase: Phase, study: Study, stop: Stop) -> None:
    """Do all of a phase, and see that others on the same storage have done their part."""
    pulse, work = Pulse(), workers.work
    while True:
        workers.run(phase)
        while True:
            trials = study.get_trials(deepcopy=False)
            for trial in pulse.dead(trials):
                bury(study, trial, f"its worker, {trial.user_attrs.get('pid')}, no longer answers.")
            states = {t.state for t in study.get_trials(deepcopy=False)}
            if TrialState.WAITING in states and (phase == "finals" or may_start(work, trials)):
                break
            if TrialState.RUNNING not in states:
                return
            if stop():
                raise SearchInterrupted("the search was stopped; run it again to resume.")
            time.sleep(_LOOK_S)


def _finals(
    workers: Here | Pool,
    trials: Study,
    study: Study,
    chosen: list[tuple[Setting, float | None]],
    home: Setting,
    stop: Stop,
) -> list[Finalist]:
    """Train the finalists on fresh seeds, round by round; return them, best first."""
    work, settings = workers.work, workers.work.settings
    seeds = final_seeds(work.seed, settings.replicates)
    forecast = Forecast(live_trials(trials))
    scored = [(_choices(work.space, t.params), forecast.score(t)) for t in live_trials(trials)]
    known = [(setting, score) for setting, score in scored if setting and score is not None]
    rivals = [setting for setting, _ in chosen if setting != home]
    n_trained: dict[str, int] = {}
    for n, n_seeds in rounds(len(rivals), settings.replicates) if rivals else [(0, len(seeds))]:
        rivals = rivals[:n]
        n_trained |= {_text(setting): n_seeds for setting in (*rivals, home)}
        _enqueue_finals(study, [*rivals, home], seeds[:n_seeds])
        _run(workers, "finals", study, stop)
        scores = _final_scores(study)
        # sorted: in whatever order they were trained, the sums are the same to the last digit
        everything = [(json.loads(text), score) for (text, _), score in sorted(scores.items())]
        settings_left = [setting for setting, _ in chosen]
        believed = expectations(
            work.space, settings_left, known, everything, same_fidelity=_same_fidelity(work)
        )
        belief = dict(zip(map(_text, settings_left), believed, strict=True))
        rivals.sort(key=lambda setting: -belief[_text(setting)])
    finalists = []
    for setting, expected in chosen:
        text = _text(setting)
        mine = seeds[: n_trained[text]]
        finalists.append(
            Finalist(setting, setting == home, expected, mine,
                     tuple(scores.get((text, seed)) for seed in mine), belief[text])
        )  # fmt: skip
    return rank_finalists(finalists)


def _same_fidelity(work: Work) -> bool:
    return work.settings.stop_epoch is None and not work.trial_values


def _choices(space: SearchSpace, params: Mapping[str, Any]) -> Setting | None:
    return dict(params) if space.holds(params) else None


def _workers(work: Work, n: int, stop: Stop, report: Callable[[], None]) -> Here | Pool:
    n = n or len(os.sched_getaffinity(0))
    return Here(work, stop, report) if n == 1 else Pool(work, n, stop, report)


def _text(setting: Mapping[str, Value]) -> str:
    return json.dumps(setting, sort_keys=True)


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Hold the study's lock, which ends with this process however it ends."""
    if place.is_shared:
        yield
        return
    path = place.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise SearchError(
                f"another search is running on {path} (process {owner}); wait for it to end, "
                "or choose another folder."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _stoppable() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a `stop()` that becomes true; a second Ctrl-C ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may take signals
        return

    def ask(number: int, _: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hold_to_first(study: Study, work: Work, home: Setting) -> None:
    """Refuse to resume a search whose choices were made on other grounds."""
    settings, path = work.settings, work.place
    mine: dict[str, Any] = {
        "agent": settings.agent,
        "seed": work.seed,
        "space": work.space.to_json(),
        "default": home,
        "pruner": settings.pruner,
        "stop_epoch": settings.stop_epoch,
        "trial_values": dict(work.trial_values),
        "cost_aware": settings.cost_aware,
        "earlier": len(work.earlier),
    }
    first = study.user_attrs.get("search")
    if first is None:
        study.set_user_attr("search", mine)
        return
    for name, value in mine.items():
        theirs = first.get(name, value)  # one that an older version wrote may lack it
        if theirs == value:
            continue
        if name == "space":
            theirs, value = _space_difference(theirs, value)
        raise SearchError(
            f"{path} holds a search with {name}={theirs}, not {value}; give the same {name} to "
            "resume it, or choose another folder."
        )


def _space_difference(theirs: list[dict[str, Any]], mine: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the first knob that differs, in both spaces, as text."""
    for one, other in zip([*theirs, None], [*mine, None], strict=False):
        if one != other:
            return json.dumps(one), json.dumps(other)
    return "", ""


def _sweep(study: Study) -> None:
    """Mark what an earlier session left unfinished as killed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        finish_failed(study, trial, killed=True)


def _enqueue_default(study: Study, home: Setting) -> None:
    """Put the default settings first, once; again only where they failed before anything had
    succeeded, for then it was not their fault."""
    live = live_trials(study)
    done = any(t.state == TrialState.COMPLETE for t in live)
    if not any(t.user_attrs.get("default") and (done or t.state != TrialState.FAIL) for t in live):
        study.enqueue_trial(home, user_attrs={"default": True})


def _agent(space: SearchSpace, study: Study) -> Agent:
    """Return the agent as all trials have taught it; for tpe and random, the reward model.

    Raises:
        SearchError: no trial succeeded.
    """
    live = live_trials(study)
    if not any(t.state == TrialState.COMPLETE for t in live):
        failed = [t for t in live if t.state == TrialState.FAIL]
        error = failed[-1].user_attrs.get("error", "none was given.") if failed else "none ran."
        raise SearchError(f"all {len(failed)} trials failed; the last error: {error}")
    sampler = study.sampler
    if isinstance(sampler, KnobSampler) and not isinstance(sampler, RandomSettingsSampler):
        return sampler.fitted(study)
    return DynaQSampler(space=space).fitted(study)


def _shortlist(space: SearchSpace, study: Study, home: Setting, settings: SearchSettings,
               agent: Agent) -> list[tuple[Setting, float | None]]:  # fmt: skip
    live = live_trials(study)
    forecast = Forecast(live)
    scored = [(t.params, forecast.score(t)) for t in live]
    known = [(params, score) for params, score in scored if score is not None]
    if not settings.agent.startswith("dyna-q"):  # whoever searched, the model recommends
        agent = DynaQSampler(space=space).fitted(study)
    return shortlist(space, known, home, settings.finalists, agent=agent)


def _enqueue_finals(study: Study, chosen: list[Setting], seeds: tuple[int, ...]) -> None:
    """Queue the trainings that the finals still lack, seed by seed; drop those that wait and are
    not asked for any more."""
    wanted = {(_text(setting), seed): setting for seed in seeds for setting in chosen}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if (_text(trial.user_attrs["values"]), trial.user_attrs["seed"]) not in wanted:
            finish_failed(study, trial, killed=True)
    there = {(_text(t.user_attrs["values"]), t.user_attrs["seed"]) for t in live_trials(study)}
    for key, setting in wanted.items():
        if key not in there:
            attrs = {"values": setting, "seed": key[1]}
            study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attrs))


def _final_scores(study: Study) -> dict[tuple[str, int], float]:
    return {
        (_text(t.user_attrs["values"]), t.user_attrs["seed"]): t.value
        for t in live_trials(study)
        if t.state == TrialState.COMPLETE and t.value is not None
    }


class _Reporter:
    """Calls `on_trial` once for each training that has ended since the session began."""

    def __init__(self, studies: list[Study], on_trial: OnTrial | None) -> None:
        self.studies = studies
        self.on_trial = on_trial
        self.told = {
            (study.study_name, t.number)
            for study in studies
            for t in study.get_trials(deepcopy=False)
            if t.state.is_finished()
        }

    def __call__(self) -> None:
        if self.on_trial is None:
            return
        for study in self.studies:
            for trial in study.get_trials(deepcopy=False):
                key = (study.study_name, trial.number)
                if trial.state.is_finished() and key not in self.told and not is_killed(trial):
                    self.told.add(key)
                    self.on_trial(self.record(study, trial))

    @staticmethod
    def record(study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """Return what is known of a training, JSON-ready."""
        attrs = {name: v for name, v in trial.user_attrs.items() if name != "pid"}
        trials = study.get_trials(deepcopy=False)
        return {
            "phase": study.study_name,
            "number": trial_index(trials, trial.number),
            "state": trial.state.name.lower(),
            "values": trial.params,
            "score": trial.value if trial.state == TrialState.COMPLETE else None,
            "stopped_after": trial.last_step if trial.state == TrialState.PRUNED else None,
            **attrs,
        }
