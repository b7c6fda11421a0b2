"""Prediction: V of a policy that is given, learnt from its episodes (Sutton & Barto, chapters 5 to
7, 9 and 12)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, Self

import numpy as np

from rl.agents import Learner, Mask, Step, check_trace, move_along
from rl.choices import Choices, Depth, Frequency
from rl.mdp import PolicyArray, policy_matrix
from rl.policies import Floats, Schedule
from rl.traces import trace_of
from rl.values import Features, function_from_json, make_function


class Prediction(Learner):
    """Learns V of a policy that is given: Monte Carlo, TD(0), n-step TD, TD(lambda).

    Args:
        policy: pi(a|s), (n_states, n_actions), or an action for each state; observations are
            then numbers of states.
        frequency, depth, visits: see `rl.choices`.
        step_size: a constant, a schedule of the visits to the state, or None for the average.
        discount: of the return.
        initial: V before anything is learnt.
        features: x(s) for a linear function, with `n_features`; a table if None.
        seed: of the generator that actions are drawn with.

    Raises:
        ValueError: choices that do not go together, or a policy whose rows are no probabilities.
    """

    def __init__(
        self,
        policy: PolicyArray,
        *,
        frequency: Frequency = "step",
        depth: Depth = 1,
        visits: Literal["every", "first"] = "every",
        step_size: float | Schedule | None = 0.1,
        discount: float = 1.0,
        initial: float = 0.0,
        features: Features | None = None,
        n_features: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(Choices("td", frequency, depth, visits), discount=discount, seed=seed)
        self.policy = np.asarray(policy)
        rows = policy_matrix(policy)
        self._drawn_below: list[list[float]] = np.cumsum(rows, axis=1).tolist()
        self.function = self.v = make_function(
            1, step_size=step_size, initial=initial, features=features, n_features=n_features
        )
        check_trace(self.choices, self.v)
        self._trace = trace_of(self.v)
        self._before = 0.0

    def choose(self, state: Any, legal: Mask) -> int:
        below, drawn = self._drawn_below[self.observed], self.rng.random()
        for action, edge in enumerate(below):
            if drawn < edge:
                return action
        return len(below) - 1

    def values(self, n_states: int) -> Floats:
        """Return V of states 0 to n_states - 1, float64 (n_states,)."""
        return np.array([self.v.read(self.v.key(s))[0] for s in range(n_states)])

    def following(self, step: Step) -> float:
        return self.v.read(step.next_state)[0]

    def visited(self, step: Step) -> Hashable:
        """Return the state: V is learnt from its first visit, whatever was done there."""
        return step.state  # type: ignore[no-any-return]

    def move(self, step: Step, target: float, t: int) -> None:
        self.v.update(step.state, 0, target)

    def learn_by_trace(self, step: Step) -> None:
        after = 0.0 if step.terminal else self.following(step)
        self._before = move_along(self, self._trace, self.v, step, 0, after, self._before)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "policy": self.policy.tolist(),
            "v": self.v.to_json(),
            "trace": self._trace.to_json(),
            "before": self._before,
        }

    @classmethod
    def from_json(cls, made: dict[str, Any], *, features: Features | None = None) -> Self:
        """Return the agent that `to_json` wrote, given the features it had."""
        choices = Choices.from_json(made)
        again = cls(np.array(made["policy"]), frequency=choices.frequency, depth=choices.depth,
                    visits=choices.visits, discount=made["discount"])  # fmt: skip
        again.function = again.v = function_from_json(made["v"], 1, features)
        again._trace = trace_of(again.v)
        again._trace.restore(made["trace"])
        again._before = made["before"]
        again._restore(made)
        return again
