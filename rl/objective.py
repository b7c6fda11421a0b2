"""What a search asks for: something that trains with a setting and says what came of it.

`rl` does not know what is trained. The objective is handed in, and tells the score after each
epoch, so that a trial can be ended early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rl.space import Setting

Stop = Callable[[], bool]


class Report(Protocol):
    """Hears a training's score after each epoch."""

    def wants(self) -> bool:
        """Return whether the score after the epoch that ends now is of use to anybody. Where it
        is not, NaN may be told in its place; who does not ask tells every score."""
        ...

    def __call__(self, score: float) -> bool:
        """Hear the score; return whether the training ends here."""
        ...


class Stopped(Exception):
    """Raised by an objective that gives up because `stop()` became true."""


@dataclass(frozen=True)
class TrialResult:
    """What training with one setting brought."""

    score: float
    """The reward, larger is better; measured on validation data."""
    seconds: float
    """Time it took."""
    curve: list[float] = field(default_factory=list)
    """The score after each epoch; NaN where it was not asked for."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping, JSON-ready; names that a search has a use for itself
    (`rl.workers.RESERVED`) are left out."""


@dataclass(frozen=True)
class Job:
    """A training that is asked for: the arguments of an objective."""

    values: Setting
    seed: int
    report: Report


class Objective(Protocol):
    """Trains with a setting. It must be picklable; a method `prepare()`, where it has one, is
    called once in each worker's process, before the first training. Where it has a method
    `block(seed)`, that says on which of several sets of validation clips a training is scored
    (None: there is one set), so that their difference can be taken off. Where it has a method
    `many(jobs, stop)`, that does several trainings and yields, whenever some have ended together,
    what came of them by their numbers, a `TrialResult` or an exception each; where no more is taken
    from it, the rest shall not be done."""

    @property
    def epochs(self) -> int:
        """Epochs of a whole training, after each of which it reports."""
        ...

    def __call__(self, values: Setting, seed: int, stop: Stop, report: Report) -> TrialResult:
        """Return the score of `values`.

        Args:
            stop: asked often; once it is true, give up soon (return, or raise `Stopped`): what is
                returned after that is thrown away.
            report: to be told the score after each epoch; where it answers true, end the training
                there and return what it came to.
        """
        ...
