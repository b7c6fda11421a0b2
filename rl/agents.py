"""Agents that learn by acting: the loop they all live in, and when and from what they learn.

    for each episode:
        S = first state;  A = the agent's action
        while the episode lasts:
            R, S' = what the environment answers to A
            the agent learns from (S, A, R, S') and gives its next action A'

`run` is that loop. `Learner` keeps the steps whose targets are not known yet and,
as often as `frequency` says, moves values towards targets that look as far ahead as
`depth` says (Sutton & Barto, chapters 5 to 7 and 12). Every target is a case of
`rl.targets.compound`. What is moved is a subclass's to say: V of a given policy in
`rl.prediction`, Q in `rl.control`, a policy in `rl.policy_gradient`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from rl.choices import Choices, Lambda
from rl.policies import Floats, own_generator
from rl.targets import compound
from rl.traces import Trace
from rl.values import Linear, ValueFunction, freeze, thaw

Mask = Sequence[bool] | None
"""Which actions are legal; None for all."""


class Step(NamedTuple):
    """One step of experience: S, A, R, S', and A' where it was chosen before learning; with what
    was legal in S and is in S'."""

    state: Any
    action: int
    reward: float
    next_state: Any
    next_action: int | None
    terminal: bool
    legal: Mask = None
    next_legal: Mask = None


@dataclass(frozen=True)
class Run:
    """What a run through an environment gave, an entry an episode."""

    returns: Floats
    """Sum of rewards, without a discount, float64 (n_episodes,)."""
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    """Steps, int64 (n_episodes,)."""


def run(agent: Learner, environment: Any, *, episodes: int, seed: int | None = None) -> Run:
    """Let the agent act in a Gymnasium environment and learn; returns what it got.

    Args:
        seed: episode number k of the agent's life is reset with (seed, k), so a run goes on from a
            restored agent as it would have. None resets without a seed.
    """
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    for k in range(episodes):
        at = None if seed is None else _episode_seed(seed, agent.episodes)
        state, info = environment.reset(seed=at)
        action = agent.start(state, info.get("action_mask"))
        ended, total, length = False, 0.0, 0
        while not ended:
            state, reward, terminal, truncated, info = environment.step(action)
            action = agent.step(
                reward, state, terminal=terminal, truncated=truncated, legal=info.get("action_mask")
            )
            ended = terminal or truncated
            total += reward
            length += 1
        returns[k], lengths[k] = total, length
    return Run(returns, lengths)


def _episode_seed(seed: int, episode: int) -> int:
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


