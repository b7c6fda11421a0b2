"""A trial as an episode: states, actions, rewards (Sutton & Barto, chapter 3).

The state is the choices made so far together with the knob that comes next; the
action is the position of the value chosen; the reward is zero until the last
choice, where it is the trial's score.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rl.space import SearchSpace, Value


class KnobState(NamedTuple):
    """Where a setting stands while it is chosen knob by knob."""

    chosen: tuple[tuple[str, Value], ...]
    """The choices made so far, in order: (knob, value)."""
    knob: str | None
    """The knob to choose next; None where the setting is complete."""


@dataclass(frozen=True)
class Transition:
    """One step of an episode: S, A, R, S'."""

    state: Hashable
    action: int
    """Position of the action among those of `state`."""
    reward: float
    next_state: Hashable
    terminal: bool
    """The episode ends here, so `next_state` is worth 0."""


@dataclass(frozen=True)
class Episode:
    """The transitions from a first state to a terminal one."""

    transitions: tuple[Transition, ...]

    def __iter__(self) -> Iterator[Transition]:
        return iter(self.transitions)

    def __len__(self) -> int:
        return len(self.transitions)

    @property
    def rewards(self) -> tuple[float, ...]:
        """The reward of each step: R_1, ..., R_T."""
        return tuple(step.reward for step in self.transitions)


def discounted_return(rewards: Sequence[float], discount: float = 1.0) -> float:
    """Return `G = R_1 + discount R_2 + discount^2 R_3 + ...` (Sutton & Barto, 3.8).

    >>> discounted_return([0.0, 0.0, 8.0], discount=0.5)
    2.0
    """
    total = 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
    return total


def knob_state(space: SearchSpace, chosen: Mapping[str, Value]) -> KnobState:
    """Return the state after the choices `chosen`, in the order of the space."""
    made = tuple((k.name, chosen[k.name]) for k in space.knobs if k.name in chosen)
    knob = space.next_knob(chosen)
    return KnobState(made, knob.name if knob else None)


def knob_episode(space: SearchSpace, chosen: Mapping[str, Value], reward: float) -> Episode:
    """Return the knob-by-knob episode of a finished trial with the setting `chosen`.

    Raises:
        rl.space.SpaceError: `chosen` is not a setting of the space.
    """
    space.check(chosen)
    steps = []
    made: dict[str, Value] = {}
    state = knob_state(space, made)
    while (knob := space.next_knob(made)) is not None:
        made[knob.name] = chosen[knob.name]
        action = knob.code(chosen[knob.name])
        next_state = knob_state(space, made)
        end = next_state.knob is None
        steps.append(Transition(state, action, float(reward) if end else 0.0, next_state, end))
        state = next_state
    return Episode(tuple(steps))


def setting_of(episode: Episode) -> dict[str, Value]:
    """Return the setting that a knob-by-knob episode chose."""
    last = episode.transitions[-1].next_state
    assert isinstance(last, KnobState)
    return dict(last.chosen)
