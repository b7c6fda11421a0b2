"""The search space of a study made by somebody else, with Optuna alone: read from its trials.

Its knobs are the parameters of the trials. A categorical parameter or a stepped number is a knob
with its values, a continuous one is cut into bins. A parameter that some trials lack depends on an
earlier one, where that one's values tell the trials with it from those without.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from rl.space import Knob, SearchSpace, Value
from rl.trial_settings import knob_of

N_BINS = 5
"""Bins that a continuous parameter is cut into."""


def space_of(
    trials: Sequence[FrozenTrial],
) -> tuple[SearchSpace, dict[str, Callable[[Any], Value]]] | None:
    """Return the space of the trials' parameters, and what turns the values of those that had to be
    cut into bins, or put into words, into the knobs' values.

    None where there are no parameters.
    """
    seen: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            seen[name] = _widest(seen.get(name), distribution)
    if not seen:
        return None
    convert: dict[str, Callable[[Any], Value]] = {}
    knobs = []
    for name, distribution in seen.items():
        knob = knob_of(name, distribution)
        if knob is None:
            knob, convert[name] = _cut(name, distribution)
        elif not isinstance(distribution, CategoricalDistribution):
            knob, convert[name] = _rounded(knob)
        knobs.append(knob)
    finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    settings = [
        {k: convert[k](v) if k in convert else v for k, v in t.params.items()} for t in finished
    ]
    for i, knob in enumerate(knobs):
        knobs[i] = replace(knob, when=_condition(knob.name, knobs[:i], settings))
    return SearchSpace(knobs), convert


def _widest(one: BaseDistribution | None, other: BaseDistribution) -> BaseDistribution:
    """Return a distribution that holds both: numbers may have been asked for in several ranges."""
    if isinstance(one, IntDistribution | FloatDistribution) and type(one) is type(other):
        both: Any = other
        low, high = min(one.low, both.low), max(one.high, both.high)
        step = one.step if one.step == both.step else None
        if isinstance(one, IntDistribution):
            log = one.log or both.log
            return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        return FloatDistribution(low, high, log=one.log or both.log, step=step)
    return other


def _rounded(knob: Knob) -> tuple[Knob, Callable[[Any], Value]]:
    """Return the stepped knob without what steps leave behind (0.8999999999999999), and what finds
    a number among its values."""
    numbers = [v if isinstance(v, int) else float(f"{v:.12g}") for v in knob.values]

    def of(value: Any) -> Value:
        return min((abs(known - value), known) for known in numbers)[1]

    return replace(knob, values=tuple(numbers), default=numbers[0]), of


def _cut(name: str, distribution: BaseDistribution) -> tuple[Knob, Callable[[Any], Value]]:
    """Return a knob of bins, equally wide (on a logarithmic scale where the parameter has one), or
    of the choices in words."""
    if isinstance(distribution, CategoricalDistribution):
        words = [json.dumps(choice, default=str) for choice in distribution.choices]
        names = dict(zip(map(repr, distribution.choices), words, strict=True))
        return Knob(name, tuple(dict.fromkeys(words))), lambda value: names.get(repr(value), "?")
    numbers = cast("IntDistribution | FloatDistribution", distribution)
    low, high = float(numbers.low), float(numbers.high)
    log = numbers.log and low > 0
    ends = [
        low * (high / low) ** (i / N_BINS) if log else low + (high - low) * i / N_BINS
        for i in range(N_BINS + 1)
    ]
    if isinstance(numbers, IntDistribution):
        ends = sorted({float(round(end)) for end in ends})
    if high <= low:
        return Knob(name, (f"{low:.3g}",)), lambda value: f"{low:.3g}"
    names_ = [f"{a} to {b}" for a, b in itertools.pairwise(_told_apart(ends))]

    def bin_of(value: Any) -> Value:
        below = sum(1 for end in ends if value >= end)
        return names_[min(len(names_) - 1, max(0, below - 1))]

    return Knob(name, tuple(names_), ordered=True), bin_of


def _told_apart(numbers: Sequence[float]) -> list[str]:
    """Return the numbers with as few digits, three or more, as tell them apart."""
    if all(number == int(number) for number in numbers):
        return [f"{number:.0f}" for number in numbers]
    for digits in range(3, 17):
        texts = [f"{number:.{digits}g}" for number in numbers]
        if len(set(texts)) == len(texts):
            return texts
    return [repr(number) for number in numbers]


def _condition(
    name: str, earlier: Sequence[Knob], settings: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[Value, ...]]:
    """Return which values of an earlier knob `name` needs: the first knob whose values never occur
    both with and without it. Nothing where it is always there or no such knob is found."""
    having = [s for s in settings if name in s]
    lacking = [s for s in settings if name not in s]
    if not having or not lacking:
        return {}
    for knob in earlier:
        with_it = [s[knob.name] for s in having if knob.name in s]
        without = [s[knob.name] for s in lacking if knob.name in s]
        if len(with_it) == len(having) and not any(value in without for value in with_it):
            return {knob.name: tuple(v for v in knob.values if v in with_it)}
    return {}
