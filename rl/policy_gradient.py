"""Policies that are learnt themselves: REINFORCE, with and without baseline, and actor-critic
(Sutton & Barto, chapter 13)."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np

from rl.agents import Learner, Mask, Step, check_trace
from rl.choices import POLICY_UPDATES, Choices, Depth, Frequency, Lambda, OnPolicy
from rl.policies import Floats
from rl.traces import trace_of
from rl.values import Features, function_from_json, make_function

_USUAL: dict[str, tuple[Frequency, Depth]] = {
    "reinforce": ("episode", "episode"),
    "reinforce-with-baseline": ("episode", "episode"),
    "actor-critic": ("step", 1),
}


class PolicyGradient(Learner):
    """Learns preferences h(s, a); it acts with pi(a|s) proportional to exp(h(s, a)).

    A step moves h by `step_size * discount^t * advantage * grad ln pi(A|S)`, t its number in the
    episode. The advantage is

    - reinforce: the return;
    - reinforce-with-baseline: the return less V(S), V learnt beside;
    - actor-critic: a target of the chosen depth, which ends in V, less V(S).

    Args:
        n_actions: of every state; an environment's mask says which are legal.
        update, frequency, depth: see `rl.choices`; by default the textbook's for the update.
        step_size: of the preferences.
        value_step_size: of V, for all but `reinforce`.
        discount: of the return.
        features: x(s) for linear functions, with `n_features`; tables if None.
        seed: of the agent's generator.
    """

    def __init__(
        self,
        n_actions: int,
        *,
        update: OnPolicy = "actor-critic",
        frequency: Frequency | None = None,
        depth: Depth | None = None,
        visits: Literal["every", "first"] = "every",
        step_size: float = 0.1,
        value_step_size: float = 0.1,
        discount: float = 1.0,
        features: Features | None = None,
        n_features: int | None = None,
        seed: int = 0,
    ) -> None:
        if update not in POLICY_UPDATES:
            known = ", ".join(POLICY_UPDATES)
            raise ValueError(f"update={update!r} learns no policy; use one of: {known}.")
        usual = _USUAL[update]
        choices = Choices(
            update,
            usual[0] if frequency is None else frequency,
            usual[1] if depth is None else depth,
            visits,
        )
        super().__init__(choices, discount=discount, seed=seed)
        for name, size in (("step_size", step_size), ("value_step_size", value_step_size)):
            if callable(size) or size is None or not size > 0:
                raise ValueError(f"{name}={size} must be a number above 0.")
        self.n_actions = n_actions
        self.step_size = step_size
        # step sizes of tables end at 1; preferences are moved by `add`, which knows none
        self.preferences = make_function(n_actions, step_size=min(step_size, 1.0),
                                         features=features, n_features=n_features)  # fmt: skip
        self.v = make_function(1, step_size=value_step_size, features=features,
                               n_features=n_features)  # fmt: skip
        check_trace(choices, self.v)
        self._bind()

    def _bind(self) -> None:
        self.function = self.preferences
        self._actor_trace, self._critic_trace = trace_of(self.preferences), trace_of(self.v)

    def probabilities(self, observation: Any, legal: Mask = None) -> Floats:
        """Return pi(.|s), float64 (n_actions,)."""
        return np.array(self._shares(self.function.key(observation), legal))

    def greedy(self, observation: Any, legal: Mask = None) -> int:
        """Return the most probable action."""
        return int(self.probabilities(observation, legal).argmax())

    def _shares(self, state: Any, legal: Mask) -> list[float]:
        h = self.preferences.read(state)
        if legal is not None:
            h = [value if may else -math.inf for value, may in zip(h, legal, strict=True)]
        top = max(h)
        weights = [math.exp(value - top) for value in h]
        total = sum(weights)
        return [weight / total for weight in weights]

    def choose(self, state: Any, legal: Mask) -> int:
        shares = self._shares(state, legal)
        left = self.rng.random()
        for action, share in enumerate(shares):
            left -= share
            if left < 0:
                return action
        return max(range(len(shares)), key=shares.__getitem__)  # what rounding leaves

    def following(self, step: Step) -> float:
        return self.v.read(step.next_state)[0]

    def _gradient(self, step: Step, factor: float) -> list[float]:
        """Return `factor * (1 - pi(a|S) if a is A else -pi(a|S))` for every a: what grad ln pi
        does to each action's preference."""
        shares = self._shares(step.state, step.legal)
        return [factor * ((a == step.action) - share) for a, share in enumerate(shares)]

    def move(self, step: Step, target: float, t: int) -> None:
        advantage = target
        if self.choices.update != "reinforce":
            advantage -= self.v.read(step.state)[0]
            self.v.update(step.state, 0, target)
        factor = self.step_size * self.discount**t * advantage
        self.preferences.add(step.state, self._gradient(step, factor))

    def learn_by_trace(self, step: Step) -> None:
        depth = self.choices.depth
        assert isinstance(depth, Lambda)
        after = 0.0 if step.terminal else self.following(step)
        error = step.reward + self.discount * after - self.v.read(step.state)[0]
        self.trace_step(self._critic_trace, step, [1.0])
        gradient = self._gradient(step, self.discount ** (self._t - 1))
        self.trace_step(self._actor_trace, step, gradient)
        self._critic_trace.apply(self.v.step_size * error)  # type: ignore[operator]
        self._actor_trace.apply(self.step_size * error)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "n_actions": self.n_actions,
            "step_size": self.step_size,
            "preferences": self.preferences.to_json(),
            "v": self.v.to_json(),
            "traces": [self._actor_trace.to_json(), self._critic_trace.to_json()],
        }

    @classmethod
    def from_json(cls, made: dict[str, Any], *, features: Features | None = None) -> Self:
        """Return the agent that `to_json` wrote, given the features it had."""
        choices = Choices.from_json(made)
        again = cls(made["n_actions"], update=made["update"], frequency=choices.frequency,
                    depth=choices.depth, visits=choices.visits, step_size=made["step_size"],
                    discount=made["discount"])  # fmt: skip
        again.preferences = function_from_json(made["preferences"], again.n_actions, features)
        again.v = function_from_json(made["v"], 1, features)
        again._bind()
        again._actor_trace.restore(made["traces"][0])
        again._critic_trace.restore(made["traces"][1])
        again._restore(made)
        return again
