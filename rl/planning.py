"""Planning with a known model: policy evaluation, improvement, policy and value iteration.

Sutton & Barto, chapter 4. A policy is pi(a|s), float (n_states, n_actions), or an
action for each state, int (n_states,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rl.mdp import FiniteMDP, Ints, PolicyArray, policy_matrix, reachable
from rl.policies import Bools, Floats

#: Values this close are equal: what rounding leaves of sums of rewards of the order of 1 to 100.
TIE = 1e-9


@dataclass(frozen=True)
class Solution:
    """An optimal policy and what it is worth."""

    policy: Ints
    """The action in each state, (n_states,)."""
    v: Floats
    """V of the policy, (n_states,)."""
    q: Floats
    """Q, (n_states, n_actions)."""
    sweeps: int
    """Sweeps over the states, or rounds of evaluation and improvement."""

    def greedy(self, *, within: float = 1e-6) -> Bools:
        """Return which actions are optimal, bool (n_states, n_actions): all those within `within`
        of the best."""
        return np.asarray(self.q >= self.q.max(1, keepdims=True) - within)


def evaluate(mdp: FiniteMDP, policy: PolicyArray) -> Floats:
    """Return V of the policy by solving Bellman's equation, `V = r_pi + discount P_pi V`,
    float64 (n_states,).

    Raises:
        ValueError: without a discount, an episode under this policy need not end.
    """
    pi = policy_matrix(policy, mdp)
    live = ~mdp.terminal
    p = np.einsum("sa,sat->st", pi, mdp.transitions)
    r = (pi * mdp.expected_rewards).sum(1)
    if mdp.discount == 1 and (stuck := ~reachable(p.T, mdp.terminal)).any():
        raise ValueError(
            f"from state {int(np.flatnonzero(stuck)[0])} this policy never reaches the end, so "
            "without a discount it has no value; lower the discount or change the policy."
        )
    v = np.zeros(mdp.n_states)
    a = np.eye(int(live.sum())) - mdp.discount * p[np.ix_(live, live)]
    v[live] = np.linalg.solve(a, r[live])
    return v


def evaluate_q(mdp: FiniteMDP, policy: PolicyArray) -> Floats:
    """Return Q of the policy, exact, float64 (n_states, n_actions)."""
    return mdp.action_values(evaluate(mdp, policy))


def evaluate_iteratively(mdp: FiniteMDP, policy: PolicyArray, *, tolerance: float = 1e-10,
                         most_sweeps: int = 100_000) -> Floats:  # fmt: skip
    """Return V of the policy by sweeps of Bellman's equation until none changes it by more than
    `tolerance` (Sutton & Barto, 4.1).

    Raises:
        ValueError: it still changes after `most_sweeps`.
    """
    v = np.zeros(mdp.n_states)
    for _ in range(most_sweeps):
        v, before = mdp.backup_v(policy, v), v
        if np.abs(v - before).max() <= tolerance:
            return v
    raise ValueError(
        f"the value still changes after {most_sweeps} sweeps; raise most_sweeps or tolerance, or "
        "lower the discount."
    )


def compare(mdp: FiniteMDP, first: PolicyArray, second: PolicyArray) -> Literal[
        "better", "worse", "equal", "incomparable"]:  # fmt: skip
    """Return how the first policy stands to the second: better if it is worth at least as much in
    every state and more in one (Sutton & Barto, 3.6). Policies are ordered in part only, so two
    of them may each be worth more somewhere: incomparable."""
    difference = evaluate(mdp, first) - evaluate(mdp, second)
    above, below = bool((difference > TIE).any()), bool((difference < -TIE).any())
    if above and below:
        return "incomparable"
    return "better" if above else "worse" if below else "equal"


def improve(mdp: FiniteMDP, v: Floats, policy: Ints | None = None) -> Ints:
    """Return the policy that is greedy by `v`, int (n_states,): at least as good as the one that
    `v` is the value of (policy improvement theorem, Sutton & Barto, 4.2).

    Args:
        policy: its action stays where none is better, so that ties end policy iteration.
    """
    q = mdp.action_values(v)
    if policy is None:
        return _greedy(mdp, q)
    at, best = np.arange(mdp.n_states), q.argmax(1)
    return np.asarray(np.where(q[at, policy] >= q[at, best] - TIE, policy, best))


def _greedy(mdp: FiniteMDP, q: Floats, *, within: float = 1e-6) -> Ints:
    """Return the first action of those with the largest value.

    Without a discount some of them may put the end off for ever. Where the first ones do, those
    are taken, of all within `within` of the best, that lead to an end: chosen from the ends
    outwards.
    """
    policy = np.asarray(q.argmax(1))
    p = mdp.transitions[np.arange(mdp.n_states), policy]
    if mdp.discount < 1 or reachable(p.T, mdp.terminal).all():
        return policy
    tied = q >= q.max(1, keepdims=True) - within
    leads, ends = mdp.transitions > 0, np.array(mdp.terminal)
    while (new := ~ends & (nearer := tied & (leads @ ends)).any(1)).any():
        policy[new] = nearer[new].argmax(1)
        ends |= new
    return policy


def policy_iteration(mdp: FiniteMDP, *, policy: Ints | None = None) -> Solution:
    """Return an optimal policy: evaluate exactly, improve, until nothing changes (4.3).

    Args:
        policy: where to begin; by default the one that is greedy by the values of acting at random.

    Raises:
        ValueError: as `evaluate`, for a policy on the way.
    """
    if policy is None:
        uniform = np.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions)
        policy = improve(mdp, evaluate(mdp, uniform))
    rounds = 0
    while True:
        rounds += 1
        v = evaluate(mdp, policy)
        better = improve(mdp, v, policy)
        if (better == policy).all():
            return Solution(policy, v, mdp.action_values(v), rounds)
        policy = better


def value_iteration(mdp: FiniteMDP, *, tolerance: float = 1e-10,
                    most_sweeps: int = 100_000) -> Solution:  # fmt: skip
    """Return an optimal policy: sweep `V(s) = max_a Q(s, a)` until no sweep changes it by more than
    `tolerance`, then be greedy (4.4). Without a discount the policy is one that ends, where one of
    those that share the largest value does.

    Raises:
        ValueError: it still changes after `most_sweeps`.
    """
    v = np.zeros(mdp.n_states)
    for sweep in range(1, most_sweeps + 1):
        v, before = mdp.optimal_backup_v(v), v
        if np.abs(v - before).max() <= tolerance:
            q = mdp.action_values(v)
            return Solution(_greedy(mdp, q), v, q, sweep)
    raise ValueError(
        f"the value still changes after {most_sweeps} sweeps; raise most_sweeps or tolerance, or "
        "lower the discount."
    )
