"""What makes an agent an Optuna sampler.

What a sampler does is a pure function of (its configuration, its seed, the
study's trials). It keeps no state of its own: every decision rebuilds the agent
from the finished trials and draws from `default_rng([seed, index])`, where
`index` counts the trials before this one. Trials marked with the user attribute
`killed` do not count at all, so a search that was killed and resumed makes the
very choices it would have made, as long as it takes one trial at a time.

Finished trials bring their score. Pruned ones bring what their last intermediate
value foretells (`rl.fidelity`), or nothing if they have none. A score that is no
finite number counts as the worst of the others. Failed ones bring nothing, but their
settings count as tried.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rl.fidelity import KILLED, Forecast, lasted_s
from rl.knobs import KnobState
from rl.mdp import Episode
from rl.model import Known, standardised
from rl.model_tuner import DynaQ
from rl.space import SearchSpace, Setting
from rl.trial_settings import (
    PLAN,
    Reader,
    key_of,
    knob_of,
    known_values,
    planned_before,
    seen,
    setting_under_way,
    space_of,
    trial_index,
)
from rl.tuners import Agent, RandomSettings, all_legal, roll_out

Earlier = Sequence[Sequence[tuple[Setting, float]]]
"""Settings and scores (large is good) of earlier studies, a list for each."""
MAX_DRAWS = 60
MOST_EARLIER = 100
"""Trials of an earlier study that are taken over: the first ones, spread out by its own search."""


def drawn_seed() -> int:
    """Return a seed that nobody knows beforehand, below 2^32."""
    return int(np.random.SeedSequence().generate_state(1)[0])


class KnobSampler(BaseSampler):
    """What the samplers of `rl.samplers` share; each of them says in `agent` who chooses.

    Args:
        space: the knobs, to be asked for with `suggest_categorical`: Optuna refuses any other kind
            of parameter by the name of one. None learns them from the finished trials: those that
            every one of them has are planned together, the others are chosen as they come up. A
            knob is a categorical parameter or a stepped number; continuous ones are drawn at
            random.
        seed: two studies with one seed and one worker are the same; None draws one.
        n_random: trials before the agent takes over, every value equally likely in them.
        tries: how often a setting may be tried, one at a time, before all were tried so often;
            None puts no bound on it. Where scores are noisy, a second look at a good setting is
            worth more than a first at one that promises less.
        earlier: what earlier studies found, to start from instead of random trials. A tabular
            agent learns from them as from its own, on this study's scale once it has one;
            Dyna-Q finds out how much they have to do with this study.
    """

    def __init__(
        self,
        *,
        space: SearchSpace | None = None,
        seed: int | None = 0,
        n_random: int = 10,
        tries: int | None = 1,
        earlier: Earlier = (),
    ) -> None:
        self.space = space
        self.seed = drawn_seed() if seed is None else seed
        self.n_random = 0 if earlier else n_random
        self.earlier = [list(study)[:MOST_EARLIER] for study in earlier]
        if tries is not None and tries < 1:
            raise ValueError(f"tries={tries} must be 1 or more; None puts no bound on it.")
        self.tries = tries
        self._fitted: tuple[Any, Agent] | None = None
        self._reader: Reader | None = None

    @abstractmethod
    def agent(self, space: SearchSpace) -> Agent:
        """Return the agent, knowing nothing yet."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self.space is not None:
            return {knob.name: CategoricalDistribution(knob.values) for knob in self.space.knobs}
        shared = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: d for name, d in shared.items() if knob_of(name, d) and not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a whole setting, planned in imagination and never tried before; what is no knob
        in it is drawn at random."""
        self._raise_error_if_multi_objective(study)
        knobs = {name: d for name, d in search_space.items() if knob_of(name, d)}
        drawn = {
            name: self.sample_independent(study, trial, name, d)
            for name, d in search_space.items()
            if name not in knobs
        }
        if not knobs:
            return drawn
        return drawn | self._planned(study, trial, knobs)

    def _planned(
        self, study: Study, trial: FrozenTrial, knobs: dict[str, BaseDistribution]
    ) -> Setting:
        space = self._reading(self.space or space_of(knobs)).space
        fixed = known_values(space, trial.system_attrs.get("fixed_params", {}))
        trials = study.get_trials(deepcopy=False)
        index = trial_index(trials, trial.number)
        rng = np.random.default_rng([self.seed, index])
        agent = self._fit(study, space, trials, trial.number)
        while True:
            tried = self._tried(space, trials, trial.number)
            setting = self._propose(agent, tried, fixed, rng, index)
            # Written first and looked for second: of two workers that plan the same setting at
            # once, at least the later one sees the other's, and yields.
            study._storage.set_trial_system_attr(trial._trial_id, PLAN, setting)
            if self.tries is None or key_of(space, setting) in tried:  # nothing else is left
                return setting
            trials = study.get_trials(deepcopy=False)
            if setting not in planned_before(trials, trial.number):
                return setting

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # fmt: skip
        """Return a value for a parameter that the plan does not hold, given those chosen."""
        self._raise_error_if_multi_objective(study)
        trials = study.get_trials(deepcopy=False)
        index = trial_index(trials, trial.number)
        name_seed = zlib.crc32(param_name.encode())
        rng = np.random.default_rng([self.seed, index, name_seed])
        knob = knob_of(param_name, param_distribution)
        if knob is None:
            drawn = RandomSampler(seed=int(rng.integers(2**31)))
            return drawn.sample_independent(study, trial, param_name, param_distribution)
        if index < self.n_random:
            return knob.values[int(rng.integers(len(knob.values)))]
        space = space_of(seen(trials, {**trial.distributions, param_name: param_distribution}))
        agent = self._fit(study, space, trials, trial.number)
        chosen = known_values(space, trial.params)
        state = KnobState(tuple(chosen.items()), param_name)
        return knob.values[agent.act(state, knob, all_legal(knob), rng, index)]

    def fitted(self, study: Study) -> Agent:
        """Return the agent with what the study's finished trials have taught it.

        Raises:
            ValueError: no trial has finished, and no space was given.
        """
        trials = study.get_trials(deepcopy=False)
        space = self.space or space_of(seen(trials, {}))
        return self._fit(study, space, trials, len(trials))

    def _fit(
        self, study: Study, space: SearchSpace, trials: Sequence[FrozenTrial], number: int
    ) -> Agent:
        maximise = study.direction == StudyDirection.MAXIMIZE
        sign = 1.0 if maximise else -1.0
        reader = self._reading(space)
        trials = [t for t in trials if KILLED not in t.user_attrs]
        forecast = Forecast(trials, maximise=maximise)
        scores = [
            (t, forecast.score(t))
            for t in trials
            if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ]
        scored = [reader.episode(t.params, sign * s) for t, s in scores if s is not None]
        pending = [
            reader.read(setting)[0]
            for t in trials
            if t.state == TrialState.RUNNING
            and t.number != number
            and reader.read(setting := setting_under_way(t))[1]
        ]
        # Rebuilding gives the same agent, so the last one is kept while nothing has changed.
        # In a variable of its own: with n_jobs other threads put theirs in its place.
        now, fitted = (space, scored, pending), self._fitted
        if fitted is None or fitted[0] != now:
            agent = self.agent(space)
            episodes = [episode for episode in scored if len(episode)]
            if not isinstance(agent, DynaQ):
                episodes = [*self._as_mine(reader, episodes), *episodes]
            agent.fit(episodes, pending)
            if isinstance(agent, DynaQ) and agent.cost_aware:
                lasted = [(t, s) for t, s in scores if s is not None and reader.read(t.params)[0]]
                agent.learn_costs([_whole_s(trial, trials) for trial, _ in lasted])
            self._fitted = fitted = (now, agent)
        return fitted[1]

    def _as_mine(self, reader: Reader, mine: Sequence[Episode]) -> list[Episode]:
        """Return the earlier studies' trials as episodes whose rewards have the mean and deviation
        of this study's, or 0 and 1 where it has none yet."""
        mean, sd = 0.0, 1.0
        if len(mine) > 1:
            _, mean, sd = standardised([episode.total for episode in mine])
        made = []
        for study in self.earlier:
            z, _, _ = standardised([score for _, score in study])
            for (setting, _), value in zip(study, z, strict=True):
                if reader.read(setting)[1] is not None:
                    made.append(reader.episode(setting, mean + sd * float(value)))
        return made

    def _known(self, space: SearchSpace) -> list[Known]:
        """Return the earlier studies' trials as codes and scores, as far as the space has them."""
        made: list[Known] = []
        for study in self.earlier:
            read = [(self._reading(space).read(setting)[1], score) for setting, score in study]
            rows = [(codes, score) for codes, score in read if codes is not None]
            if rows:
                made.append((np.array([codes for codes, _ in rows]), [s for _, s in rows]))
        return made

    def _reading(self, space: SearchSpace) -> Reader:
        reader = self._reader
        if reader is None or (reader.space is not space and reader.space != space):
            self._reader = reader = Reader(space)
        return reader

    def _tried(
        self, space: SearchSpace, trials: Sequence[FrozenTrial], number: int
    ) -> set[tuple[int, ...]]:
        """Return the codes of the settings that trial `number` is not to have."""
        if self.tries is None:
            return set()
        return self._reading(space).tried(trials, number, tries=self.tries)

    def _propose(self, agent: Agent, tried: set[tuple[int, ...]], fixed: Mapping[str, Any],
                 rng: np.random.Generator, index: int) -> Setting:  # fmt: skip
        """Return a setting from the agent that is not among `tried`, unless all are."""
        space = agent.space
        chooser: Agent = agent if index >= self.n_random else RandomSettings(space)
        if self.tries is None or len(tried) >= space.size():
            return roll_out(chooser, rng, index, fixed)
        if isinstance(chooser, DynaQ) and chooser.ucb is not None:
            planned = chooser.propose(tried, fixed)
            if planned is not None:
                return planned
        for _ in range(MAX_DRAWS):
            setting = roll_out(chooser, rng, index, fixed)
            if key_of(space, setting) not in tried:
                return setting
        return _change_at_random(space, setting, tried, fixed, rng)


