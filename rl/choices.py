"""The three choices of which every learning method is made: how often it updates, how far ahead it
looks, and by which formula.

| frequency, depth              | td, on V       | sarsa, q-learning, ... on Q | policy-based     |
|-------------------------------|----------------|-----------------------------|------------------|
| every step, 1 step            | TD(0)          | SARSA, Q-learning           | actor-critic     |
| every step, n steps           | n-step TD      | n-step SARSA, tree backup   | n-step           |
| every step, Lambda            | TD(lambda)     | SARSA(lambda), Q(lambda)    | with traces      |
| every n steps, Lambda         | truncated lambda returns of the last n steps                    |
| end of episode, whole episode | Monte Carlo    | Monte Carlo control         | REINFORCE        |
| end of episode, the others    | the same targets, all from the values before the update         |

Sutton & Barto, chapters 5 to 7, 12 and 13. Which do not go together, and why, is in `Choices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Frequency = int | Literal["step", "episode"]
"""When values are updated: every step, every so many steps, or at the end of the episode."""

OnValues = Literal["td", "sarsa", "expected-sarsa", "q-learning", "double-q-learning"]
OnPolicy = Literal["reinforce", "reinforce-with-baseline", "actor-critic"]
Update = OnValues | OnPolicy
"""The formula: what the end of a target is estimated by, and what is moved towards it."""

VALUE_UPDATES: tuple[str, ...] = get_args(OnValues)
POLICY_UPDATES: tuple[str, ...] = get_args(OnPolicy)


@dataclass(frozen=True)
class Lambda:
    """Look ahead by every number of steps at once: n steps weigh (1 - value) value^(n - 1)."""

    value: float
    """lambda: 0 is one step, 1 the whole episode."""
    trace: Literal["accumulating", "replacing", "dutch"] = "accumulating"
    """How an update at every step credits earlier steps. `dutch` is the true online algorithm:
    at the end of an episode it equals the forward view exactly (12.5)."""

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"lambda={self.value} must be from 0 to 1.")
        if self.trace not in ("accumulating", "replacing", "dutch"):
            raise ValueError(f"trace={self.trace!r} is not one of: accumulating, replacing, dutch.")


Depth = int | Literal["episode"] | Lambda
"""How far ahead a target looks before it relies on an estimate."""


@dataclass(frozen=True)
class Choices:
    """A legal combination of the three choices.

    >>> Choices("sarsa", frequency="episode", depth="episode").method
    'monte-carlo'
    >>> Choices("q-learning", frequency="step", depth="episode")
    Traceback (most recent call last):
    ...
    ValueError: depth='episode' with frequency='step': the whole return is known only when the \
episode has ended; use frequency='episode', or another depth.

    Raises:
        ValueError: two of them do not go together; the message says why and what would.
    """

    update: Update
    frequency: Frequency = "step"
    depth: Depth = 1
    visits: Literal["every", "first"] = "every"
    """Of a state (or pair) met several times in an episode, learn from every visit or the first."""

    def __post_init__(self) -> None:
        update, frequency, depth = self.update, self.frequency, self.depth
        if update not in (*VALUE_UPDATES, *POLICY_UPDATES):
            known = ", ".join((*VALUE_UPDATES, *POLICY_UPDATES))
            raise ValueError(f"update={update!r} is not one of: {known}.")
        if not (frequency in ("step", "episode") or _counts(frequency)):
            raise ValueError(
                f"frequency={frequency!r} must be 'step', 'episode', or a number of steps from 1."
            )
        if not (isinstance(depth, Lambda) or depth == "episode" or _counts(depth)):
            raise ValueError(
                f"depth={depth!r} must be a number of steps from 1, 'episode', or Lambda(...)."
            )
        if self.visits not in ("every", "first"):
            raise ValueError(f"visits={self.visits!r} is not one of: every, first.")
        if frequency == 1:
            object.__setattr__(self, "frequency", "step")
        self._check_depth()
        self._check_traces()

    def _check_depth(self) -> None:
        update, frequency, depth = self.update, self.frequency, self.depth
        if depth == "episode" and frequency != "episode":
            raise ValueError(
                f"depth='episode' with frequency={frequency!r}: the whole return is known only "
                "when the episode has ended; use frequency='episode', or another depth."
            )
        if update in ("reinforce", "reinforce-with-baseline") and depth != "episode":
            raise ValueError(
                f"update={update!r} with depth={depth!r}: REINFORCE follows whole returns and "
                "never relies on an estimate; use depth='episode' and frequency='episode', or "
                "update='actor-critic'."
            )
        if update == "actor-critic" and depth == "episode":
            raise ValueError(
                "update='actor-critic' with depth='episode': a critic is one only where targets "
                "rely on its estimate; use depth=1, n or Lambda(...), or "
                "update='reinforce-with-baseline'."
            )
        if self.visits == "first" and depth != "episode":
            raise ValueError(
                f"visits='first' with depth={depth!r}: first visits are Monte Carlo's, whose "
                "targets are whole returns; use depth='episode', or visits='every'."
            )

    def _check_traces(self) -> None:
        update, depth = self.update, self.depth
        if not isinstance(depth, Lambda):
            return
        if not self.traces:
            if depth.trace != "accumulating":
                raise ValueError(
                    f"trace={depth.trace!r} with frequency={self.frequency!r}: traces serve to "
                    "update at every step; use frequency='step', or leave trace out."
                )
            return
        if update == "double-q-learning":
            raise ValueError(
                "update='double-q-learning' with Lambda at every step: each update moves one of "
                "two tables, and a trace would belong to both; use frequency='episode' or a number "
                "of steps, or depth=n."
            )
        if depth.trace == "dutch" and update not in ("td", "sarsa"):
            raise ValueError(
                f"trace='dutch' with update={update!r}: the true online algorithm is derived for "
                "'td' and 'sarsa'; use one of them, or trace='accumulating' or 'replacing'."
            )
        if depth.trace == "replacing" and update in POLICY_UPDATES:
            raise ValueError(
                f"trace='replacing' with update={update!r}: the gradient of a policy is not on or "
                "off; use trace='accumulating'."
            )

    @property
    def traces(self) -> bool:
        """Whether earlier steps are credited through eligibility traces."""
        return isinstance(self.depth, Lambda) and self.frequency == "step"

    @property
    def method(self) -> str:
        """The name that the textbook has for it."""
        update, depth = self.update, self.depth
        if update in ("reinforce", "reinforce-with-baseline"):
            return update
        if depth == "episode":
            return "monte-carlo"
        if isinstance(depth, Lambda):
            return f"{update}({depth.value:g})"
        return "td(0)" if (update, depth) == ("td", 1) else (
            update if depth == 1 else f"{depth}-step {update}"
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the choices JSON-ready."""
        depth: Any = self.depth
        if isinstance(depth, Lambda):
            depth = {"lambda": depth.value, "trace": depth.trace}
        return {"update": self.update, "frequency": self.frequency, "depth": depth,
                "visits": self.visits}  # fmt: skip

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> Choices:
        """Return the choices that `to_json` wrote."""
        depth = made["depth"]
        if isinstance(depth, dict):
            depth = Lambda(depth["lambda"], depth["trace"])
        return cls(made["update"], made["frequency"], depth, made["visits"])


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
