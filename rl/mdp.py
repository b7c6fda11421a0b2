"""Transitions, episodes, the return, and finite MDPs with their Bellman operators (Sutton & Barto,
chapters 3 and 4)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rl.policies import Bools, Floats

Ints = np.ndarray[Any, np.dtype[np.int64]]
PolicyArray = Floats | Ints
"""pi(a|s), float (n_states, n_actions), or an action for each state, int (n_states,)."""


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

    @cached_property
    def total(self) -> float:
        """The return without a discount."""
        return discounted_return(self.rewards)

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


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """A Markov decision process as arrays (Sutton & Barto, chapter 3).

    Terminal states are worth nothing: whatever their rows say, they are made to lead to themselves
    with reward 0.

    >>> mdp = FiniteMDP(np.array([[[0.0, 1.0]], [[0.0, 1.0]]]), np.array([[5.0], [0.0]]),
    ...                 terminal=np.array([False, True]), discount=0.9)
    >>> mdp.action_values(np.zeros(2)).tolist()
    [[5.0], [0.0]]

    Raises:
        ValueError: shapes that do not match, rows that are no probabilities, or a discount outside
            [0, 1].
    """

    transitions: Floats
    """p(s' | s, a), float64 (n_states, n_actions, n_states); every row sums to 1."""
    rewards: Floats
    """r(s, a, s'), the same shape; or r(s, a), (n_states, n_actions), the same for every s'."""
    terminal: Bools
    """Which states end the episode, bool (n_states,)."""
    discount: float = 1.0
    start: Floats | None = None
    """Probability of each first state, (n_states,); all that are not terminal alike if None."""

    def __post_init__(self) -> None:
        p = np.array(self.transitions, dtype=np.float64)
        if p.ndim != 3 or p.shape[0] != p.shape[2]:
            raise ValueError(
                f"transitions has the shape {p.shape}; it must be (n_states, n_actions, n_states)."
            )
        r = np.array(self.rewards, dtype=np.float64)
        if r.shape == p.shape[:2]:
            r = np.repeat(r[:, :, None], len(p), axis=2)
        if r.shape != p.shape:
            raise ValueError(
                f"rewards has the shape {r.shape}; it must be {p.shape} or {p.shape[:2]}."
            )
        ends = np.array(self.terminal, dtype=bool)
        if ends.shape != (len(p),):
            raise ValueError(f"terminal has the shape {ends.shape}; it must be ({len(p)},).")
        p[ends], r[ends] = 0.0, 0.0
        p[ends, :, ends] = 1.0
        if (p < 0).any() or not np.allclose(p.sum(-1), 1.0, atol=1e-9):
            s, a = np.argwhere((p < 0).any(-1) | ~np.isclose(p.sum(-1), 1.0, atol=1e-9))[0]
            raise ValueError(
                f"transitions[{s}, {a}] = {p[s, a]} is no distribution; its entries must not be "
                "negative and must sum to 1."
            )
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount={self.discount} must be from 0 to 1.")
        live = ~ends
        start = live / max(live.sum(), 1) if self.start is None else np.array(self.start, float)
        if start.shape != (len(p),) or (start < 0).any() or not np.isclose(start.sum(), 1.0):
            raise ValueError(f"start must be ({len(p)},) probabilities that sum to 1.")
        for name, value in [("transitions", p), ("rewards", r), ("terminal", ends),
                            ("start", start)]:  # fmt: skip
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @property
    def n_states(self) -> int:
        return len(self.transitions)

    @property
    def n_actions(self) -> int:
        return int(self.transitions.shape[1])

    @cached_property
    def expected_rewards(self) -> Floats:
        """r(s, a) = sum over s' of p(s' | s, a) r(s, a, s'), (n_states, n_actions)."""
        return np.asarray(np.einsum("sat,sat->sa", self.transitions, self.rewards))

    def action_values(self, v: Floats) -> Floats:
        """Return `Q(s, a) = sum over s' of p(s' | s, a) (r(s, a, s') + discount V(s'))`
        (Sutton & Barto, 4.6); what `v` says of terminal states is not read."""
        after = np.where(self.terminal, 0.0, v)
        return np.asarray(self.expected_rewards + self.discount * (self.transitions @ after))

    # The Bellman operators. Each is a contraction by `discount`, whose fixed point is the value.

    def backup_v(self, policy: PolicyArray, v: Floats) -> Floats:
        """Return `sum_a pi(a|s) Q(s, a)`, Q from `v`: one sweep of policy evaluation (4.5)."""
        return np.asarray((policy_matrix(policy, self) * self.action_values(v)).sum(1))

    def backup_q(self, policy: PolicyArray, q: Floats) -> Floats:
        """Return `r(s, a) + discount sum_s' p(s') sum_a' pi(a'|s') Q(s', a')`: the same for Q."""
        return self.action_values((policy_matrix(policy, self) * q).sum(1))

    def optimal_backup_v(self, v: Floats) -> Floats:
        """Return `max_a Q(s, a)`, Q from `v`: one sweep of value iteration (4.10)."""
        return np.asarray(self.action_values(v).max(1))

    def optimal_backup_q(self, q: Floats) -> Floats:
        """Return `r(s, a) + discount sum_s' p(s') max_a' Q(s', a')` (4.2)."""
        return self.action_values(q.max(1))

    @classmethod
    def from_table(cls, table: Mapping[int, Mapping[int, Sequence[tuple[Any, ...]]]],
                   *, discount: float = 1.0, start: Floats | None = None) -> FiniteMDP:  # fmt: skip
        """Return the MDP of a Gymnasium environment's table, `environment.unwrapped.P`, where
        `table[state][action]` lists (probability, next state, reward, terminated).

        One state is added at the end, in which every episode that terminates ends: a table flags
        transitions, not states, as final.

        Args:
            start: probability of each first state of the table, `initial_state_distrib`.
        """
        n, k = len(table), len(table[0])
        p, weighted = np.zeros((n + 1, k, n + 1)), np.zeros((n + 1, k, n + 1))
        for s in range(n):
            for a in range(k):
                for probability, following, reward, terminated in table[s][a]:
                    to = n if terminated else int(following)
                    p[s, a, to] += probability
                    weighted[s, a, to] += probability * reward
        # several outcomes that lead to one state have its expected reward
        r = np.divide(weighted, p, out=np.zeros_like(p), where=p > 0)
        return cls(p, r, terminal=np.arange(n + 1) == n, discount=discount,
                   start=None if start is None else np.append(start, 0.0))  # fmt: skip


def policy_matrix(policy: PolicyArray, mdp: FiniteMDP | None = None) -> Floats:
    """Return pi(a|s), (n_states, n_actions), of a stochastic policy of that shape or of a
    deterministic one: an action for each state, int (n_states,).

    Without an MDP there are as many states and actions as the policy tells of.

    Raises:
        ValueError: another shape, an action that is not there, or rows that do not sum to 1.
    """
    given: Any = np.asarray(policy)
    if mdp is not None:
        shape = (mdp.n_states, mdp.n_actions)
    else:
        shape = given.shape if given.ndim == 2 else (len(given), int(given.max()) + 1)
    if given.shape == shape[:1] and np.issubdtype(given.dtype, np.integer):
        if ((given < 0) | (given >= shape[1])).any():
            s = int(np.flatnonzero((given < 0) | (given >= shape[1]))[0])
            raise ValueError(
                f"the policy takes action {given[s]} in state {s}; there are {shape[1]}, from 0."
            )
        return np.asarray(np.eye(shape[1])[given])
    if given.shape != shape:
        raise ValueError(
            f"the policy has the shape {given.shape}; it must be {shape} probabilities, or "
            f"({shape[0]},) actions."
        )
    if (given < 0).any() or not np.allclose(given.sum(1), 1.0):
        raise ValueError("the policy's rows must be probabilities that sum to 1.")
    return np.asarray(given, dtype=np.float64)


def reachable(p: Floats, start: Bools) -> Bools:
    """Return the states that a walk from those of `start` may come to, bool (n_states,).

    p: probability of each next state, (n_states, n_states). With `p.T` and ends it is the states
    from which an end may be reached.
    """
    leads, found, before = p > 0, np.array(start), None
    while before is None or (found != before).any():
        found, before = found | (found @ leads), found
    return np.asarray(found)


def random_mdp(rng: np.random.Generator, *, n_states: int = 5, n_actions: int = 3,
               branching: int = 3, discount: float = 0.9) -> FiniteMDP:  # fmt: skip
    """Return a random MDP without an end ("Garnet", Archibald et al., 1995): every action leads to
    `branching` states with random probabilities, and has a standard normal reward."""
    p = np.zeros((n_states, n_actions, n_states))
    for s in range(n_states):
        for a in range(n_actions):
            to = rng.choice(n_states, size=min(branching, n_states), replace=False)
            p[s, a, to] = rng.dirichlet(np.ones(len(to)))
    r = rng.standard_normal((n_states, n_actions))
    return FiniteMDP(p, r, terminal=np.zeros(n_states, bool), discount=discount)
