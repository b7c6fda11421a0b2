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
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rl.budget import SearchSettings
from rl.claims import Wanted, Work, final_seeds, may_start, missing, setting_text
from rl.cluster import Cluster, Nodes
from rl.fidelity import BEGAN, ENDED, Forecast
from rl.finals import (
    Difference,
    Finalist,
    expectations,
    paired_difference,
    rank_finalists,
    rounds,
    shortlist,
)
from rl.knob_sampler import Earlier, KnobSampler
from rl.objective import Objective, Stop, Stopped, TrialResult
from rl.samplers import DynaQSampler, RandomSettingsSampler
from rl.space import SearchSpace, Setting, Value
from rl.storage import SearchError, open_storage
from rl.studies import (
    BEAT,
    Phase,
    Place,
    Pulse,
    bury,
    finish_failed,
    is_killed,
    live_trials,
    quiet,
    spent_s,
)
from rl.trial_settings import trial_index
from rl.tuners import Agent, Beliefs
from rl.workers import Here, Pool, SearchInterrupted, Workers, plain

__all__ = [
    "Nodes", "Objective", "Place", "SearchError", "SearchInterrupted", "SearchResult",
    "SearchSettings", "Stopped", "TrialResult", "run_search",
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
    grounds: Mapping[str, Any] | None = None,
    nodes: Nodes | None = None,
    on_trial: OnTrial | None = None,
) -> SearchResult:
    """Return what the search found, having run, or resumed, its trials and finals.

    Args:
        space: the settings to choose among.
        objective: trains with one setting; see `rl.objective.Objective`.
        place: the SQLite file, or a shared storage; where it holds the search, it goes on.
        seed: of the agent and of the trainings; with one worker that takes one
            trial at a time the search repeats exactly.
        default: the setting that comes first and stands in every final; None is the space's own.
        earlier: settings and scores of earlier studies, a list for each, to start from.
        trial_values: what a trial is trained with beside its choices, and the finals are not.
        grounds: what else the scores rest on, JSON-ready: whoever resumes or joins the search must
            have the same.
        nodes: of a Ray cluster, where the workers run; by default they run on this machine.
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
        home=home,
        earlier=earlier,
        trial_values=trial_values or {},
    )
    if nodes is not None:
        nodes.check(place.storage)
    with quiet(), _alone(place), _stoppable() as stop:
        storage = open_storage(place.storage)
        trials, finals = work.study("trials", storage), work.study("finals", storage)
        _hold_to_first(trials, work, grounds or {})
        if not place.is_shared:  # the lock is held: no one works on what is not finished
            for study in (trials, finals):
                _sweep(study)
        work = replace(work, first_number=len(trials.get_trials(deepcopy=False)))
        look = _Lookout(place, [trials, finals], on_trial)
        workers = _workers(work, nodes, stop, look)
        try:
            _run(workers, "trials", trials, stop, look)
            counted = _counted(work, trials)
            agent = _agent(space, counted)
            chosen = _shortlist(space, counted, home, settings, agent)
            finalists = _finals(workers, counted, finals, chosen, stop, look)
        finally:
            workers.close()
            look(last=True)
        return SearchResult(
            settings=settings,
            trials=tuple(_record(counted, trial) for trial in counted.get_trials(deepcopy=False)),
            finalists=tuple(finalists),
            beliefs=agent.beliefs(),
            seconds=spent_s(counted.get_trials(deepcopy=False)) + spent_s(live_trials(finals)),
        )


def _run(
    workers: Workers, phase: Phase, study: Study, stop: Stop, look: _Lookout, wanted: Wanted = ()
) -> None:
    """Do all of a phase, and see that others on the same storage have done their part."""
    work = workers.work
    while True:
        workers.run(phase, wanted)
        while True:
            look()
            trials = study.get_trials(deepcopy=False)
            if may_start(work, trials) if phase == "trials" else missing(wanted, trials):
                break  # a worker died, or was stopped elsewhere, and left something to do
            if all(t.state != TrialState.RUNNING for t in trials):
                return
            if stop():
                raise SearchInterrupted("the search was stopped; run it again to resume.")
            time.sleep(min(_LOOK_S, work.place.beat_s))


def _counted(work: Work, study: Study) -> Study:
    """Return a study in memory of the trials that count, all of them finished.

    Raises:
        SearchError: no trial succeeded.
    """
    live = [t for t in live_trials(study) if t.state.is_finished()]
    if not any(t.state == TrialState.COMPLETE for t in live):
        failed = [t for t in live if t.state == TrialState.FAIL]
        error = failed[-1].user_attrs.get("error", "none was given.") if failed else "none ran."
        raise SearchError(f"all {len(failed)} trials failed; the last error: {error}")
    numbers = work.place.settle(_decision("trials", work), [t.number for t in live], study._storage)
    copy = optuna.create_study(
        direction="maximize", sampler=study.sampler, study_name=study.study_name
    )
    copy.add_trials([t for t in study.get_trials(deepcopy=False) if t.number in numbers])
    return copy


def _decision(name: str, work: Work, *more: Any) -> str:
    """Return the key under which something is settled for all who have this budget."""
    settings = work.settings
    return json.dumps(
        [name, settings.most_trials, settings.minutes, settings.training_seconds, *more]
    )


def _finals(
    workers: Workers,
    trials: Study,
    study: Study,
    chosen: list[tuple[Setting, float | None]],
    stop: Stop,
    look: _Lookout,
) -> list[Finalist]:
    """Train the finalists on fresh seeds, round by round; return them, best first."""
    work, settings = workers.work, workers.work.settings
    home, place, storage = work.home, work.place, study._storage
    seeds = final_seeds(work.seed, settings.replicates)
    of = (settings.finalists, settings.replicates)
    chosen = [(s, e) for s, e in place.settle(_decision("finalists", work, *of), chosen, storage)]
    forecast = Forecast(trials.get_trials(deepcopy=False))
    scored = [
        (_choices(work.space, t.params), forecast.score(t))
        for t in trials.get_trials(deepcopy=False)
    ]
    known = [(setting, score) for setting, score in scored if setting and score is not None]
    rivals = [setting for setting, _ in chosen if setting != home]
    n_trained: dict[str, int] = {}
    for n, n_seeds in rounds(len(rivals), settings.replicates) if rivals else [(0, len(seeds))]:
        rivals = rivals[:n]
        n_trained |= {setting_text(setting): n_seeds for setting in (*rivals, home)}
        wanted = tuple((setting, seed) for seed in seeds[:n_seeds] for setting in (*rivals, home))
        _run(workers, "finals", study, stop, look, wanted)
        scores = _final_scores(study)
        # sorted: in whatever order they were trained, the sums are the same to the last digit
        levels = _final_scores(study, forecast)
        everything = [(json.loads(text), score) for (text, _), score in sorted(levels.items())]
        settings_left = [setting for setting, _ in chosen]
        believed = expectations(
            work.space, settings_left, known, everything, same_fidelity=_same_fidelity(work)
        )
        believed = place.settle(_decision("belief", work, *of, n, n_seeds), believed, storage)
        belief = dict(zip(map(setting_text, settings_left), believed, strict=True))
        rivals.sort(key=lambda setting: -belief[setting_text(setting)])
    finalists = []
    for setting, expected in chosen:
        text = setting_text(setting)
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


def _workers(work: Work, nodes: Nodes | None, stop: Stop, look: Callable[[], None]) -> Workers:
    if nodes is not None:
        return Cluster(work, nodes, work.settings.workers, stop, look)
    n = work.settings.workers_here
    return Here(work, stop, look) if n == 1 else Pool(work, n, stop, look)


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


def _hold_to_first(study: Study, work: Work, grounds: Mapping[str, Any]) -> None:
    """Refuse to resume or join a search whose choices were made on other grounds."""
    settings, place = work.settings, work.place
    mine: dict[str, Any] = {
        **grounds,
        "agent": settings.agent,
        "seed": work.seed,
        "space": work.space.to_json(),
        "default": work.home,
        "pruner": settings.pruner,
        "stop_epoch": settings.stop_epoch,
        "trial_values": dict(work.trial_values),
        "cost_aware": settings.cost_aware,
        "tries": settings.tries_each,
        "earlier": len(work.earlier),
    }
    mine = json.loads(json.dumps(mine))  # as it is read back
    first = study.user_attrs.get("search")
    if first is None:
        first = place.settle("search", mine, study._storage)
        study.set_user_attr("search", first)
    for name, value in mine.items():
        theirs = first.get(name, value)  # one that an older version wrote may lack it
        if theirs == value:
            continue
        if name == "space":
            theirs, value = _space_difference(theirs, value)
        raise SearchError(
            f"{place} holds a search with {name}={theirs}, not {value}; give the same {name} to "
            f"{'join' if place.is_shared else 'resume'} it, or choose another "
            f"{'study' if place.is_shared else 'folder'}."
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


def _agent(space: SearchSpace, study: Study) -> Agent:
    """Return the agent as all trials have taught it; for tpe and random, the reward model."""
    sampler = study.sampler
    if isinstance(sampler, KnobSampler) and not isinstance(sampler, RandomSettingsSampler):
        return sampler.fitted(study)
    return DynaQSampler(space=space).fitted(study)


def _shortlist(space: SearchSpace, study: Study, home: Setting, settings: SearchSettings,
               agent: Agent) -> list[tuple[Setting, float | None]]:  # fmt: skip
    trials = study.get_trials(deepcopy=False)
    forecast = Forecast(trials)
    scored = [(t.params, forecast.score(t)) for t in trials]
    known = [(params, score) for params, score in scored if score is not None]
    if not settings.agent.startswith("dyna-q"):  # whoever searched, the model recommends
        agent = DynaQSampler(space=space).fitted(study)
    return shortlist(space, known, home, settings.finalists, agent=agent)


def _final_scores(study: Study, forecast: Forecast | None = None) -> dict[tuple[str, int], float]:
    """Return the scores by setting and seed, as they are or less their blocks' effects."""
    return {
        (setting_text(t.user_attrs["values"]), t.user_attrs["seed"]): (
            t.value if forecast is None else forecast.score(t) or 0.0
        )
        for t in live_trials(study)
        if t.state == TrialState.COMPLETE and t.value is not None
    }


