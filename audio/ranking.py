"""How well probabilities rank: average precision and the area under the ROC curve, class by class.

One class against the rest, then the mean over the classes that occur and are not the only one:
scikit-learn's figures (ties share a threshold), computed for many weightings of the clips at once,
which is what a bootstrap asks for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_CELLS_AT_ONCE = 4_000_000

Floats = NDArray[np.float64]


def ranking_scores(
    probabilities: NDArray[np.float32],
    is_true: NDArray[np.bool_],
    weights: NDArray[np.float64] | None = None,
) -> tuple[Floats, Floats]:
    """Return mean average precision and macro ROC AUC under each weighting, (n_weightings,) each.

    probabilities, is_true: (n, n_labels). weights: of the clips, (n_weightings, n); None counts
    each once. NaN where no class can be ranked: at least one clip of it and one of another.
    """
    n, n_labels = probabilities.shape
    weights = np.ones((1, n)) if weights is None else weights
    precision = np.full((len(weights), n_labels), np.nan)
    area = np.full((len(weights), n_labels), np.nan)
    for c in range(n_labels):
        for part in _parts(len(weights), n):
            average, below = one_class(probabilities[:, c], is_true[:, c], weights[part])
            # a class that is the only one has every precision 1, which says nothing
            precision[part, c] = np.where(np.isfinite(below), average, np.nan)
            area[part, c] = below
    return _mean_of_known(precision), _mean_of_known(area)


def _parts(n_weightings: int, n: int) -> Iterator[slice]:
    size = max(1, _CELLS_AT_ONCE // max(n, 1))
    for first in range(0, n_weightings, size):
        yield slice(first, first + size)


def one_class(
    score: NDArray[np.float32], is_true: NDArray[np.bool_], weights: Floats
) -> tuple[Floats, Floats]:
    """Return average precision and ROC AUC of one class, (n_weightings,) each, NaN where undefined:
    where no clip that counts is of it and, for the area, where none is of another.

    Average precision is `sum (R_k - R_(k-1)) P_k` over thresholds k; the area is the share of pairs
    (one of the class, one not) in the right order, ties counting half.
    """
    order = np.argsort(-score, kind="stable")
    sorted_score = score[order]
    ends = np.flatnonzero(np.r_[sorted_score[1:] != sorted_score[:-1], True])  # of equal scores
    mine = weights[:, order]
    true = np.cumsum(mine * is_true[order], axis=1)[:, ends]
    both = np.cumsum(mine, axis=1)[:, ends]
    other = both - true
    n_true, n_other = true[:, -1], other[:, -1]
    new_true = np.diff(true, axis=1, prepend=0)
    precision = np.divide(true, both, out=np.zeros_like(true), where=both > 0)
    new_other = np.diff(other, axis=1, prepend=0)
    pairs = (new_other * (true - new_true / 2)).sum(1)
    ranked = (n_true > 0) & (n_other > 0)
    nothing = np.full(len(weights), np.nan)
    total = (new_true * precision).sum(1)
    average = np.divide(total, n_true, out=nothing.copy(), where=n_true > 0)
    area = np.divide(pairs, n_true * n_other, out=nothing, where=ranked)
    return average, area


def _mean_of_known(values: Floats) -> Floats:
    known = np.isfinite(values)
    n = known.sum(1)
    total = np.where(known, values, 0).sum(1)
    mean: Floats = np.divide(total, n, out=np.full(len(values), np.nan), where=n > 0)
    return mean
