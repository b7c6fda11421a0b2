"""What an action's value is moved towards: returns and bootstrapped targets, as pure functions.

`rewards[t]` follows the action of step t (R_{t+1} in the book), and `values[t]`
is the estimate of the state *before* step t; the terminal state's is 0 always.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl.policies import Floats


def one_step(reward: float, next_value: float, *, discount: float = 1.0,
             terminal: bool = False) -> float:  # fmt: skip
    """Return `R + discount * V(S')`; with `next_value = max_a Q(S', a)` it is Q-learning's
    target (Sutton & Barto, 6.8).

    >>> one_step(1.0, 10.0, discount=0.5), one_step(1.0, 10.0, terminal=True)
    (6.0, 1.0)
    """
    return reward if terminal else reward + discount * next_value


def returns(rewards: Sequence[float], *, discount: float = 1.0) -> Floats:
    """Return `G_t = R_{t+1} + discount * G_{t+1}` for every step: the Monte Carlo target
    (Sutton & Barto, 3.9 and 5.1).

    >>> returns([1.0, 0.0, 4.0], discount=0.5).tolist()
    [2.0, 2.0, 4.0]
    """
    made = np.zeros(len(rewards))
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = made[t] = rewards[t] + discount * following
    return made


def n_step(rewards: Sequence[float], values: Sequence[float], *, n: int | None,
           discount: float = 1.0) -> Floats:  # fmt: skip
    """Return the n-step target of every step of an episode that ended: n rewards, then the
    estimate of the state reached (Sutton & Barto, 7.1).

    `n=1` is the one-step target; `n=None`, or any n that reaches the end, the whole return.

    Args:
        values: one estimate a step, of the state before it.

    >>> n_step([0.0, 0.0, 8.0], [5.0, 6.0, 7.0], n=1).tolist()
    [6.0, 7.0, 8.0]
    >>> n_step([0.0, 0.0, 8.0], [5.0, 6.0, 7.0], n=2).tolist()
    [7.0, 8.0, 8.0]

    Raises:
        ValueError: n below 1, or not one value a step.
    """
    if n is not None and n < 1:
        raise ValueError(f"n={n} must be at least 1, or None for the whole episode.")
    if len(values) != len(rewards):
        raise ValueError(f"{len(values)} values for {len(rewards)} rewards; give one a step.")
    end = len(rewards)
    if n is None or n >= end:
        return returns(rewards, discount=discount)
    made = np.zeros(end)
    for t in range(end):
        reach = min(t + n, end)
        made[t] = sum(discount ** (k - t) * rewards[k] for k in range(t, reach))
        if reach < end:
            made[t] += discount ** (reach - t) * values[reach]
    return made


def compound(rewards: Sequence[float], following: Sequence[float], carried: Sequence[float],
             *, discount: float = 1.0) -> list[float]:  # fmt: skip
    """Return `G_t = R_{t+1} + discount ((1 - c_t) following_t + c_t G_{t+1})` for every step: the
    one formula of which all targets are cases.

    With c = 0 it is the one-step target, with c = 1 the whole return, with c = lambda the lambda
    return (Sutton & Barto, 12.2 and 12.3). Where an action departs from the policy that is learnt,
    c = 0 cuts the rest off (Watkins, 1989).

    Args:
        following: the estimate of the state *after* each step; 0 after the last of an episode.
        carried: c_t, from 0 to 1; nothing follows the last step, whose c is taken as 0.

    >>> compound([0.0, 8.0], [6.0, 0.0], [0.0, 0.0])
    [6.0, 8.0]
    >>> compound([0.0, 8.0], [6.0, 0.0], [0.5, 0.5])
    [7.0, 8.0]
    """
    made = [0.0] * len(rewards)
    after = carry = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        after = rewards[t] + discount * ((1 - carry) * following[t] + carry * after)
        made[t] = after
        carry = carried[t - 1] if t else 0.0
    return made