class _Lookout:
    """What is done between trainings: tell those that have ended since the session began, and
    bury those whose machine no longer answers."""

    def __init__(self, place: Place, studies: list[Study], on_trial: OnTrial | None) -> None:
        self.place = place
        self.studies = studies
        self.on_trial = on_trial
        self.told = {
            (study.study_name, t.number)
            for study in studies
            for t in study.get_trials(deepcopy=False)
            if t.state.is_finished()
        }
        self._pulses = [Pulse(place.dead_s) for _ in studies]
        self._looked = self._felt = -math.inf

    def __call__(self, last: bool = False) -> None:
        now = time.monotonic()
        if self.place.is_shared and not last:  # not to ask a server without end
            if now < self._looked + min(1.0, self.place.beat_s):
                return
            self._looked = now
        if self.on_trial is not None:
            self._tell(self.on_trial)
        if self.place.is_shared and now > self._felt + self.place.beat_s:
            self._felt = now
            for study, pulse in zip(self.studies, self._pulses, strict=True):
                for trial in pulse.dead(study.get_trials(deepcopy=False)):
                    who = trial.user_attrs.get("pid")
                    bury(study, trial, f"its worker, {who}, no longer answers.")

    def _tell(self, on_trial: OnTrial) -> None:
        for study in self.studies:
            for trial in study.get_trials(deepcopy=False):
                key = (study.study_name, trial.number)
                if trial.state.is_finished() and key not in self.told and not is_killed(trial):
                    self.told.add(key)
                    on_trial(_record(study, trial))


def _record(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """Return what is known of a training, JSON-ready."""
    attrs = {
        name: value
        for name, value in trial.user_attrs.items()
        if name not in ("pid", BEAT, BEGAN, ENDED)
    }
    trials = study.get_trials(deepcopy=False)
    return {
        "phase": study.study_name.rsplit("/", 1)[-1],
        "number": trial_index(trials, trial.number),
        "state": trial.state.name.lower(),
        "values": trial.params,
        "score": trial.value if trial.state == TrialState.COMPLETE else None,
        "stopped_after": trial.last_step if trial.state == TrialState.PRUNED else None,
        "reached": trial.value if trial.state == TrialState.PRUNED else None,
        **attrs,
    }
