"""Policies that weigh how little is known: UCB1 and Thompson sampling.

They choose among the actions of one state from the mean reward `q` and the count `n` of each, as
the policies of `rl.policies` do. Rewards are taken to be standardised: their deviation is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rl.policies import Bools, Drawer, Drawing, Floats, greedy_actions

_POINTS = 161  # for each action, of the integral over the best one's value


@dataclass(frozen=True)
class UCB(Drawing):
    """The action with the largest `q + c * sqrt(ln t / n)` (Auer et al., 2002; Sutton & Barto,
    2.10), t the rewards seen in this state; actions never taken come first, ties are shared."""

    c: float = 1.0
    """Weight of doubt, in deviations of the reward; 0 is greedy."""

    def __post_init__(self) -> None:
        if not self.c >= 0:
            raise ValueError(f"c={self.c} must not be below 0; raise it.")

    def probabilities(self, q: Floats, n: Floats, legal: Bools, step: int) -> Floats:
        """Return equal parts for the actions with the largest bound.

        >>> q, n = np.array([0.2, 0.0]), np.array([90.0, 10.0])
        >>> UCB(c=1.0).probabilities(q, n, n > 0, 0).tolist()
        [0.0, 1.0]
        """
        doubt = np.sqrt(math.log(max(n.sum(), 1.0)) / np.maximum(n, 1.0))
        best = greedy_actions(q + self.c * doubt, n, legal, "first")
        return np.asarray(best / best.sum())


@dataclass(frozen=True)
class Thompson(Drawing):
    """Each action as often as it is the best under the posterior (Thompson, 1933).

    A reward is N(mu, 1) and mu is N(0, `prior`) beforehand, so after n rewards of mean q it is
    N(n q / (n + 1 / prior), 1 / (n + 1 / prior)).
    """

    prior: float = 1.0
    """Variance of what actions are worth, in the reward's variance."""

    def __post_init__(self) -> None:
        if not self.prior > 0:
            raise ValueError(f"prior={self.prior} must be above 0; raise it.")

    def posterior(self, q: Floats, n: Floats) -> tuple[Floats, Floats]:
        """Return mean and deviation of what each action is worth."""
        precision = n + 1 / self.prior
        return n * q / precision, 1 / np.sqrt(precision)

    def probabilities(self, q: Floats, n: Floats, legal: Bools, step: int) -> Floats:
        """Return the posterior probability that each legal action is the best of them:
        the integral of its density times the others' distribution functions."""
        mean, sd = self.posterior(np.where(legal, q, 0.0), n)  # illegal ones may be -inf
        at = np.flatnonzero(legal)
        if not len(at):
            raise ValueError("no action is legal; a state needs at least one.")
        m, s = mean[at], sd[at]
        # points where each density is, whatever the others' widths
        x = np.unique((m + s * np.linspace(-8, 8, _POINTS)[:, None]).ravel())
        z = (x[:, None] - m) / s
        below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
        density = np.exp(-0.5 * z**2) / s
        shares = np.array(
            [
                np.trapezoid(density[:, i] * np.delete(below, i, axis=1).prod(axis=1), x)
                for i in range(len(at))
            ]
        )
        made = np.zeros(len(q))
        made[at] = shares / shares.sum()
        return made

    def drawer(self, q: Floats, n: Floats, legal: Bools, step: int) -> Drawer:
        """Return what gives the best of the actions by one draw from each posterior, which is a
        draw with these probabilities and costs less."""
        mean, sd = self.posterior(np.where(legal, q, 0.0), n)
        mean = np.where(legal, mean, -np.inf)
        return lambda rng: int((mean + sd * rng.standard_normal(len(mean))).argmax())
