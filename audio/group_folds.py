"""Equal parts of whole groups with the classes in proportion, in the time that drawing may take.

The parts are those of scikit-learn's StratifiedGroupKFold(shuffle=True), part for part: a test
holds the two equal. Importing scikit-learn takes 2 s, and its search for each group's part 0.3 ms
for each part; converting 3,000 clips is to take less than 3 s altogether.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def stratified_group_folds(
    labels: Sequence[str], groups: Sequence[str], n_folds: int, *, seed: int
) -> list[list[int]]:
    """Return the positions that each of `n_folds` parts holds; no group is in two of them.

    Groups are placed one by one, those with the most uneven classes first, each where the classes'
    shares then differ least between the parts (Wasikowski's greedy stratified group k-fold).

    >>> stratified_group_folds(list("aabb"), list("wxyz"), 2, seed=0)
    [[1, 2], [0, 3]]

    Raises:
        ValueError: fewer groups than parts, or no class with as many clips as parts.
    """
    _, label_of, label_count = np.unique(labels, return_inverse=True, return_counts=True)
    _, group_of = np.unique(groups, return_inverse=True)
    n_groups = int(group_of.max()) + 1
    if n_folds > n_groups or n_folds > label_count.max():
        raise ValueError(
            f"{n_folds} parts are more than the {n_groups} groups, or than the "
            f"{label_count.max()} clips of the largest class."
        )
    counts = np.zeros((n_groups, len(label_count)))
    np.add.at(counts, (group_of, label_of), 1)
    order = np.arange(n_groups)
    # scikit-learn's generator, for the same order; no other use of the legacy one
    np.random.RandomState(seed).shuffle(order)
    counts = counts[order]
    place = np.empty_like(order)
    place[order] = np.arange(n_groups)
    group_of = place[group_of]

    held = np.zeros((n_folds, len(label_count)))
    sizes = np.zeros(n_folds)
    fold_of = np.empty(n_groups, np.int64)
    diagonal = np.arange(n_folds)
    for group in np.argsort(-counts.std(axis=1), kind="stable"):
        tried = np.repeat(held[None], n_folds, axis=0)  # (which part takes it, part, class)
        tried[diagonal, diagonal] += counts[group]
        best = _first_best(_unevenness(tried / label_count), sizes)
        held[best] += counts[group]
        sizes[best] += counts[group].sum()
        fold_of[group] = best
    fold = fold_of[group_of]
    return [np.flatnonzero(fold == k).tolist() for k in range(n_folds)]


def _unevenness(shares: NDArray[np.float64]) -> list[float]:
    """Return, for each (part, class) table, the mean over classes of the deviation over parts."""
    centred = shares - shares.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=1))
    result: list[float] = deviation.mean(axis=1).tolist()
    return result


def _first_best(unevenness: Sequence[float], sizes: NDArray[Any]) -> int:
    """Return the part that leaves the least unevenness; of equals, one with the fewest clips."""
    best, least, fewest = 0, float("inf"), float("inf")
    for k, (value, size) in enumerate(zip(unevenness, sizes.tolist(), strict=True)):
        equal = abs(value - least) <= 1e-8 + 1e-5 * abs(least)  # as np.isclose
        if value < least or (equal and size < fewest):
            best, least, fewest = k, value, size
    return best
