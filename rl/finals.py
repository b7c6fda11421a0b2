"""Which settings reach the finals, and who wins them: pure functions of scores.

Exploring well and recommending well are different jobs. The best of many noisy
trials is partly the luckiest, so the finalists are trained again on seeds that no
trial had, the same seeds for each: the more promising, the more seeds. What the
reward model expects of each after all trainings decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rl.model import RewardModel
from rl.model_tuner import DynaQ
from rl.space import SearchSpace, Setting, Value
from rl.tuners import Agent

#: 97.5 % quantile of Student's t for 1, 2, ... 30 degrees of freedom; 1.96 beyond.
T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Finalist:
    """One setting in the finals."""

    values: Setting
    is_default: bool
    expected: float | None
    """What chose it: the agent's posterior mean, or the score seen; None for an untried default."""
    seeds: tuple[int, ...]
    """The fresh seeds that it was trained on."""
    scores: tuple[float | None, ...]
    """Its score on each of them; None where training failed."""
    believed: float | None = None
    """What the reward model expects of it after all trials and finals."""

    @property
    def mean(self) -> float | None:
        """Mean of its scores; None where there is none."""
        known = [score for score in self.scores if score is not None]
        return float(np.mean(known)) if known else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of that mean; None below two scores."""
        known = [score for score in self.scores if score is not None]
        return float(np.std(known, ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return the fields, the mean and its standard error, JSON-ready."""
        return {**asdict(self), "mean": self.mean, "standard_error": self.standard_error}


@dataclass(frozen=True)
class Difference:
    """How much better one finalist did than another on the same seeds."""

    mean: float
    low: float | None
    """Lower end of the 95 % interval (Student's t); None below two seeds."""
    high: float | None
    """Upper end of it."""
    n: int
    """Seeds that both were trained on."""


def shortlist(
    space: SearchSpace,
    tried: Sequence[tuple[Setting, float]],
    default: Mapping[str, Value],
    n: int,
    *,
    agent: Agent | None = None,
) -> list[tuple[Setting, float | None]]:
    """Return the `n` most promising settings, best first, and the default where it is not among
    them; each with what it is expected to score.

    Args:
        tried: settings and their scores.
        agent: a `DynaQ` ranks by its posterior mean, and the best setting that it can imagine
            competes too; for any other the mean score seen decides.
    """
    expected = _mean_scores(space, tried)
    if isinstance(agent, DynaQ) and expected:
        codes = [*expected, tuple(space.encode(agent.greedy()).tolist())]
        means, _ = agent.predict([space.decode(np.array(c)) for c in codes])
        expected = dict(zip(codes, means.tolist(), strict=True))
    best = sorted(expected, key=lambda codes: -expected[codes])[:n]
    home = tuple(space.encode(default).tolist())
    if home not in best:
        best.append(home)
    return [(space.decode(np.array(codes)), expected.get(codes)) for codes in best]


def _mean_scores(
    space: SearchSpace, tried: Sequence[tuple[Setting, float]]
) -> dict[tuple[int, ...], float]:
    """Return each setting's mean score, by its codes."""
    seen: dict[tuple[int, ...], list[float]] = {}
    for setting, score in tried:
        seen.setdefault(tuple(space.encode(setting).tolist()), []).append(score)
    return {codes: float(np.mean(scores)) for codes, scores in seen.items()}


def rounds(finalists: int, replicates: int) -> list[tuple[int, int]]:
    """Return the rounds of the finals: how many settings take part, the default aside, and on how
    many seeds each has been trained at the end of it.

    The last two settings get all `replicates`; twice as many a half of them, and so on back
    (successive halving, Karnin et al., 2013, over seeds).

    >>> rounds(8, 4)
    [(8, 1), (4, 2), (2, 4)]
    >>> rounds(3, 3), rounds(1, 5)
    ([(3, 2), (2, 3)], [(1, 5)])
    """
    made = [(min(2, finalists), replicates)]
    while made[0][0] < finalists:
        n, n_seeds = made[0]
        made.insert(0, (min(2 * n, finalists), math.ceil(n_seeds / 2)))
    return made


def expectations(
    space: SearchSpace,
    settings: Sequence[Setting],
    trials: Sequence[tuple[Setting, float]],
    finals: Sequence[tuple[Setting, float]],
    *,
    same_fidelity: bool = True,
) -> list[float]:
    """Return what the reward model expects of settings after all trainings, in the finals' unit.

    Args:
        trials, finals: settings and their scores.
        same_fidelity: trials are trained as long as finals. Where they are not, the trials' scores
            are shifted by what a setting's finals are above its trials, the mean over settings
            that have both: how often each was trained has no part in it.
    """
    tried = list(trials)
    if finals and not same_fidelity:
        before, after = _mean_scores(space, trials), _mean_scores(space, finals)
        shifts = [after[codes] - before[codes] for codes in after if codes in before]
        shift = float(np.mean(shifts)) if shifts else 0.0
        tried = [(setting, score + shift) for setting, score in trials] if shifts else []
    known = [*tried, *finals]
    codes = np.array([space.encode(setting) for setting, _ in known])
    model = RewardModel(space, codes, [score for _, score in known])
    asked = np.array([space.encode(setting) for setting in settings])
    return [float(mean) for mean in model.posterior(asked)[0]]


def rank_finalists(finalists: Sequence[Finalist]) -> list[Finalist]:
    """Return the finalists, best first: those of the most seeds before those that dropped out,
    and among these by what is believed of them, or by their mean where nothing is. A tie goes to
    the default, and those without a score come last."""

    def key(one: Finalist) -> tuple[bool, int, float, bool]:
        value = one.mean if one.believed is None else one.believed
        return one.mean is not None, len(one.seeds), value or 0.0, one.is_default

    return sorted(finalists, key=key, reverse=True)


def paired_difference(one: Finalist, other: Finalist) -> Difference | None:
    """Return `one` minus `other` over the seeds that both have a score on; None without any.

    The interval knows nothing of the choice of the winner among several finalists: it is for the
    two as given.
    """
    theirs = dict(zip(other.seeds, other.scores, strict=True))
    differences = [
        score - theirs[seed]  # type: ignore[operator]
        for seed, score in zip(one.seeds, one.scores, strict=True)
        if score is not None and theirs.get(seed) is not None
    ]
    n = len(differences)
    if n == 0:
        return None
    mean = float(np.mean(differences))
    if n == 1:
        return Difference(mean, None, None, 1)
    t = T_QUANTILES[n - 2] if n - 2 < len(T_QUANTILES) else 1.96
    half = t * float(np.std(differences, ddof=1)) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)
