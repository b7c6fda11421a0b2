"""Tuners on landscapes: who finds good settings soonest, by a protocol that favours none.

In run `r` every tuner gets the same luck: for each setting the order of its seeds is drawn once.
A query returns the validation score of the setting's next seed; the last seed is never shown, and
a setting asked for more often repeats its last score. What a tuner has found is scored on the
seeds that it was not shown. Regret is 0 for the best setting (by the mean over all seeds) and 1
for the average one.

Two things are found out of every tuner's trials alike: the setting with the best observed score,
which is what most tools report, and the one that our reward model, fitted to these trials, expects
most of. So it can be told apart whether a tuner looks in better places, or whether only its
recommendation is better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.fidelity import Forecast, make_pruner
from rl.landscape import Landscape
from rl.model import RewardModel
from rl.policies import Floats
from rl.samplers import make_sampler
from rl.space import Setting

OURS = ("dyna-q-ucb", "dyna-q", "thompson", "ucb", "q-learning", "epsilon-greedy")
RIVALS = ("random", "grid", "tpe", "tpe-univariate", "evolution", "optunahub-bandit")
EARLY = ("dyna-q-ucb+halving", "dyna-q-ucb+median", "tpe+halving", "tpe+median", "tpe+hyperband")
SLOW = ("gp",)
ONCE = ("dyna-q-ucb-once",)
"""The default agent without a second look at a setting."""
BUDGETS = (20, 50, 100, 200)
_RUN_SEED = 977


class ComparisonError(ValueError):
    """A comparison that cannot be made; the message gives the rule, the value and the remedy."""


@dataclass(frozen=True)
class Run:
    """One tuner in one run: what it had found after each trial.

    cost: trainings paid for, in whole ones, (n,). observed, modelled: regret of the setting with
    the best observed score, and of the tried one with the highest posterior mean. test: test score
    of the latter. decide_s: seconds a decision.
    """

    cost: Floats
    observed: Floats
    modelled: Floats
    test: Floats
    decide_s: float

    def at(self, budgets: Sequence[float] | NDArray[Any], what: str) -> Floats:
        """Return `observed`, `modelled` or `test` once each budget is spent, (n_budgets,).

        Before a first training is paid for the regret is 1: nothing is known.
        """
        place = np.searchsorted(self.cost, np.asarray(budgets) + 1e-9, side="right") - 1
        return np.where(place >= 0, getattr(self, what)[np.maximum(place, 0)], 1.0)


class Queries:
    """A landscape as seen in one run."""

    def __init__(self, landscape: Landscape, run: int) -> None:
        if landscape.n_seeds < 2:
            raise ComparisonError(
                f"{landscape.name} has one training of each setting, so none is left to score "
                "what was found; measure it with --seeds 2 or more."
            )
        self.landscape = landscape
        rng = np.random.default_rng([_RUN_SEED, run])
        n = len(landscape)
        self.order = rng.permuted(np.tile(np.arange(landscape.n_seeds), (n, 1)), axis=1)
        self.n_shown = np.zeros(n, dtype=int)
        means = landscape.mean()
        if not np.ptp(means):
            raise ComparisonError(
                f"{landscape.name}: every setting scores {means[0]:g}, so none is better to find; "
                "measure a space, or clips, whose settings differ."
            )
        self.best, self.average = float(means.max()), float(means.mean())

    def curve(self, row: int) -> Floats:
        """Return the validation scores, epoch by epoch, of the setting's next seed."""
        last = self.landscape.n_seeds - 1
        seed = self.order[row, min(self.n_shown[row], last - 1)]
        self.n_shown[row] = min(self.n_shown[row] + 1, last)
        return np.asarray(self.landscape.validation[row, seed], float)

    def hidden(self, row: int, split: str = "validation") -> float:
        """Return the mean score of a setting over the seeds that were not shown."""
        unseen = self.order[row, self.n_shown[row] :]
        return float(getattr(self.landscape, split)[row, unseen, -1].mean())

    def regret(self, row: int) -> float:
        """Return 0 for the best setting, 1 for the average one, by seeds that were not shown."""
        return (self.best - self.hidden(row)) / (self.best - self.average)