class Learner(ABC):
    """What all agents share: when to learn, from which steps, and towards what.

    A subclass says which action to take, what the state after a step is worth, whether what
    follows it counts, and what a target moves.
    """

    choices: Choices
    discount: float
    function: ValueFunction
    """What turns observations into states."""

    def __init__(self, choices: Choices, *, discount: float, seed: int) -> None:
        # -1: the state after a move is the other player's (rl.tictactoe)
        if not -1 <= discount <= 1:
            raise ValueError(f"discount={discount} must be from -1 to 1.")
        self.choices = choices
        self.discount = discount
        self.rng = own_generator(seed)
        self.steps = 0
        """Steps learnt from, in all episodes."""
        self.episodes = 0
        """Episodes that ended."""
        self._sort()
        self._pending: list[Step] = []
        self._t = 0  # steps in this episode
        self.observed: Any = None
        """The last observation, as it came."""
        self._state: Any = None
        self._action = 0
        self._legal: Mask = None

    def _sort(self) -> None:
        """Note what every step asks of the choices."""
        self._one_step = self.choices.frequency == "step" and self.choices.depth == 1
        self._on_policy = self.choices.update == "sarsa"

    # What a subclass says.

    @abstractmethod
    def choose(self, state: Any, legal: Mask) -> int:
        """Return the action to take in `state`."""

    @abstractmethod
    def following(self, step: Step) -> float:
        """Return the estimate of the state after a step that is not the last."""

    def carries(self, step: Step, after: Step) -> bool:
        """Return whether the action after `step` is one that the policy learnt would take."""
        return True

    def visited(self, step: Step) -> Hashable:
        """Return what a step visits, for `visits='first'`: the pair of state and action."""
        return step.state, step.action

    @abstractmethod
    def move(self, step: Step, target: float, t: int) -> None:
        """Move what is learnt towards `target`; the step was number `t` of its episode."""

    @abstractmethod
    def learn_by_trace(self, step: Step) -> None:
        """Learn from a step, crediting those before it by their traces."""

    def before_update(self) -> None:  # noqa: B027 - most have nothing to do
        """Called before the targets of an update are computed."""

    # What an environment's loop calls.

    def start(self, observation: Any, legal: Mask = None) -> int:
        """Begin an episode; returns the first action.

        Raises:
            ValueError: none is legal.
        """
        self._pending.clear()
        self._t = 0
        self.observed = observation
        self._state = self.function.key(observation)
        self._legal = _checked(legal, observation)
        self._action = self.choose(self._state, self._legal)
        return self._action

    def step(self, reward: float, observation: Any, *, terminal: bool = False,
             truncated: bool = False, legal: Mask = None) -> int:  # fmt: skip
        """Learn from what the last action brought; returns the next action, -1 if the episode
        ended.

        Args:
            terminal: the episode ended, so that nothing follows: the next state is worth 0.
            truncated: it was broken off, so that targets still count what would have followed.
            legal: which actions the new state allows.

        Raises:
            ValueError: it allows none, and the episode goes on.
        """
        self.observed = observation
        next_state = self.function.key(observation)
        next_action = None
        if legal is not None:
            legal = _checked(legal, observation, is_end=terminal)
        # SARSA learns from the action that it will take, so that is chosen first; the others
        # choose it by what they have learnt
        if self._on_policy and not terminal:
            next_action = self.choose(next_state, legal)
        step = Step(self._state, self._action, float(reward), next_state, next_action, terminal,
                    self._legal, legal)  # fmt: skip
        self.learn(step, terminal or truncated)
        self.steps += 1
        if terminal or truncated:
            self.episodes += 1
            return -1
        if next_action is None:
            next_action = self.choose(next_state, legal)
        self._state, self._action, self._legal = next_state, next_action, legal
        return next_action

    def learn(self, step: Step, ended: bool) -> None:
        """Learn from a step as often and as far ahead as was chosen."""
        t = self._t
        self._t += 1
        if self._one_step:  # what follows below, less the waiting
            self.before_update()
            after = 0.0 if step.terminal else self.following(step)
            self.move(step, step.reward + self.discount * after, t)
            return
        if self.choices.traces:
            self.learn_by_trace(step)
            return
        pending = self._pending
        pending.append(step)
        due = len(pending) if ended else self._due()
        if due:
            # all targets are read before any value is written
            targets = self._targets(due)
            steps, first = pending[:due], t + 1 - len(pending)
            del pending[:due]
            met = set()
            for k, (learnt, target) in enumerate(zip(steps, targets, strict=True)):
                if self.choices.visits == "first":
                    visited = self.visited(learnt)
                    if visited in met:
                        continue
                    met.add(visited)
                self.move(learnt, target, first + k)

    def _due(self) -> int:
        """Return how many of the waiting steps are to be learnt from now, amid an episode."""
        frequency, depth = self.choices.frequency, self.choices.depth
        if frequency == "episode" or (isinstance(frequency, int) and self._t % frequency):
            return 0
        # n steps ahead must be known; lambda takes as many as there are
        return max(0, len(self._pending) - depth + 1) if isinstance(depth, int) else (
            len(self._pending))  # fmt: skip

    def _targets(self, due: int) -> list[float]:
        """Return the targets of the first `due` waiting steps."""
        self.before_update()
        steps, depth = self._pending, self.choices.depth
        rewards = [step.reward for step in steps]
        following = [0.0 if step.terminal else self.following(step) for step in steps]
        share = depth.value if isinstance(depth, Lambda) else 1.0
        carried = [
            share * self.carries(step, after)
            for step, after in pairwise(steps)
        ]  # fmt: skip
        carried.append(0.0)
        if not isinstance(depth, int) or depth >= len(steps):
            return compound(rewards, following, carried, discount=self.discount)[:due]
        return [
            compound(rewards[t : t + depth], following[t : t + depth], carried[t : t + depth],
                     discount=self.discount)[0]
            for t in range(due)
        ]  # fmt: skip

    def trace_step(self, trace: Trace, step: Step, amounts: Sequence[float]) -> None:
        """Let what came before fade, and mark what was done now."""
        depth = self.choices.depth
        assert isinstance(depth, Lambda)
        if self._t == 1:
            trace.clear()
        trace.decay(self.discount * depth.value)
        if depth.trace == "replacing":
            trace.replace(step.state, step.action)
        else:
            trace.add(step.state, amounts)

    # JSON.

    def to_json(self) -> dict[str, Any]:
        """Return the agent JSON-ready: choices, values, generator, and where it stands."""
        return {
            "agent": type(self).__name__,
            **self.choices.to_json(),
            "discount": self.discount,
            "rng": self.rng.bit_generator.state,
            "steps": self.steps,
            "episodes": self.episodes,
            "t": self._t,
            "observed": thaw(self.observed),
            "state": thaw(self._state),
            "action": self._action,
            "legal": self._legal,
            "pending": [[thaw(part) for part in step] for step in self._pending],
        }

    def _restore(self, made: dict[str, Any]) -> None:
        """Take what `to_json` wrote of where the agent stands."""
        self.rng.bit_generator.state = made["rng"]
        self.steps, self.episodes = made["steps"], made["episodes"]
        self._t, self._action, self._legal = made["t"], made["action"], made["legal"]
        self.observed = freeze(made["observed"])
        self._state = self._thawed(made["state"])
        self._pending = []
        for fields in made["pending"]:
            step = Step(*fields)
            self._pending.append(
                step._replace(
                    state=self._thawed(step.state), next_state=self._thawed(step.next_state)
                )
            )

    def _thawed(self, state: Any) -> Any:
        return np.array(state) if isinstance(self.function, Linear) else freeze(state)


