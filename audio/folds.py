"""Scores of a cross-validation: by fold, mean and spread, and of all predictions together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def fold_scores(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard deviation over the folds, least, most, and a 95 % interval of the mean.

    The interval is Student's t over the folds. Their trainings share clips, so it is somewhat too
    narrow (Bengio & Grandvalet 2004: no unbiased estimate of this variance exists).

    >>> [round(v, 3) for v in fold_scores([0.8, 0.9, 1.0]).values()]
    [0.9, 0.1, 0.8, 1.0, 0.652, 1.148]
    """
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError(f"{len(values)} folds have no spread; at least 2 are needed.")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return {
        "mean": mean,
        "deviation": deviation,
        "least": float(min(values)),
        "most": float(max(values)),
        "low": mean - half,
        "high": mean + half,
    }


def over_folds(folds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return `fold_scores` of each score; folds: {"accuracy": ..., "macro_f1": ..., ...}."""
    return {name: fold_scores([fold[name] for fold in folds]) for name in SCORES}