def _change_at_random(space: SearchSpace, setting: Setting, tried: set[tuple[int, ...]],
                      fixed: Mapping[str, Any], rng: np.random.Generator) -> Setting:  # fmt: skip
    """Return an untried setting near `setting`: one knob changed, then two, and so on."""
    positions = [i for i, knob in enumerate(space.knobs) if knob.name not in fixed]
    start = space.encode(setting)
    for n_changed in range(1, len(positions) + 1):
        for _ in range(MAX_DRAWS):
            codes = start.copy()
            for position in rng.choice(positions, size=n_changed, replace=False):
                codes[position] = rng.integers(space.n_values[position])
            found = space.settle(codes[None])[0]
            if tuple(found.tolist()) not in tried:
                return space.decode(found)
    # So nearly exhausted that chance does not find what is left: list it. Among any
    # len(tried) + 1 settings one is untried, so this stops soon.
    listed = islice(space.settings(fixed), len(tried) + 1)
    left = [found for found in listed if key_of(space, found) not in tried]
    return left[int(rng.integers(len(left)))] if left else setting


def _whole_s(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> float:
    """Return the seconds that a trial's whole training takes, as far as those seen tell."""
    took = lasted_s(trial) or 1.0
    if trial.state != TrialState.PRUNED or not trial.intermediate_values:
        return took
    n_epochs = max(len(t.intermediate_values) for t in trials)
    return took * n_epochs / len(trial.intermediate_values)
