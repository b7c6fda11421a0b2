"""From action values to an action: greedy, epsilon-greedy, softmax (Sutton & Barto, chapter 2).

A policy gives the probability of every action, and draws one of them with an
`rng` handed in. `q` are the values, `n` how often each action was taken, `legal`
which of them may be taken, `step` how many decisions (trials) came before.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, cast

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Schedule = Callable[[int], float]
Drawer = Callable[[np.random.Generator], int]


@dataclass(frozen=True)
class Constant:
    """The same value at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` at step 0 to `end` at `steps`, and `end` after it."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        share = min(1.0, step / self.steps)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Exponential:
    """A decay from `start` towards `end`, half way after every `half_life` steps."""

    start: float
    end: float
    half_life: float

    def __call__(self, step: int) -> float:
        return float(self.end + (self.start - self.end) * 0.5 ** (step / self.half_life))


@dataclass(frozen=True)
class RandomThen:
    """1 for the first `n_random` steps, then `value`."""

    n_random: int
    value: float

    def __call__(self, step: int) -> float:
        return 1.0 if step < self.n_random else self.value


@dataclass(frozen=True)
class Power:
    """`start / (step + 1) ** power`: as a step size, with 0.5 < power <= 1, one with which
    estimates converge (Sutton & Barto, 2.7)."""

    start: float = 1.0
    power: float = 1.0

    def __call__(self, step: int) -> float:
        return float(self.start / (step + 1) ** self.power)


class Policy(Protocol):
    """What every policy answers."""

    def probabilities(self, q: Floats, n: Floats, legal: Bools, step: int) -> Floats:
        """Return the probability of every action; they sum to 1, illegal ones have 0."""
        ...

    def act(self, q: Floats, n: Floats, legal: Bools, step: int, rng: np.random.Generator) -> int:
        """Return an action drawn with these probabilities."""
        ...

    def drawer(self, q: Floats, n: Floats, legal: Bools, step: int) -> Drawer:
        """Return what draws action after action as `act` does, with the same numbers of `rng`."""
        ...


def drawer(policy: Policy, q: Floats, n: Floats, legal: Bools, step: int) -> Drawer:
    """Return what draws actions with the policy's probabilities, which are worked out once."""
    # as rng.choice(p=...) draws, less its checks, which take longer than the rest
    total = policy.probabilities(q, n, legal, step).cumsum()
    total /= total[-1]
    return lambda rng: int(total.searchsorted(rng.random(), side="right"))


class Drawing:
    """How a policy acts that says its probabilities."""

    @abstractmethod
    def probabilities(self, q: Floats, n: Floats, legal: Bools, step: int) -> Floats: ...

    def act(self, q: Floats, n: Floats, legal: Bools, step: int, rng: np.random.Generator) -> int:
        """Return an action drawn with these probabilities."""
        return self.drawer(q, n, legal, step)(rng)

    def drawer(self, q: Floats, n: Floats, legal: Bools, step: int) -> Drawer:
        """Return what draws such actions."""
        return drawer(self, q, n, legal, step)


class Values(Protocol):
    """What `Drawers` asks of a table."""

    def values(self, state: Any) -> Floats: ...

    def counts(self, state: Any) -> Floats: ...


class Drawers:
    """What `drawer` returned for each state of a table, which does not change meanwhile.

    An agent that looks for a setting not tried yet draws at each of its knobs again and again.
    """

    def __init__(self, policy: Policy, table: Values) -> None:
        self.policy, self.table = policy, table
        self._step = 0
        self._kept: dict[tuple[Any, bytes, int], Drawer] = {}

    def get(self, state: Any, legal: Bools, step: int) -> Drawer:
        """Return the drawer of a state; those of an earlier step are forgotten."""
        if step != self._step:
            self._kept.clear()
            self._step = step
        at = state, legal.tobytes(), step  # other threads may be at another step
        made = self._kept.get(at)
        if made is None:
            q, n = self.table.values(state), self.table.counts(state)
            self._kept[at] = made = self.policy.drawer(q, n, legal, step)
        return made


def greedy_actions(q: Floats, n: Floats, legal: Bools, unvisited: str = "initial") -> Bools:
    """Return which actions are greedy: all that share the largest value.

    Args:
        unvisited: what an action never taken counts as. `first`: better than any that was taken;
            `initial`: the initial value that `q` holds; `last`: worse than any that was taken.

    Raises:
        ValueError: no action is legal.
    """
    if not legal.any():
        raise ValueError("no action is legal; a state needs at least one.")
    fresh = legal & (n == 0)
    if unvisited == "first" and fresh.any():
        return np.asarray(fresh)
    if unvisited == "last" and not fresh[legal].all():
        legal = legal & ~fresh
    return np.asarray(legal & (q == q[legal].max()))


@dataclass(frozen=True)
class EpsilonGreedy(Drawing):
    """Any legal action with probability epsilon, else a greedy one (Sutton & Barto, 2.2).

    Greedy actions share their part equally, so ties are broken at random.
    """

    epsilon: float | Schedule = 0.1
    """Probability of exploring, or a schedule of it: a function of the step."""
    unvisited: Literal["first", "initial", "last"] = "first"
    """What an action never taken counts as; see `greedy_actions`."""

    def __post_init__(self) -> None:
        if not callable(self.epsilon) and not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon={self.epsilon} is no probability; take one from 0 to 1.")
        if self.unvisited not in ("first", "initial", "last"):
            raise ValueError(f"unvisited={self.unvisited!r} is not one of: first, initial, last.")

    def probabilities(self, q: Floats, n: Floats, legal: Bools, step: int) -> Floats:
        """Return `epsilon / |legal| + (1 - epsilon) / |greedy|` for the greedy actions."""
        epsilon = self.epsilon(step) if callable(self.epsilon) else self.epsilon
        best = greedy_actions(q, n, legal, self.unvisited)
        return np.asarray(epsilon * legal / legal.sum() + (1 - epsilon) * best / best.sum())

    def choose(self, q: list[float], step: int, rng: np.random.Generator) -> int:
        """Return an action drawn with the same probabilities, ten times as fast: from a list in
        which illegal actions are -inf, with unvisited actions at their initial value."""
        epsilon = self.epsilon(step) if callable(self.epsilon) else self.epsilon
        best = max(q)
        if rng.random() < epsilon:
            among = range(len(q)) if min(q) > -math.inf else _where(q, lambda v: v > -math.inf)
        elif q.count(best) == 1:
            return q.index(best)
        else:
            among = _where(q, lambda v: v == best)
        return among[int(rng.random() * len(among))]


def _where(q: list[float], holds: Callable[[float], bool]) -> Sequence[int]:
    return [action for action, value in enumerate(q) if holds(value)]


#: Never explores, and takes what was never tried only where nothing was.
GREEDY = EpsilonGreedy(epsilon=0.0, unvisited="last")


@dataclass(frozen=True)
class Softmax(Drawing):
    """Each action with probability proportional to `exp(q / temperature)` (Sutton & Barto, 2.8)."""

    temperature: float | Schedule = 1.0
    """Large is random, small is greedy; or a schedule of it."""

    def probabilities(self, q: Floats, n: Floats, legal: Bools, step: int) -> Floats:
        """Return the Gibbs distribution over the legal actions."""
        temperature = self.temperature(step) if callable(self.temperature) else self.temperature
        if temperature <= 0:
            raise ValueError(f"temperature={temperature} must be above 0; raise it.")
        weights = np.where(legal, np.exp((q - q[legal].max()) / temperature), 0.0)
        return np.asarray(weights / weights.sum())


def own_generator(seed: int) -> np.random.Generator:
    """Return the generator of an agent with this seed: another one than a world of the same seed
    has, or actions and rewards would be drawn with the same numbers."""
    return np.random.default_rng([0xA6E47, seed])


def to_json(policy: Any) -> dict[str, Any]:
    """Return a policy or schedule JSON-ready: its name and its fields.

    >>> to_json(EpsilonGreedy(Linear(1.0, 0.1, 50), unvisited="initial"))["epsilon"]
    {'name': 'Linear', 'start': 1.0, 'end': 0.1, 'steps': 50}

    Raises:
        ValueError: it is none of those of `rl.policies` and `rl.confidence`.
    """
    if type(policy).__name__ not in _named() or not isinstance(
        policy, _named()[type(policy).__name__]
    ):
        raise ValueError(
            f"{policy!r} cannot be written as JSON; use one of: {', '.join(sorted(_named()))}."
        )
    made: dict[str, Any] = {"name": type(policy).__name__}
    for each in fields(cast(Any, policy)):
        value = getattr(policy, each.name)
        made[each.name] = to_json(value) if callable(value) else value
    return made


def from_json(made: dict[str, Any]) -> Any:
    """Return the policy or schedule that `to_json` wrote.

    Raises:
        ValueError: it names none.
    """
    name = made.get("name")
    if name not in _named():
        raise ValueError(
            f"there is no policy or schedule {name!r}; there are: {', '.join(sorted(_named()))}."
        )
    given = {key: value for key, value in made.items() if key != "name"}
    return _named()[name](
        **{k: from_json(v) if isinstance(v, dict) else v for k, v in given.items()}
    )


def _named() -> dict[str, type]:
    from rl.confidence import UCB, Thompson  # which itself is built on this module

    known = (Constant, Linear, Exponential, RandomThen, Power, EpsilonGreedy, Softmax, UCB)
    return {each.__name__: each for each in (*known, Thompson)}
