"""Values of states and actions: tables, learnt by averaging (Sutton & Barto, 2.4 and 6.5), and
functions that are linear in features (9.4).

Both give one number for each action of a state. A state value V is a Q with a single action, 0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from rl.policies import Floats, Schedule, from_json, to_json

Features = Callable[[Any], Floats]
"""x(s) of an observation, float64 (n_features,)."""


class ActionValues:
    """Q: a value and a count for every action of every state seen.

    `update` moves the value towards a target, `Q += step_size * (target - Q)`. Where `step_size`
    is None it is `1 / N`, the count of that action, which makes Q the average of its targets; a
    schedule is asked with N - 1, the updates before.

    >>> q = ActionValues(2)
    >>> for target in (1.0, 2.0, 6.0):
    ...     q.update("state", 0, target)
    >>> q.values("state").tolist(), q.counts("state").tolist()
    ([3.0, 0.0], [3.0, 0.0])
    """

    def __init__(
        self,
        n_actions: int | Callable[[Hashable], int],
        *,
        step_size: float | Schedule | None = None,
        initial: float = 0.0,
    ) -> None:
        if not (step_size is None or callable(step_size) or 0 < step_size <= 1):
            raise ValueError(f"step_size={step_size} must be above 0 and at most 1, or None.")
        self._n_actions = n_actions
        self.step_size = step_size
        self.initial = initial
        # plain lists: one number is read and written at a time, where arrays are slow
        self._rows: dict[Hashable, tuple[list[float], list[float]]] = {}

    def __contains__(self, state: object) -> bool:
        return state in self._rows

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _size(self, state: Hashable) -> int:
        return self._n_actions(state) if callable(self._n_actions) else self._n_actions

    def values(self, state: Hashable) -> Floats:
        """Return a copy of Q(state, .), float64; actions never taken have the initial value."""
        if state in self._rows:
            return np.array(self._rows[state][0])
        return np.full(self._size(state), self.initial)

    def counts(self, state: Hashable) -> Floats:
        """Return a copy of N(state, .): how often each action was updated, or its step was
        learnt from by a trace."""
        if state in self._rows:
            return np.array(self._rows[state][1])
        return np.zeros(self._size(state))

    def best(self, state: Hashable) -> float:
        """Return `max_a Q(state, a)` over the actions taken, or the initial value if none was."""
        if state not in self._rows:
            return self.initial
        q, n = self._rows[state]
        taken = (value for value, count in zip(q, n, strict=True) if count)
        return max(taken, default=self.initial)

    def update(self, state: Hashable, action: int, target: float) -> None:
        """Move Q(state, action) towards `target`."""
        q, n = self._row(state)
        n[action] += 1
        step_size = self.step_size
        if step_size is None:
            step_size = 1 / n[action]
        elif callable(step_size):
            step_size = step_size(int(n[action]) - 1)
        q[action] += step_size * (target - q[action])

    def _row(self, state: Hashable) -> tuple[list[float], list[float]]:
        row = self._rows.get(state)
        if row is None:
            size = self._size(state)
            row = self._rows[state] = [float(self.initial)] * size, [0.0] * size
        return row

    # What an agent asks of a function, be it this table or `Linear`.

    def key(self, observation: Any) -> Any:
        """Return what the table knows an observation by: arrays become tuples."""
        if isinstance(observation, np.ndarray):
            return tuple(observation.ravel().tolist())
        return observation

    def read(self, state: Hashable) -> list[float]:
        """Return Q(state, .) as the table holds it; not to be written to."""
        row = self._rows.get(state)
        return [self.initial] * self._size(state) if row is None else row[0]

    def add(self, state: Hashable, amounts: Sequence[float]) -> None:
        """Add `amounts` to the values of a state, one an action; counts stay."""
        q, _ = self._row(state)
        for action, amount in enumerate(amounts):
            q[action] += amount

    def count(self, state: Hashable, action: int) -> None:
        """Count a visit of an action whose value is moved otherwise than by `update`."""
        self._row(state)[1][action] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the table JSON-ready; tuples in states become lists."""
        return {
            "step_size": to_json(self.step_size) if callable(self.step_size) else self.step_size,
            "initial": self.initial,
            "rows": [
                {"state": thaw(state), "q": list(q), "n": list(n)}
                for state, (q, n) in self._rows.items()
            ],
        }

    @classmethod
    def from_json(
        cls, table: dict[str, Any], n_actions: int | Callable[[Hashable], int]
    ) -> ActionValues:
        """Return the table that `to_json` wrote; lists in states become tuples again."""
        step_size = table["step_size"]
        if isinstance(step_size, dict):
            step_size = from_json(step_size)
        made = cls(n_actions, step_size=step_size, initial=table["initial"])
        for row in table["rows"]:
            made._rows[freeze(row["state"])] = (
                [float(value) for value in row["q"]],
                [float(count) for count in row["n"]],
            )
        return made


