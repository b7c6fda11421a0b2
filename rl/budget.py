"""Who searches, for how long, and how carefully."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

AgentName = Literal[
    "dyna-q-ucb", "dyna-q", "epsilon-greedy", "ucb", "thompson", "q-learning", "tpe", "random"
]
PrunerName = Literal["none", "median", "halving", "hyperband"]


#: How often the agents try a setting of their own accord, where that is not once. Where scores are
#: noisy dyna-q-ucb gains by a second look, and the others do not (docs/benchmarks.md).
OWN_TRIES = {"dyna-q-ucb": 2}


class BudgetError(ValueError):
    """A budget breaks a rule; the message gives the rule, the value and the remedy."""


@dataclass(frozen=True)
class SearchSettings:
    """How the search goes about it."""

    agent: AgentName = "dyna-q-ucb"
    """Who chooses: dyna-q learns a model of the score and plans in it, exploring at random, and
    dyna-q-ucb explores where the model is in doubt; epsilon-greedy, ucb and thompson are a bandit
    for each setting; q-learning keeps a table over the choices made; tpe and random are there to
    compare with."""
    trials: int | None = None
    """Trainings before the finals, the default setting's first. With no budget given there are
    100; of several, the one that is spent first ends the trials."""
    minutes: float | None = None
    """Time for the trials on the clock: at its end those under way stop after their epoch. The
    finals come on top."""
    training_seconds: float | None = None
    """Time for the trials, added up over the workers; kept to like minutes."""
    pruner: PrunerName = "none"
    """Who ends a trial early by its scores so far: median (below the median of the others at that
    epoch), halving (not in the best third after a ninth and a third of the epochs), hyperband
    (halving from several starts), or none. What a trial ended early would have come to is
    estimated from those that were not."""
    stop_epoch: int | None = None
    """End every trial after this epoch of its training and take its score there; the finals are
    trained in full."""
    trial_epochs: int | None = None
    """Epochs of a trial, if fewer than epochs: a shorter training with a schedule of its own. The
    finals are trained in full. Augmentation pays less in short trainings."""
    tries: int = 0
    """How often a setting may be tried, each time with another seed; 0 leaves it to the agent:
    dyna-q-ucb looks a second time at a setting where that is worth more than a first look at
    another, the others try each once."""
    cost_aware: bool = False
    """Prefer settings that train fast: dyna-q-ucb then goes by the improvement that it expects
    for each second of training."""
    workers: int = 0
    """Trainings at a time, each in a process of its own; 0 is one for each core (one in all, where
    a worker stacks and no cluster is given), 1 runs here."""
    stack: int = 1
    """Trials that a worker takes at once, for a GPU: those whose networks have one shape are
    trained side by side, the rest one by one. The agent then chooses so many settings before it
    hears of the first."""
    finalists: int = 4
    """Settings to train again; the default settings always take part beside them."""
    replicates: int = 4
    """Fresh seeds of the default and of the best two finalists; the others drop out halfway."""

    def __post_init__(self) -> None:
        least = {"trials": 1, "workers": 0, "stack": 1, "finalists": 1, "replicates": 1,
                 "stop_epoch": 1, "trial_epochs": 1}  # fmt: skip
        for name, at_least in least.items():
            value = getattr(self, name)
            if value is not None and value < at_least:
                raise BudgetError(f"{name}={value} is below its least value {at_least}; raise it.")
        for name in ("minutes", "training_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BudgetError(f"{name}={value} must be above 0; raise it.")
        for name in ("training_seconds", "cost_aware"):
            if self.stack > 1 and getattr(self, name):
                raise BudgetError(
                    f"{name} needs the time of each training, and those in a stack={self.stack} "
                    "share theirs; leave one of them out."
                )
        if self.tries < 0:
            raise BudgetError(f"tries={self.tries} must not be negative; 0 leaves it to the agent.")
        if self.tries and self.agent == "tpe":
            raise BudgetError(
                f"tries={self.tries}: agent=tpe tries a setting as often as it likes; leave tries "
                "out, or take another agent."
            )
        if self.cost_aware and self.agent != "dyna-q-ucb":
            raise BudgetError(
                f"cost_aware goes with agent=dyna-q-ucb, not {self.agent}; change one of them."
            )

    @property
    def tries_each(self) -> int:
        """How often a setting may be tried: as given, or as the agent has it."""
        return self.tries or OWN_TRIES.get(self.agent, 1)

    @property
    def workers_here(self) -> int:
        """Workers on this machine: as given, or one for each core, or one that stacks."""
        return self.workers or (len(os.sched_getaffinity(0)) if self.stack == 1 else 1)

    @property
    def most_trials(self) -> int | None:
        """Trials at most; None where time alone decides."""
        timed = self.minutes is not None or self.training_seconds is not None
        return 100 if self.trials is None and not timed else self.trials