def _checked(legal: Any, observation: Any, *, is_end: bool = False) -> Mask:
    """Return a mask as a list; only at the end may it allow nothing."""
    made: Mask = legal.tolist() if isinstance(legal, np.ndarray) else legal
    if made is not None and not is_end and not any(made):
        raise ValueError(
            f"no action is legal in {observation!r}; a state needs at least one, or is terminal."
        )
    return made


def check_trace(choices: Choices, function: ValueFunction) -> None:
    """Hold a function to what traces and first visits need of it.

    Raises:
        ValueError: a step size that counts, or replacing traces or first visits without a table.
    """
    if choices.traces and not isinstance(function.step_size, int | float):
        raise ValueError(
            f"step_size={function.step_size} with traces: one step moves many values, whose counts "
            "differ; give a constant."
        )
    if not isinstance(function, Linear):
        return
    if choices.traces and choices.depth.trace == "replacing":  # type: ignore[union-attr]
        raise ValueError(
            "trace='replacing' with features: it is defined where a feature is on or off, as in a "
            "table; use trace='accumulating' or 'dutch'."
        )
    if choices.visits == "first":
        raise ValueError("visits='first' with features: only a table can tell states apart.")


def move_along(agent: Learner, trace: Trace, function: ValueFunction, step: Step, action: int,
               after: float, before: float) -> float:  # fmt: skip
    """Move a function along its trace by the one-step error of `step`; returns what the next call
    is to be given as `before`.

    With dutch traces it is the true online algorithm (Sutton & Barto, 12.5 and 12.7).

    Args:
        action: whose value is meant: the step's, or 0 for a state value.
        after: the estimate of the next state, 0 where none follows.
        before: what this same estimate was when the last step looked at it.
    """
    depth, step_size = agent.choices.depth, function.step_size
    assert isinstance(depth, Lambda)
    assert isinstance(step_size, int | float)
    now = function.read(step.state)[action]
    error = step.reward + agent.discount * after - now
    function.count(step.state, action)  # what a trace moves is not counted
    n = len(function.read(step.state))
    marked = [float(a == action) for a in range(n)]
    if depth.trace != "dutch":
        agent.trace_step(trace, step._replace(action=action), marked)
        trace.apply(step_size * error)
        return after
    if agent._t == 1:  # the first step of an episode: no estimate of it was looked at before
        trace.clear()
        before = now
    trace.decay(agent.discount * depth.value)
    trace.add(step.state, [m * (1 - step_size * trace.along(step.state, action)) for m in marked])
    trace.apply(step_size * (error + now - before))
    function.add(step.state, [-step_size * (now - before) * m for m in marked])
    return after
