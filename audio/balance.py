"""Rare classes: how they are made to count where some have many more clips than others.

Targets are classes, int64 (n,), or, where a clip has several labels, memberships, float32
(n, n_labels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Targets = NDArray[Any]


@dataclass(frozen=True)
class Balance:
    """What a loss is balanced by: the classes' weights, and what is added to their logits; float32
    (n_labels,) each, or None."""

    weight: Tensor | None = None
    offset: Tensor | None = None


def class_counts(targets: Targets, n_labels: int) -> NDArray[np.int64]:
    """Return the number of clips of each class, (n_labels,)."""
    if targets.ndim == 2:
        return np.array((targets > 0).sum(0), np.int64)
    return np.bincount(targets.astype(np.int64), minlength=n_labels)


def make_balance(
    targets: Targets, n_labels: int, rule: str, *, device: torch.device | None = None
) -> Balance:
    """Return what the loss is balanced by under a rule of `TrainingSettings.balance`.

    weights: the inverse of each class's clips, its mean over the clips 1; root-weights: the root
    of that. Of clips with several labels, a weight is of the class's presence against its absence.
    logits: the logarithm of each class's share is added to its logit while training, so that the
    network need not learn it (logit adjustment, Menon et al., 2021).
    """
    count = class_counts(targets, n_labels)
    n = len(targets)
    power = 0.5 if rule.startswith("root-") else 1.0
    weight = offset = None
    if rule in ("weights", "root-weights"):
        if targets.ndim == 2:
            weight = (np.maximum(n - count, 1) / np.maximum(count, 1)) ** power
        else:
            weight = np.maximum(count, 1.0) ** -power
            weight /= (weight * count).sum() / n
    elif rule == "logits":
        share = np.maximum(count, 1) / n
        least = 1 / (2 * n)  # of classes without clips, and of those that every clip has
        if targets.ndim == 2:
            offset = np.log(np.clip(share, least, None) / np.clip(1 - share, least, None))
        else:
            offset = np.log(share)

    def tensor(values: NDArray[np.float64] | None) -> Tensor | None:
        return None if values is None else torch.from_numpy(values.astype(np.float32)).to(device)

    return Balance(tensor(weight), tensor(offset))


def epoch_order(
    rng: np.random.Generator, targets: Targets, n_labels: int, rule: str
) -> NDArray[np.int64]:
    """Return the clips of an epoch in a drawn order, int64 (n,).

    As many as there are. Under sampling every class has an equal share of them, under
    root-sampling one in proportion to the root of its clips; a clip comes again only when all of
    its class have come as often. Of several labels, a clip counts as the rarest of its own.
    """
    n = len(targets)
    if rule not in ("sampling", "root-sampling"):
        return rng.permutation(n)
    kind = _rarest(targets, n_labels) if targets.ndim == 2 else targets.astype(np.int64)
    count = np.bincount(kind)
    share = np.where(count > 0, 1.0 if rule == "sampling" else np.sqrt(count), 0.0)
    share *= n / share.sum()
    wanted = np.floor(share).astype(np.int64)
    # what is left over goes to as many classes, drawn anew each epoch
    spare = n - int(wanted.sum())
    if spare:
        more = rng.choice(len(count), spare, replace=False, p=(share - wanted) / spare)
        wanted[more] += 1
    taken = []
    for label in np.flatnonzero(wanted):
        mine = np.flatnonzero(kind == label)
        rounds = [rng.permutation(mine) for _ in range(-(-int(wanted[label]) // len(mine)))]
        taken.append(np.concatenate(rounds)[: wanted[label]])
    return rng.permutation(np.concatenate(taken))


def _rarest(memberships: Targets, n_labels: int) -> NDArray[np.int64]:
    """Return the class of each clip that has the fewest clips; n_labels where it has none."""
    count = class_counts(memberships, n_labels)
    cost = np.where(memberships > 0, count, np.iinfo(np.int64).max)
    return np.where((memberships > 0).any(1), cost.argmin(1), n_labels)
