"""Eligibility traces: how much each value, or preference, is to be credited with what comes next
(Sutton & Barto, 12.2).

`z` has an entry for every entry of the function it belongs to. It is a dict for a
table, of which most is zero, and an array for a linear function.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rl.policies import Floats
from rl.values import ActionValues, Linear, ValueFunction, freeze, thaw

#: Entries below this are dropped from a table's trace: at discount * lambda = .9 after 260 steps.
NEGLIGIBLE = 1e-12


class TableTrace:
    """The trace of a table: {(state, action): z}."""

    def __init__(self, table: ActionValues) -> None:
        self._table = table
        self._z: dict[tuple[Hashable, int], float] = {}

    def decay(self, factor: float) -> None:
        """`z *= factor`."""
        if factor == 0:
            self._z.clear()
            return
        self._z = {
            at: factor * z for at, z in self._z.items() if abs(factor * z) > NEGLIGIBLE
        }  # fmt: skip

    def add(self, state: Hashable, amounts: Sequence[float]) -> None:
        """`z(state, a) += amounts[a]`."""
        for action, amount in enumerate(amounts):
            if amount:
                at = (state, action)
                self._z[at] = self._z.get(at, 0.0) + amount

    def replace(self, state: Hashable, action: int) -> None:
        """`z(state, action) = 1`."""
        self._z[state, action] = 1.0

    def along(self, state: Hashable, action: int) -> float:
        """Return `z . x`, x the gradient of the value of this action."""
        return self._z.get((state, action), 0.0)

    def apply(self, amount: float) -> None:
        """Move the table along the trace: `w += amount * z`."""
        for (state, action), z in self._z.items():
            row, _ = self._table._row(state)
            row[action] += amount * z

    def clear(self) -> None:
        self._z.clear()

    def to_json(self) -> Any:
        return [[thaw(state), action, z] for (state, action), z in self._z.items()]

    def restore(self, made: Any) -> None:
        """Take the entries that `to_json` wrote."""
        self._z = {(freeze(state), action): z for state, action, z in made}


class LinearTrace:
    """The trace of a linear function: an array of the weights' shape."""

    def __init__(self, function: Linear) -> None:
        self._function = function
        self._z: Floats = np.zeros_like(function.weights)

    def decay(self, factor: float) -> None:
        """`z *= factor`."""
        self._z *= factor

    def add(self, x: Floats, amounts: Sequence[float]) -> None:
        """`z_a += amounts[a] x`."""
        self._z += np.outer(amounts, x)

    def replace(self, x: Floats, action: int) -> None:
        raise ValueError(
            "replacing traces are defined for tables, where a feature is on or off; use "
            "trace='accumulating' or 'dutch' with a linear function."
        )

    def along(self, x: Floats, action: int) -> float:
        """Return `z . x`, x the gradient of the value of this action."""
        return float(self._z[action] @ x)

    def apply(self, amount: float) -> None:
        """Move the weights along the trace: `w += amount * z`."""
        self._function.weights += amount * self._z

    def clear(self) -> None:
        self._z[:] = 0.0

    def to_json(self) -> Any:
        return self._z.tolist()

    def restore(self, made: Any) -> None:
        """Take the entries that `to_json` wrote."""
        self._z = np.array(made)


Trace = TableTrace | LinearTrace


def trace_of(function: ValueFunction) -> Trace:
    """Return the empty trace of a function."""
    return LinearTrace(function) if isinstance(function, Linear) else TableTrace(function)