class Linear:
    """Values that are linear in features of the state: `Q(s, a) = w_a . x(s)` (9.4).

    What the agent passes about as a state is x(s) itself, made once by `key`. A table is the
    special case with one feature for each state.

    Args:
        features: x(s) of an observation, float64 (n_features,).
        n_features: how many.
        n_actions: a row of weights for each; 1 for a state value.
        step_size: constant. It is not divided by the number of active features.

    >>> v = Linear(lambda s: np.array([1.0, s]), n_features=2, n_actions=1, step_size=0.5)
    >>> v.update(v.key(3.0), 0, target=2.0)
    >>> v.weights.tolist(), v.read(v.key(1.0))
    ([[1.0, 3.0]], [4.0])
    """

    def __init__(
        self,
        features: Features,
        *,
        n_features: int,
        n_actions: int,
        step_size: float = 0.1,
    ) -> None:
        if callable(step_size) or step_size is None or not step_size > 0:
            raise ValueError(
                f"step_size={step_size} of a linear function must be a number above 0: an average "
                "or a schedule would count updates, and one update moves every state's value."
            )
        self.features = features
        self.step_size = step_size
        self.weights: Floats = np.zeros((n_actions, n_features))

    def key(self, observation: Any) -> Any:
        """Return x(s), float64 (n_features,).

        Raises:
            ValueError: `features` gives another number of them.
        """
        x = np.asarray(self.features(observation), dtype=np.float64)
        if x.shape != self.weights.shape[1:]:
            raise ValueError(
                f"the features of {observation!r} have the shape {x.shape}; "
                f"n_features={self.weights.shape[1]} asks for {self.weights.shape[1:]}."
            )
        return x

    def values(self, x: Floats) -> Floats:
        """Return Q(s, .), float64 (n_actions,)."""
        return np.asarray(self.weights @ x)

    def read(self, x: Floats) -> list[float]:
        """Return Q(s, .) as a list."""
        made: list[float] = (self.weights @ x).tolist()
        return made

    def counts(self, x: Floats) -> Floats:
        """Return zeros: a function that generalises keeps no counts."""
        return np.zeros(len(self.weights))

    def update(self, x: Floats, action: int, target: float) -> None:
        """Move Q(s, action) towards `target`, along its gradient x(s) (semi-gradient, 9.3)."""
        row = self.weights[action]
        row += self.step_size * (target - float(row @ x)) * x

    def add(self, x: Floats, amounts: Sequence[float]) -> None:
        """Add `amounts[a] x(s)` to the weights of each action."""
        self.weights += np.outer(amounts, x)

    def count(self, x: Floats, action: int) -> None:
        """Do nothing: there are no counts."""

    def to_json(self) -> dict[str, Any]:
        """Return weights and step size JSON-ready; the features are code and not in it."""
        return {"step_size": self.step_size, "weights": self.weights.tolist()}

    @classmethod
    def from_json(cls, made: dict[str, Any], features: Features) -> Self:
        """Return the function that `to_json` wrote, given its features."""
        weights = np.array(made["weights"])
        n_actions, n_features = weights.shape
        again = cls(features, n_features=n_features, n_actions=n_actions,
                    step_size=made["step_size"])  # fmt: skip
        again.weights = weights
        return again


ValueFunction = ActionValues | Linear


def make_function(n_actions: int, *, step_size: float | Schedule | None, initial: float = 0.0,
                  features: Features | None = None,
                  n_features: int | None = None) -> ValueFunction:  # fmt: skip
    """Return a table, or a linear function where features are given.

    Raises:
        ValueError: only one of `features` and `n_features`, or what the function refuses.
    """
    if features is None and n_features is None:
        return ActionValues(n_actions, step_size=step_size, initial=initial)
    if features is None or n_features is None:
        raise ValueError("a linear function needs both features and n_features; give both.")
    if initial:
        raise ValueError(
            f"initial={initial} with features: weights begin at 0; put a constant feature in."
        )
    return Linear(features, n_features=n_features, n_actions=n_actions,
                  step_size=step_size)  # type: ignore[arg-type]  # fmt: skip


def function_from_json(
    made: dict[str, Any], n_actions: int, features: Features | None
) -> ValueFunction:
    """Return the table or linear function that was written.

    Raises:
        ValueError: it was linear and no features are given.
    """
    if "rows" in made:
        return ActionValues.from_json(made, n_actions)
    if features is None:
        raise ValueError("this agent was linear in features, which are code; give features=...")
    return Linear.from_json(made, features)


def thaw(state: Any) -> Any:
    """Return a state JSON-ready: tuples and arrays become lists."""
    if isinstance(state, np.ndarray | np.generic):
        return state.tolist()
    return [thaw(part) for part in state] if isinstance(state, tuple) else state


def freeze(state: Any) -> Any:
    """Return the state that `thaw` wrote: lists become tuples."""
    return tuple(freeze(part) for part in state) if isinstance(state, list) else state
