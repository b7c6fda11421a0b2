"""Agents that learn a model of the world and plan with it: Dyna-Q and prioritised sweeping
(Sutton & Barto, 8.2 and 8.4)."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Any, Literal, Self

from rl.agents import Step
from rl.control import Control
from rl.policies import from_json
from rl.values import Features, freeze, thaw

Pair = tuple[Hashable, int]


class Model:
    """What followed each pair of state and action: how often which state, and the mean reward.

    Args:
        memory: `counts` keeps all that followed, for worlds of chance; `last` only what followed
            last, as in the textbook, for worlds that change.
    """

    def __init__(self, memory: Literal["counts", "last"] = "counts") -> None:
        if memory not in ("counts", "last"):
            raise ValueError(f"memory={memory!r} is not one of: counts, last.")
        self.memory = memory
        self.pairs: list[Pair] = []
        """Every pair met, in order."""
        # pair -> {(next state, terminal, what is legal there): [count, mean reward]}
        self._seen: dict[Pair, dict[tuple[Any, bool, Any], list[float]]] = {}
        self._before: dict[Hashable, dict[Pair, None]] = {}

    def observe(self, step: Step) -> None:
        """Take note of a step."""
        pair = (step.state, step.action)
        if pair not in self._seen:
            self.pairs.append(pair)
            self._seen[pair] = {}
        elif self.memory == "last":
            self._seen[pair].clear()
        legal = None if step.next_legal is None else tuple(step.next_legal)
        seen = self._seen[pair].setdefault((step.next_state, step.terminal, legal), [0.0, 0.0])
        seen[0] += 1
        seen[1] += (step.reward - seen[1]) / seen[0]
        self._before.setdefault(step.next_state, {})[pair] = None

    def outcomes(self, pair: Pair) -> list[tuple[float, Step]]:
        """Return what may follow a pair: (probability, step)."""
        seen = self._seen[pair]
        total = sum(count for count, _ in seen.values())
        return [
            (count / total, Step(*pair, reward, state, None, terminal, None, legal))
            for (state, terminal, legal), (count, reward) in seen.items()
        ]

    def imagine(self, rng: Any) -> Step:
        """Return a step from a pair met before, drawn, and one of its outcomes by their counts."""
        pair = self.pairs[int(rng.random() * len(self.pairs))]
        seen = self._seen[pair]
        drawn = next(iter(seen))
        if len(seen) > 1:
            left = rng.random() * sum(count for count, _ in seen.values())
            for drawn, (count, _) in seen.items():  # noqa: B007
                left -= count
                if left < 0:
                    break
        state, terminal, legal = drawn
        return Step(*pair, seen[drawn][1], state, None, terminal, None, legal)

    def before(self, state: Hashable) -> list[Pair]:
        """Return the pairs that were seen to lead to `state`."""
        return list(self._before.get(state, ()))

    def to_json(self) -> dict[str, Any]:
        """Return the model JSON-ready."""
        return {
            "memory": self.memory,
            "pairs": [
                [thaw(s), a, [[thaw(key), seen] for key, seen in self._seen[s, a].items()]]
                for s, a in self.pairs
            ],
            # its own, for the order in which predecessors were met
            "before": [
                [thaw(state), [thaw(pair) for pair in pairs]]
                for state, pairs in self._before.items()
            ],
        }

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> Model:
        """Return the model that `to_json` wrote."""
        again = cls(made["memory"])
        for state, action, outcomes in made["pairs"]:
            pair = (freeze(state), action)
            again.pairs.append(pair)
            again._seen[pair] = {freeze(key): list(seen) for key, seen in outcomes}
        again._before = {
            freeze(state): {freeze(pair): None for pair in pairs} for state, pairs in made["before"]
        }
        return again


class DynaQ(Control):
    """Learns from every step, then `planning` times from steps that its model imagines.

    Args:
        n_actions: of every state.
        planning: imagined steps for each real one; 0 learns from real ones alone.
        memory: of the model; see `Model`.
        update: `q-learning`, `expected-sarsa` or `double-q-learning`.
        more: as `Control` has them, without `frequency` and `depth`: an imagined step has no
            successor, so targets are one step deep.
    """

    def __init__(
        self,
        n_actions: int,
        *,
        planning: int = 5,
        memory: Literal["counts", "last"] = "counts",
        **more: Any,
    ) -> None:
        if refused := sorted({"frequency", "depth", "visits"} & set(more)):
            raise ValueError(
                f"{refused[0]}={more[refused[0]]!r} with a model: an imagined step has no "
                "successor, so learning is one step deep at every step; leave it out."
            )
        if more.get("update") == "sarsa":
            raise ValueError(
                "update='sarsa' with a model: an imagined step has no next action; use "
                "'expected-sarsa', which averages over it."
            )
        if more.get("features") is not None:
            raise ValueError("features with a model: the model is a table; leave features out.")
        if planning < 0:
            raise ValueError(f"planning={planning} must not be below 0; raise it.")
        super().__init__(n_actions, **more)
        self.planning = planning
        self.model = Model(memory)

    def learn(self, step: Step, ended: bool) -> None:
        super().learn(step, ended)
        self.model.observe(step)
        for _ in range(self.planning):
            imagined = self.model.imagine(self.rng)
            self.before_update()
            self.move(imagined, self._one_step_target(imagined), 0)

    def _one_step_target(self, step: Step) -> float:
        return step.reward + (0.0 if step.terminal else self.discount * self.following(step))

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"planning": self.planning, "model": self.model.to_json()}

    @classmethod
    def from_json(cls, made: dict[str, Any], *, features: Features | None = None) -> Self:
        """Return the agent that `to_json` wrote."""
        again = cls(made["n_actions"], planning=made["planning"], update=made["update"],
                    policy=from_json(made["policy"]), discount=made["discount"])  # fmt: skip
        again._take(made, None)
        again.model = Model.from_json(made["model"])
        return again


class PrioritisedSweeping(DynaQ):
    """Plans where it changes most: after each step, up to `planning` backups of the pairs with the
    largest errors, from the step's own backwards (Moore & Atkeson, 1993).

    A backup is the expectation over all that the model has seen to follow the pair.

    Args:
        least: errors up to this are not worth a backup.
        more: as `DynaQ` has them, for `q-learning` and `expected-sarsa`; `planning` from 1.
    """

    def __init__(self, n_actions: int, *, least: float = 1e-4, **more: Any) -> None:
        if more.get("update") == "double-q-learning":
            raise ValueError(
                "update='double-q-learning' with prioritised sweeping: an error is of one table; "
                "use 'q-learning' or 'expected-sarsa'."
            )
        if more.get("planning") == 0:
            raise ValueError(
                "planning=0 with prioritised sweeping: a step is learnt from by the first backup "
                "that it plans; give 1 or more, or use DynaQ."
            )
        super().__init__(n_actions, **more)
        self.least = least
        self._queue: list[tuple[float, int, Pair]] = []
        self._waiting: dict[Pair, float] = {}
        self._entered = 0

    def learn(self, step: Step, ended: bool) -> None:
        self.model.observe(step)
        self._enter((step.state, step.action))
        for _ in range(self.planning):
            pair = self._take_first()
            if pair is None:
                break
            state, action = pair
            self.function.update(state, action, self._expected_target(pair))  # type: ignore[arg-type]
            for before in self.model.before(state):
                self._enter(before)

    def _expected_target(self, pair: Pair) -> float:
        return sum(p * self._one_step_target(step) for p, step in self.model.outcomes(pair))

    def _enter(self, pair: Pair) -> None:
        state, action = pair
        error = abs(self._expected_target(pair) - self.function.read(state)[action])  # type: ignore[arg-type]
        if error > self.least and error > self._waiting.get(pair, 0.0):
            self._waiting[pair] = error
            self._entered += 1
            heapq.heappush(self._queue, (-error, self._entered, pair))

    def _take_first(self) -> Pair | None:
        while self._queue:
            error, _, pair = heapq.heappop(self._queue)
            if self._waiting.get(pair) == -error:  # else entered again since, with a larger error
                del self._waiting[pair]
                return pair
        return None

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "least": self.least,
            "entered": self._entered,
            "queue": [[error, at, thaw(pair)] for error, at, pair in self._queue],
            "waiting": [[thaw(pair), error] for pair, error in self._waiting.items()],
        }

    @classmethod
    def from_json(cls, made: dict[str, Any], *, features: Features | None = None) -> Self:
        """Return the agent that `to_json` wrote."""
        again = super().from_json(made)
        again.least, again._entered = made["least"], made["entered"]
        again._queue = [(error, at, freeze(pair)) for error, at, pair in made["queue"]]
        again._waiting = {freeze(pair): error for pair, error in made["waiting"]}
        return again
