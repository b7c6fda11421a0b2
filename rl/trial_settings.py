"""Optuna's trials as settings of a search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from rl.fidelity import DIED, KILLED
from rl.knobs import KnobState
from rl.mdp import Episode, Transition
from rl.space import Knob, SearchSpace, Setting, SpaceError

PLAN = "melbandit:setting"
"""System attribute of a trial: the setting it was given, known before its first `suggest`."""
MAX_STEPS = 64
"""A stepped number with more values than this is drawn at random, not learnt about."""


def trial_index(trials: Sequence[FrozenTrial], number: int) -> int:
    """Return how many trials came before trial `number`, those killed left out."""
    return number - sum(t.number < number and KILLED in t.user_attrs for t in trials)


def knob_of(name: str, distribution: BaseDistribution) -> Knob | None:
    """Return the knob that a distribution stands for, or None where it is continuous."""
    if isinstance(distribution, CategoricalDistribution):
        try:
            return Knob(name, tuple(distribution.choices))  # type: ignore[arg-type]
        except SpaceError:  # choices that Optuna bears and a knob does not, such as 1 beside True
            return None
    if isinstance(distribution, IntDistribution | FloatDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        if step is None or distribution.log or (high - low) / step >= MAX_STEPS:
            return None
        n = round((high - low) / step) + 1
        values = tuple(min(low + i * step, high) for i in range(n))  # 0.1 + 6 * 0.1 exceeds 0.7
        return Knob(name, values, ordered=True)
    return None


def setting_under_way(trial: FrozenTrial) -> Setting:
    """Return what a trial tries, as far as it is known yet."""
    given = trial.system_attrs.get("fixed_params", {})
    return {**trial.system_attrs.get(PLAN, {}), **given, **trial.params}


def is_exhausted(trials: Sequence[FrozenTrial], tries: int) -> bool:
    """Return whether a setting that these trials have may not be tried again now: it was so often,
    it is at this moment, or it failed."""
    scored = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(trials) >= tries or any(trial.state not in scored for trial in trials)


def planned_before(trials: Sequence[FrozenTrial], number: int) -> list[Setting]:
    """Return the settings under way in trials with a lower number."""
    return [
        setting_under_way(t) for t in trials if t.number < number and t.state == TrialState.RUNNING
    ]


def seen(
    trials: Sequence[FrozenTrial], current: Mapping[str, BaseDistribution]
) -> dict[str, BaseDistribution]:
    """Return every parameter of any finished trial, in order of first appearance, and this
    trial's own; a parameter whose choices have changed keeps the latest."""
    made: dict[str, BaseDistribution] = {}
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            made |= trial.distributions
    return made | dict(current)


def space_of(distributions: Mapping[str, BaseDistribution]) -> SearchSpace:
    """Return the space of those distributions that stand for knobs."""
    knobs = [knob_of(name, distribution) for name, distribution in distributions.items()]
    return SearchSpace([knob for knob in knobs if knob is not None])


def key_of(space: SearchSpace, setting: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the codes of a setting: what two equal ones share."""
    return tuple(space.encode(setting).tolist())


def known_values(space: SearchSpace, params: Mapping[str, Any]) -> Setting:
    """Return those of the parameters that are knobs of the space and have one of their values, in
    its order."""
    found = {k.name: _value_of(k, params[k.name]) for k in space.knobs if k.name in params}
    return {name: value for name, value in found.items() if value is not ...}


def _value_of(knob: Knob, value: Any) -> Any:
    """Return the knob's value that is meant, `...` where it has none: a stepped number may be off
    by what adding up its steps leaves (0.3 for 0.30000000000000004)."""
    if value in knob.values:
        return value
    numbers = [v for v in knob.values if isinstance(v, float)]
    if not numbers or not isinstance(value, float):
        return ...
    nearest = min(numbers, key=lambda v: abs(v - value))
    return nearest if abs(nearest - value) <= 1e-9 * (max(numbers) - min(numbers)) else ...


class Reader:
    """Reads the parameters of trials as settings of a space.

    What was read once is kept: the codes and the episode of a setting never change.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._read: dict[tuple[Any, ...], tuple[Setting, tuple[int, ...] | None]] = {}
        self._episodes: dict[tuple[Any, ...], Episode] = {}

    def read(self, params: Mapping[str, Any]) -> tuple[Setting, tuple[int, ...] | None]:
        """Return the choices that are knobs and values of the space, in its order, and their
        codes, or None where they are no whole setting."""
        at = tuple(params.items())
        if at not in self._read:
            part = known_values(self.space, params)
            whole = self.space.holds(part)
            self._read[at] = (part, key_of(self.space, part) if whole else None)
        return self._read[at]

    def episode(self, params: Mapping[str, Any], score: float) -> Episode:
        """Return the episode of a finished trial. Unlike `knob_episode`, knobs may be missing:
        what a define-by-run trial did not ask for did not exist for it."""
        at = (*params.items(), score)
        if at not in self._episodes:
            pairs = tuple(self.read(params)[0].items())
            names = [*(name for name, _ in pairs), None]
            states = [KnobState(pairs[:i], name) for i, name in enumerate(names)]
            steps = []
            for i, (name, value) in enumerate(pairs):
                end = i + 1 == len(pairs)
                action = self.space[name].code(value)
                reward = score if end else 0.0
                steps.append(Transition(states[i], action, reward, states[i + 1], end))
            self._episodes[at] = Episode(tuple(steps))
        return self._episodes[at]

    def tried(
        self, trials: Sequence[FrozenTrial], number: int | None = None, *, tries: int = 1
    ) -> set[tuple[int, ...]]:
        """Return the codes of every setting that trials other than `number` tried so often, that
        one of them tries or waits to try, or that failed. Killed trials count no more, but those
        that are to be run again."""
        made: dict[tuple[int, ...], list[FrozenTrial]] = {}
        for trial in trials:
            # one whose worker died is run again, with its setting
            counts = trial.user_attrs.get(KILLED, DIED) == DIED
            if trial.number != number and counts:
                key = self.read(setting_under_way(trial))[1]
                if key is not None:
                    made.setdefault(key, []).append(trial)
        return {key for key, of_it in made.items() if is_exhausted(of_it, tries)}
