"""How one batch is varied: every clip by the same settings, or each by an operation of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from audio.arms import OPERATIONS, all_off
from audio.settings import AugmentationSettings

Draw = TypeVar("Draw", bound=Any)


@dataclass(frozen=True)
class Variation:
    """What a batch is varied by.

    settings: what the draws are made with. chosen: for each clip, int64 (batch,), which of `names`
    it gets; len(names) is none of them. None leaves every clip all that was drawn for it.
    """

    settings: AugmentationSettings
    chosen: NDArray[np.int64] | None = None
    names: Sequence[str] = ()

    def of(self, draw: Draw) -> Draw:
        """Return a draw (of waveforms or spectrograms) in which each clip keeps its own operation
        and is spared the others."""
        if self.chosen is None:
            return draw
        have = {spec.name for spec in fields(draw)}
        changed = {}
        for number, name in enumerate(self.names):
            operation = OPERATIONS[name]
            if operation.drawn in have:
                drawn = getattr(draw, operation.drawn)
                mine = (self.chosen == number).reshape(-1, *[1] * (drawn.ndim - 1))
                changed[operation.drawn] = np.where(mine, drawn, operation.still)
        return replace(draw, **changed)


def one_each(
    base: AugmentationSettings, names: Sequence[str] = tuple(OPERATIONS)
) -> AugmentationSettings:
    """Return settings with all the named operations on and every other off."""
    values: dict[str, Any] = all_off()
    for name in names:
        values |= OPERATIONS[name].values
    return replace(base, **values)


def draw_emphasised(
    rng: np.random.Generator,
    settings: AugmentationSettings,
    batch: int,
    *,
    arm: int,
    emphasis: float,
) -> Variation:
    """Return `draw_one_each` with a preference: each clip gets operation number `arm` with chance
    `emphasis`, else one of all, none among them, evenly."""
    names = tuple(OPERATIONS)
    even = rng.integers(len(names) + 1, size=batch)
    return Variation(settings, np.where(rng.random(batch) < emphasis, arm, even), names)


def draw_one_each(
    rng: np.random.Generator,
    settings: AugmentationSettings,
    batch: int,
    names: Sequence[str] = tuple(OPERATIONS),
) -> Variation:
    """Return TrivialAugment's rule for a batch (Müller & Hutter, 2021): each clip gets one
    operation or none, all equally likely; its strength is drawn evenly when it is applied.

    settings: what `one_each` gave.
    """
    return Variation(settings, rng.integers(len(names) + 1, size=batch), names)
