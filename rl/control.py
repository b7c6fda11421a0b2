"""Control: Q learnt while acting by it. SARSA, Expected SARSA, Q-learning, Double Q-learning, each
at any depth, down to Monte Carlo (Sutton & Barto, chapters 5 to 7 and 12)."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np

from rl.agents import Learner, Mask, Step, check_trace, move_along
from rl.choices import VALUE_UPDATES, Choices, Depth, Frequency, OnValues
from rl.confidence import UCB, Thompson
from rl.policies import EpsilonGreedy, Floats, Policy, Schedule, from_json, to_json
from rl.traces import trace_of
from rl.values import Features, function_from_json, make_function

_EXPLORING = EpsilonGreedy(0.1, unvisited="initial")


class Control(Learner):
    """Learns Q and acts by a policy on it.

    Which estimate ends a target, S' being the state after its last reward:

    - sarsa: `Q(S', A')`, A' the action that will be taken;
    - expected-sarsa: `sum_a pi(a|S') Q(S', a)`, pi the policy that acts;
    - q-learning: `max_a Q(S', a)`. A deeper target follows the actions taken only while they are
      greedy and ends where one explores (Watkins, 1989), so that it is the greedy policy that is
      learnt at any depth;
    - double-q-learning: two tables; one, by the flip of a coin, moves towards the other's value of
      its own greedy action, which removes the maximum's bias (van Hasselt, 2010).

    Args:
        n_actions: of every state; an environment's mask says which are legal.
        update, frequency, depth, visits: see `rl.choices`.
        policy: how an action follows from Q.
        step_size: a constant, a schedule of the updates of the pair, or None for the average.
        discount: of the return. -1 for two players that take turns at one agent.
        initial: Q before anything is learnt; high values explore ("optimistic", 2.6).
        features: x(s) for a linear function, with `n_features`; a table if None. The policy must
            be one that asks for no counts.
        seed: of the agent's generator.

    Raises:
        ValueError: choices that do not go together, or a policy that counts with features.

    >>> agent = Control(2, step_size=0.5)
    >>> _ = agent.start("S")
    >>> agent.step(8.0, "S'", terminal=True)
    -1
    >>> max(agent.q("S"))
    4.0
    """

    def __init__(
        self,
        n_actions: int,
        *,
        update: OnValues = "q-learning",
        frequency: Frequency = "step",
        depth: Depth = 1,
        visits: Literal["every", "first"] = "every",
        policy: Policy = _EXPLORING,
        step_size: float | Schedule | None = 0.1,
        discount: float = 1.0,
        initial: float = 0.0,
        features: Features | None = None,
        n_features: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(Choices(update, frequency, depth, visits), discount=discount, seed=seed)
        if update not in VALUE_UPDATES or update == "td":
            controls = ", ".join(VALUE_UPDATES[1:])
            raise ValueError(f"update={update!r} learns no Q; use one of: {controls}.")
        if features is not None and _counts(policy):
            raise ValueError(
                f"policy={policy} with features: it asks how often an action was taken, and a "
                "linear function keeps no counts; use Softmax, or EpsilonGreedy with "
                "unvisited='initial'."
            )
        self.n_actions = n_actions
        self.policy = policy
        # a plain list serves where no counts are asked for, at a tenth of the time
        self._fast = isinstance(policy, EpsilonGreedy) and policy.unvisited == "initial"
        self.functions = [
            make_function(
                n_actions, step_size=step_size, initial=initial, features=features,
                n_features=n_features,
            )
            for _ in range(2 if update == "double-q-learning" else 1)
        ]  # fmt: skip
        self._bind()
        check_trace(self.choices, self.function)
        self._before = 0.0

    def _bind(self) -> None:
        self.function = self._moved = self._judge = self.functions[0]
        self._plain = len(self.functions) == 1
        self._trace = trace_of(self.function)

    def q(self, observation: Any) -> list[float]:
        """Return Q(s, .), the mean of both tables where there are two."""
        return self._q(self.function.key(observation), None)

    def greedy(self, observation: Any, legal: Mask = None) -> int:
        """Return the action with the largest Q, the first of those that share it."""
        q = self._q(self.function.key(observation), legal)
        return q.index(max(q))

    def probabilities(self, observation: Any, legal: Mask = None) -> Floats:
        """Return pi(.|s) of the policy that acts, float64 (n_actions,)."""
        state = self.function.key(observation)
        return self._probabilities(state, self._q(state, legal), legal)

    def _q(self, state: Any, legal: Mask) -> list[float]:
        """Return Q(s, .) as a list in which illegal actions are -inf; not to be written to."""
        q = self.functions[0].read(state)
        if len(self.functions) == 2:
            q = [(a + b) / 2 for a, b in zip(q, self.functions[1].read(state), strict=True)]
        return q if legal is None else masked(q, legal)

    def _probabilities(self, state: Any, q: list[float], legal: Mask) -> Floats:
        return self.policy.probabilities(np.array(q), self._counts(state), self._may(legal),
                                         self.steps)  # fmt: skip

    def _counts(self, state: Any) -> Floats:
        counts = self.functions[0].counts(state)
        for other in self.functions[1:]:
            counts = counts + other.counts(state)
        return counts

    def _may(self, legal: Mask) -> Any:
        return np.ones(self.n_actions, bool) if legal is None else np.asarray(legal, bool)

    def choose(self, state: Any, legal: Mask) -> int:
        # the common case, less three calls
        q = self.function.read(state) if self._plain and legal is None else self._q(state, legal)
        if self._fast:
            return self.policy.choose(q, self.steps, self.rng)  # type: ignore[attr-defined,no-any-return]
        return self.policy.act(np.array(q), self._counts(state), self._may(legal), self.steps,
                               self.rng)  # fmt: skip

    def before_update(self) -> None:
        if len(self.functions) == 2:
            first = self.rng.random() < 0.5
            self._moved, self._judge = self.functions if first else self.functions[::-1]

    def following(self, step: Step) -> float:
        state, legal, update = step.next_state, step.next_legal, self.choices.update
        if update == "sarsa":
            return self.function.read(state)[step.next_action]  # type: ignore[index]
        if update == "expected-sarsa":
            return self._expected(state, legal)
        q = self._moved.read(state)
        if legal is not None:
            q = masked(q, legal)
        return max(q) if update == "q-learning" else self._judge.read(state)[q.index(max(q))]

    def _expected(self, state: Any, legal: Mask) -> float:
        q = self._q(state, legal)
        if not self._fast:
            p = self._probabilities(state, q, legal)
            return float(sum(share * value for share, value in zip(p, q, strict=True) if share))
        epsilon = self.policy.epsilon  # type: ignore[attr-defined]
        epsilon = epsilon(self.steps) if callable(epsilon) else epsilon
        may = q if legal is None else [value for value in q if value > -math.inf]
        return float(epsilon * sum(may) / len(may) + (1 - epsilon) * max(may))

    def carries(self, step: Step, after: Step) -> bool:
        if self.choices.update in ("sarsa", "expected-sarsa"):
            return True
        q = self._moved.read(after.state)
        if after.legal is not None:
            q = masked(q, after.legal)
        return q[after.action] == max(q)

    def move(self, step: Step, target: float, t: int) -> None:
        self._moved.update(step.state, step.action, target)

    def learn_by_trace(self, step: Step) -> None:
        if self.choices.update == "q-learning" and self._t > 1:
            q = self._q(step.state, step.legal)
            if q[step.action] < max(q):  # it explored: what came before has no part in what follows
                self._trace.clear()
        after = 0.0 if step.terminal else self.following(step)
        self._before = move_along(self, self._trace, self.function, step, step.action, after,
                                  self._before)  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "n_actions": self.n_actions,
            "policy": to_json(self.policy),
            "q": [function.to_json() for function in self.functions],
            "trace": self._trace.to_json(),
            "before": self._before,
        }

    @classmethod
    def from_json(cls, made: dict[str, Any], *, features: Features | None = None) -> Self:
        """Return the agent that `to_json` wrote, given the features it had."""
        again = cls(made["n_actions"], policy=from_json(made["policy"]),
                    discount=made["discount"])  # fmt: skip
        again._take(made, features)
        return again

    def _take(self, made: dict[str, Any], features: Features | None) -> None:
        self.choices = Choices.from_json(made)
        self._sort()
        self.functions = [function_from_json(q, self.n_actions, features) for q in made["q"]]
        self._bind()
        self._trace.restore(made["trace"])
        self._before = made["before"]
        self._restore(made)


def _counts(policy: Policy) -> bool:
    """Return whether the policy does something else where an action was never taken."""
    if isinstance(policy, EpsilonGreedy):
        return policy.unvisited == "first"
    return isinstance(policy, UCB | Thompson)


def masked(q: list[float], legal: Any) -> list[float]:
    """Return `q` with -inf for what is not legal."""
    return [value if may else -math.inf for value, may in zip(q, legal, strict=True)]
