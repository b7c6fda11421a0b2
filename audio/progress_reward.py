"""The reward of a segment: how much more the loss fell than was to be expected, on a fixed scale.

Both halves are after Graves et al. (2017), "Automated curriculum learning": progress of the loss as
the reward, scaled by quantiles of what was seen, since its size shrinks as the training goes on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass, field
from typing import Any

MEMORY = 0.85
"""What of an older segment counts one segment later: about seven set the expectation."""
WINDOW = 30
"""Segments that a reward is ranked among; older ones are of another stage."""
SMOOTHING = 0.6
"""How far the smoothed loss moves to each new one. With 1 a chance low of one segment is the next
one's loss: rewards of neighbours were correlated by -.28 on two corpora of docs/benchmarks.md, and
told the arms apart less well."""


@dataclass
class ProgressReward:
    """Keeps what the loss did so far.

    A loss falls by a share of itself that grows with the learning rate spent: `drop = speed * loss
    * sum of learning rates`. Expected is the speed of the last segments, older ones counting less,
    from the smoothed loss on; what a segment did beyond it is ranked among the last ones: 1 is the
    best of them, -1 the worst.

    >>> reward = ProgressReward(smoothing=1.0)
    >>> reward.start(2.0)
    >>> [reward.after(loss, 1.0) for loss in (1.6, 1.28, 0.64, 0.64)]
    [0.0, 0.0, 0.5, -0.6666666666666667]
    """

    smoothing: float = SMOOTHING
    loss: float | None = None
    """The probe's at the end of the last segment, smoothed."""
    drop: float = 0.0
    effort: float = 0.0
    advantages: list[float] = field(default_factory=list)

    def start(self, loss: float) -> None:
        """Take the loss before the first step."""
        self.loss = loss

    def after(self, loss: float, rate: float) -> float:
        """Return the reward of a segment, in [-1, 1].

        loss: the probe's at its end. rate: the sum of its learning rates.
        """
        assert self.loss is not None
        effort = max(rate * max(self.loss, 1e-6), 1e-12)
        first = not self.effort
        expected = loss if first else self.loss - self.drop / self.effort * effort
        beyond = (expected - loss) / effort
        smoothed = expected + self.smoothing * (loss - expected)
        self.drop = MEMORY * self.drop + self.loss - smoothed
        self.effort = MEMORY * self.effort + effort
        self.loss = smoothed
        if first:  # there was nothing to expect: it sets the measure and tells of no arm
            return 0.0
        self.advantages = [*self.advantages, beyond][-WINDOW:]
        return rank(beyond, self.advantages)

    def to_json(self) -> dict[str, Any]:
        """Return the state JSON-ready."""
        return asdict(self)


def rank(value: float, among: list[float]) -> float:
    """Return the middle rank of a value that is among others, from -1 to 1.

    >>> rank(2.0, [1.0, 2.0, 3.0]), rank(1.0, [1.0])
    (0.0, 0.0)
    """
    ordered = sorted(among)
    middle = (bisect_left(ordered, value) + bisect_right(ordered, value)) / 2
    return 2 * middle / len(ordered) - 1