def play(landscape: Landscape, name: str, run: int, n_trials: int) -> Run:
    """Return what the tuner called `name` found within a budget of `n_trials` whole trainings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, queries = landscape.space, Queries(landscape, run)
    sampler, pruner = _tuner(name, landscape, run)
    study = optuna.create_study(  # Hyperband deals its brackets by the study's name
        study_name=f"{name}-{run}", direction="maximize", sampler=sampler, pruner=pruner
    )
    found = _Found(landscape, queries, log_points(n_trials))
    spent, deciding, number = 0.0, 0.0, 0
    while spent < n_trials - 1e-9 and number < 10 * n_trials:
        started = time.perf_counter()
        trial = study.ask()
        setting: Setting = {}
        while (knob := space.next_knob(setting)) is not None:
            setting[knob.name] = trial.suggest_categorical(knob.name, knob.values)
        deciding += time.perf_counter() - started
        row = landscape.row(setting)
        curve = queries.curve(row)
        n_epochs = len(curve)
        if not isinstance(pruner, optuna.pruners.NopPruner):
            n_epochs = _stopped_at(trial, curve)
        number += 1
        spent += n_epochs / len(curve)
        if n_epochs < len(curve):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, float(curve[-1]))
        found.note(study, row, spent)
    return found.as_run(deciding / number)


def _stopped_at(trial: Any, curve: Floats) -> int:
    """Return after which epoch the pruner stops a trial."""
    for epoch, score in enumerate(curve[:-1], start=1):
        trial.report(float(score), epoch)
        if trial.should_prune():
            return epoch
    return len(curve)


class _Found:
    """What is known after each trial of a run."""

    def __init__(self, landscape: Landscape, queries: Queries, points: Sequence[int]) -> None:
        self.landscape, self.queries = landscape, queries
        self.points = list(points)
        self.rows: list[int] = []  # of every trial
        self.best: tuple[float, int] | None = None  # of the whole trainings
        self.advised: int | None = None
        self.history: list[tuple[float, float, float, float]] = []

    def note(self, study: Any, row: int, spent: float) -> None:
        """Keep what was found after one more trial, that of the setting `row`.

        The model is asked where the cost passes one of the points only, since it takes time; its
        last recommendation holds between them.
        """
        from optuna.trial import TrialState

        self.rows.append(row)
        trials = study.get_trials(deepcopy=False)
        if trials[-1].state == TrialState.COMPLETE:
            score = float(trials[-1].value)
            if self.best is None or score > self.best[0]:  # of equals the first, as Optuna does
                self.best = score, row
        if self.best is None:
            self.history.append((spent, 1.0, 1.0, float(self.landscape.mean("test").mean())))
            return
        due = self.points and spent >= self.points[0] - 1e-9
        while self.points and spent >= self.points[0] - 1e-9:
            self.points.pop(0)
        if due or self.advised is None:
            self.advised = self._advised(trials)
        regret, hidden = self.queries.regret, self.queries.hidden
        self.history.append(
            (spent, regret(self.best[1]), regret(self.advised), hidden(self.advised, "test"))
        )

    def _advised(self, trials: Sequence[Any]) -> int:
        """Return the wholly trained setting with the highest posterior mean."""
        from optuna.trial import TrialState

        forecast = Forecast(trials)
        scores = [forecast.score(trial) for trial in trials]
        known = [i for i, score in enumerate(scores) if score is not None]
        codes = self.landscape.codes[[self.rows[i] for i in known]]
        model = RewardModel(self.landscape.space, codes, [float(scores[i] or 0.0) for i in known])
        means = model.posterior(codes)[0]
        whole = [trials[i].state == TrialState.COMPLETE for i in known]
        return self.rows[known[int(np.where(whole, means, -np.inf).argmax())]]

    def as_run(self, decide_s: float) -> Run:
        cost, observed, modelled, test = np.array(self.history).T
        return Run(cost, observed, modelled, test, decide_s)


def check_tuners(names: Sequence[str]) -> None:
    """Raise ComparisonError for a name that is no tuner."""
    known = (*OURS, *RIVALS, *EARLY, *SLOW, *ONCE)
    for name in names:
        if name not in known:
            raise ComparisonError(f"tuner {name!r} is not one of: {', '.join(known)}.")


def _tuner(name: str, landscape: Landscape, seed: int) -> tuple[Any, Any]:
    import optuna

    from rl.rivals import BanditPerKnob, RegularisedEvolution

    space = landscape.space
    name, _, early = name.partition("+")
    make: dict[str, Callable[[], Any]] = {
        "grid": lambda: optuna.samplers.GridSampler(
            {knob.name: list(knob.values) for knob in space.knobs}, seed=seed
        ),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "tpe-univariate": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=False),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
        "evolution": lambda: RegularisedEvolution(seed=seed),
        "optunahub-bandit": lambda: BanditPerKnob(seed=seed),
        "dyna-q-ucb-once": lambda: make_sampler("dyna-q-ucb", space, seed, tries=1),
    }
    pruner = make_pruner(early or "none", landscape.n_epochs)
    sampler = make[name]() if name in make else make_sampler(name, space, seed)  # type: ignore[arg-type]
    return sampler, pruner


def log_points(n_trials: int, n: int = 24) -> list[int]:
    """Return about `n` numbers of trials from 1 to `n_trials`, evenly spaced on a log scale, and
    the budgets that tables show.

    >>> log_points(20, n=4)
    [1, 3, 7, 20]
    """
    spaced = np.geomspace(1, n_trials, n).round().astype(int).tolist()
    return sorted({*spaced, *(b for b in BUDGETS if b <= n_trials)})


def contest(
    landscape: Landscape,
    names: Sequence[str],
    *,
    n_runs: int = 100,
    n_trials: int = 200,
    workers: int = 1,
    on_run: Callable[[int, int], None] | None = None,
) -> dict[str, list[Run]]:
    """Return every tuner's runs, numbered alike so that they can be paired.

    Args:
        workers: processes to share the runs; 1 plays here.
        on_run: told (done, of) after each batch of runs.

    Raises:
        ComparisonError: an unknown tuner, a landscape of one seed, or one on which all score alike.
    """
    check_tuners(names)
    Queries(landscape, 0)
    jobs = [(name, run) for run in range(n_runs) for name in names]
    one = partial(_play_job, landscape, n_trials)
    made: dict[str, list[Run]] = {name: [] for name in names}
    done = 0

    def keep(job: tuple[str, int], run: Run) -> None:
        nonlocal done
        made[job[0]].append(run)
        done += 1
        if on_run:
            on_run(done, len(jobs))

    if workers <= 1:
        for job in jobs:
            keep(job, one(job))
        return made
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for job, run in zip(jobs, pool.map(one, jobs, chunksize=len(names)), strict=True):
            keep(job, run)
    return made


def _play_job(landscape: Landscape, n_trials: int, job: tuple[str, int]) -> Run:
    return play(landscape, *job, n_trials)


def log_auc(run: Run, first: int, last: int, what: str) -> float:
    """Return the mean regret over the logarithm of the budget, from `first` to `last` trainings."""
    budgets = np.arange(first, last + 1)
    return float(np.average(run.at(budgets, what), weights=1 / budgets))


def ratio_interval(
    mine: Floats, theirs: Floats, *, n_resamples: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the ratio of two means over paired runs and its 95 % bootstrap interval.

    >>> ratio_interval(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    (0.5, 0.5, 0.5)
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(mine), size=(n_resamples, len(mine)))
    ratios = mine[rows].mean(1) / theirs[rows].mean(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(mine.mean() / theirs.mean()), float(low), float(high)


def trials_to_reach(curve: Floats, goal: float) -> int | None:
    """Return after how many trials a mean regret is `goal` or less, None where never.

    curve: mean regret after 1, 2, ... trials, (n,).

    >>> trials_to_reach(np.array([1.0, 0.5, 0.2]), 0.5)
    2
    """
    reached = np.flatnonzero(curve <= goal + 1e-12)
    return int(reached[0]) + 1 if len(reached) else None


def mean_ranks(scores: Floats) -> Floats:
    """Return each tuner's mean rank over runs, 1 is best; scores: (n_tuners, n_runs), small is
    good; ties share their ranks.

    >>> mean_ranks(np.array([[0.1, 0.3], [0.2, 0.3]])).tolist()
    [1.25, 1.75]
    """
    less = (scores[:, None] > scores[None]).sum(1)
    equal = (scores[:, None] == scores[None]).sum(1)
    return np.asarray((less + (equal + 1) / 2).mean(1))


def _standard_error(curves: Floats) -> Floats:
    n = len(curves)
    return np.zeros(curves.shape[1]) if n == 1 else curves.std(0, ddof=1) / n**0.5


def summary(
    runs: Mapping[str, Sequence[Run]], *, n_trials: int = 200, against: str = "tpe"
) -> dict[str, Any]:
    """Return the figures of a contest, JSON-ready.

    For `observed` and `modelled` of every tuner: `regret` at the budgets with its standard error;
    `auc` and `auc_from_1`, the mean regret over log budget from 20 (and from 1) trainings on;
    `ratio`, that of its `auc` to what `against` itself reports (`observed`), with the 95 % paired
    bootstrap interval, and `ratio_from_1`; `random_in`, the trials to the regret that random
    search reports at the end; `rank` among the tuners by `auc`; `curve`, mean regret at
    `log_points`. Beside them `test`, the mean test score of the modelled setting at the end, and
    `decide_ms`.
    """
    names = list(runs)
    budgets = [b for b in BUDGETS if b <= n_trials]
    first = min(BUDGETS[0], n_trials)
    every = np.arange(1, n_trials + 1)
    whole = {
        what: {n: np.array([run.at(every, what) for run in runs[n]]) for n in names}
        for what in ("observed", "modelled")
    }
    goal = float(whole["observed"]["random"][:, -1].mean()) if "random" in runs else None
    made: dict[str, Any] = {"n_trials": n_trials, "against": against, "tuners": {}}
    aucs = {
        (what, start): {n: np.array([log_auc(run, start, n_trials, what) for run in runs[n]])
                        for n in names}
        for what in whole
        for start in (first, 1)
    }  # fmt: skip
    for name in names:
        row: dict[str, Any] = {
            "runs": len(runs[name]),
            "test": float(np.mean([run.test[-1] for run in runs[name]])),
            "decide_ms": float(np.median([run.decide_s for run in runs[name]]) * 1e3),
        }
        for what, curves in whole.items():
            mean = curves[name].mean(0)
            error = _standard_error(curves[name])
            ranks = mean_ranks(np.array([aucs[what, first][n] for n in names]))
            row[what] = {
                "regret": {str(b): [float(mean[b - 1]), float(error[b - 1])] for b in budgets},
                "auc": float(aucs[what, first][name].mean()),
                "auc_from_1": float(aucs[what, 1][name].mean()),
                "rank": float(ranks[names.index(name)]),
                "random_in": None if goal is None else trials_to_reach(mean, goal),
                "curve": [[p, float(mean[p - 1])] for p in log_points(n_trials)],
            }
            if against in runs:
                for key, start in (("ratio", first), ("ratio_from_1", 1)):
                    theirs = aucs["observed", start][against]
                    row[what][key] = list(ratio_interval(aucs[what, start][name], theirs))
        made["tuners"][name] = row
    return made
