"""What a reward model believes of knobs and of pairs of them, exactly, and how much each matters.

The posterior mean of `rl.model.RewardModel` is a sum over single knobs and pairs of knobs,

    f(x) = mean + sd ((a + b) s · z + b z' M z)

with z the indicators of x's codes, so its average over settings needs no sampling. Settings are
thought of as `SearchSpace.draw` draws them: a choice u for every knob, uniform and independent,
then x = settle(u), in which knobs whose condition fails are absent. Given the choices of those
knobs that conditions look at, all others are independent: settings are a mixture of products, one
for each *case*, a combination of those choices.

How much knobs matter is the functional analysis of variance (Sobol', 1993; for hyper-parameters
Hutter, Hoos & Leyton-Brown, 2014) of the posterior mean over u:

    V    = Var f(settle(u))
    V_i  = Var_{u_i} E[f | u_i]
    V_ij = Var_{u_i, u_j} E[f | u_i, u_j] - V_i - V_j

`alone` of knob i is V_i / V, `share` of a pair V_ij / V. Without conditions they sum to 1; with
them a part is left to three knobs and more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rl.model import RewardModel
from rl.policies import Bools, Floats
from rl.space import Codes

MOST_CASES = 256
"""Combinations of choices that conditions look at; of more, this many are drawn at random."""
MOST_CELLS = 400
"""Pairs with more combinations of values than this get no deviations: memory."""


class Effect(NamedTuple):
    """The score to expect with one value of a knob, over all settings of the others."""

    mean: float
    sd: float
    """Doubt about its difference from the mean over the values."""


@dataclass(frozen=True)
class Importance:
    """Shares of the variance of the posterior mean over the space."""

    alone: Floats
    """Of each knob on its own, (n_knobs,)."""
    pairs: Floats
    """Of each pair beyond its two knobs, (n_knobs, n_knobs), symmetric, 0 on the diagonal."""
    sd: float
    """Deviation of the posterior mean over the space, in the score's unit."""

    @property
    def together(self) -> Floats:
        """Of each knob, alone and in all its pairs; a pair counts for both of its knobs."""
        return np.asarray(self.alone + self.pairs.sum(axis=1))

    @property
    def rest(self) -> float:
        """What three knobs and more do together; conditions alone bring it about."""
        return max(0.0, 1.0 - float(self.alone.sum()) - float(np.triu(self.pairs).sum()))


@dataclass(frozen=True)
class PairEffect:
    """What is expected of two knobs together; arrays (n_values, n_values), NaN where the two
    values never meet."""

    first: int
    second: int
    mean: Floats
    """Expected score with both values, over all settings of the others."""
    sd: Floats
    """Doubt about its difference from the mean of the cells."""
    interaction: Floats
    """What is left of `mean` beyond the best sum of an effect of each knob."""
    interaction_sd: Floats
    """Doubt about that."""


class Effects:
    """What a reward model believes of knobs and pairs, averaged exactly over the space.

    Args:
        model: pending trials and earlier studies count in it as they do in its posterior.
    """

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self.space = space = model.space
        self.n_knobs = len(space.knobs)
        self._owner = np.repeat(np.arange(self.n_knobs), space.n_values + 1)
        one, two = model.kernel(np.array([1.0, 2.0]))
        # the kernel is b n_equal^2 + a n_equal
        self._b = float(two - 2 * one) / 2
        self._ab = float(one)
        weights = model._weights * model._related
        self._single = model._indicators.T @ weights
        pair = (model._indicators * weights[:, None]).T @ model._indicators
        self._other_knob = self._owner[:, None] != self._owner[None, :]
        self._pair = np.where(self._other_knob, pair, 0.0)
        self._choices, self._asked = self._cases()
        self._exists, self._shares = self._products()

    def _cases(self) -> tuple[Codes, Bools]:
        """Return the choices of the knobs that conditions look at, (n_cases, n_knobs), and which
        knobs those are; the other columns are 0."""
        asked = np.zeros(self.n_knobs, dtype=bool)
        for position in range(self.n_knobs):
            for parent, _ in self.space.conditions(position):
                asked[parent] = True
        sizes = [int(n) if a else 1 for n, a in zip(self.space.n_values, asked, strict=True)]
        if math.prod(sizes) <= MOST_CASES:
            return np.indices(sizes).reshape(self.n_knobs, -1).T, asked
        rng = np.random.default_rng(0)
        return rng.integers(0, sizes, size=(MOST_CASES, self.n_knobs)), asked

    def _products(self) -> tuple[Bools, Floats]:
        """Return which knobs exist in each case, and the shares of every knob's codes."""
        settled = self.space.settle(self._choices)
        exists = settled < self.space.n_values
        shares = np.zeros((len(settled), int(self.space.offsets[-1])))
        for position, absent in enumerate(self.space.n_values):
            start, here = int(self.space.offsets[position]), exists[:, position]
            if self._asked[position]:
                shares[np.arange(len(settled)), start + settled[:, position]] = 1.0
            else:
                shares[here, start : start + absent] = 1 / absent
                shares[~here, start + absent] = 1.0
        return exists, shares

    def _given(self, fixed: Mapping[int, int]) -> Floats:
        """Return the products of the cases in which the knobs at these positions exist, and have
        these codes; there may be none."""
        keep = np.ones(len(self._choices), dtype=bool)
        for position, code in fixed.items():
            keep &= self._exists[:, position]
            if self._asked[position]:
                keep &= self._choices[:, position] == code
        shares = self._shares[keep].copy()
        for position, code in fixed.items():
            start, end = self.space.offsets[position : position + 2]
            shares[:, start:end] = 0.0
            shares[:, start + code] = 1.0
        return shares

    def _expected(self, shares: Floats) -> Floats:
        """Return the standardised posterior mean over each product, (n,)."""
        both = ((shares @ self._pair) * shares).sum(axis=1)
        return np.asarray(self._ab * (shares @ self._single) + self._b * both)

    def _with_tried(self, shares: Floats) -> Floats:
        """Return the covariance of the mean over these products with each trial, (n_known,)."""
        picked = shares[:, self.model.known + self.space.offsets[:-1]]  # (n, n_known, n_knobs)
        equal, square = picked.sum(axis=2), (picked**2).sum(axis=2)
        made = (self._ab * equal + self._b * (equal**2 - square)).mean(axis=0)
        return np.asarray(made * self.model._related)

    def _covariance(self, cells: list[Floats]) -> Floats:
        """Return the posterior covariance of the means over each cell's products, standardised."""
        singles = np.stack([shares.mean(axis=0) for shares in cells])
        pairs = np.stack(
            [((s.T @ s / len(s)) * self._other_knob).astype(np.float32).ravel() for s in cells]
        )
        prior = self._ab * singles @ singles.T + self._b * (pairs @ pairs.T).astype(float)
        tried = np.stack([self._with_tried(shares) for shares in cells])
        return np.asarray(prior - tried @ self.model._precision @ tried.T)

    def knob(self, position: int) -> list[Effect]:
        """Return the expected score with each value, over all settings in which the knob exists;
        NaN for a value that is in none."""
        n = int(self.space.n_values[position])
        cells = [self._given({position: code}) for code in range(n)]
        known = [code for code in range(n) if len(cells[code])]
        means, sds = np.full(n, np.nan), np.full(n, np.nan)
        if known:
            means[known] = [self._expected(cells[code]).mean() for code in known]
            centre = np.eye(len(known)) - 1 / len(known)
            sds[known] = self._deviations([cells[code] for code in known], centre)
        return [
            Effect(float(self.model.mean + self.model.sd * m), float(self.model.sd * s))
            for m, s in zip(means, sds, strict=True)
        ]

    def _deviations(self, cells: list[Floats], *contrasts: Floats) -> Floats:
        """Return the posterior deviations of linear combinations of the cells' means."""
        covariance = self._covariance(cells)
        made = [np.sqrt(np.maximum(((c @ covariance) * c).sum(axis=1), 0.0)) for c in contrasts]
        return made[0] if len(made) == 1 else np.stack(made)

    def pair(self, first: int, second: int) -> PairEffect:
        """Return what is expected of two knobs together, over all settings in which both exist."""
        shape = int(self.space.n_values[first]), int(self.space.n_values[second])
        at = [
            (a, b, shares)
            for a, b in itertools.product(range(shape[0]), range(shape[1]))
            if len(shares := self._given({first: a, second: b}))
        ]
        mean, sd, beyond, beyond_sd = (np.full(shape, np.nan) for _ in range(4))
        if not at:
            return PairEffect(first, second, mean, sd, beyond, beyond_sd)
        rows, columns = np.array([a for a, _, _ in at]), np.array([b for _, b, _ in at])
        means = np.array([self._expected(shares).mean() for _, _, shares in at])
        mean[rows, columns] = self.model.mean + self.model.sd * means
        # beyond the best sum of a row's and a column's effect; where all cells exist this is
        # the doubly centred table
        sums = np.concatenate([np.eye(shape[0])[rows], np.eye(shape[1])[columns]], axis=1)
        residual = np.eye(len(at)) - sums @ np.linalg.pinv(sums)
        beyond[rows, columns] = self.model.sd * (residual @ means)
        if len(at) <= MOST_CELLS:
            centre = np.eye(len(at)) - 1 / len(at)
            found = self._deviations([shares for _, _, shares in at], centre, residual)
            sd[rows, columns], beyond_sd[rows, columns] = self.model.sd * found
        return PairEffect(first, second, mean, sd, beyond, beyond_sd)

    @cached_property
    def importance(self) -> Importance:
        """The shares of variance; all 0 where the posterior mean is the same everywhere."""
        expected = self._expected(self._shares)
        single = np.zeros((len(expected), len(self._owner)))
        cross = np.zeros((len(expected), len(self._owner), len(self._owner)))
        spread = 0.0
        # a choice of a knob that is absent, or that the case has settled, changes nothing in it
        open_ = self._exists & ~self._asked
        for case, shares in enumerate(self._shares):
            moves = open_[case][self._owner] & (shares > 0)
            gradient = self._ab * self._single + 2 * self._b * (self._pair @ shares)
            within = np.zeros((self.n_knobs, len(shares)))
            within[self._owner, np.arange(len(shares))] = shares
            single[case] = np.where(moves, gradient - (within @ gradient)[self._owner], 0.0)
            half = within @ self._pair
            whole = half @ within.T
            rows = half[self._owner]
            table = self._pair - rows - rows.T + whole[np.ix_(self._owner, self._owner)]
            cross[case] = np.where(np.outer(moves, moves), 2 * self._b * table, 0.0)
            spread += float(shares @ single[case] ** 2 + (shares @ cross[case] ** 2 @ shares) / 2)
        total = spread / len(expected) + float(expected.var())
        if total < 1e-12:
            nothing = np.zeros((self.n_knobs, self.n_knobs))
            return Importance(nothing[0], nothing, 0.0)
        tables = [self._by_choice(expected, single, i) for i in range(self.n_knobs)]
        alone = np.array([table.var() for table in tables])
        pairs = np.zeros((self.n_knobs, self.n_knobs))
        for i, j in itertools.combinations(range(self.n_knobs), 2):
            both = self._by_choices(expected, single, cross, i, j)
            both = both - tables[i][:, None] - tables[j][None, :] + expected.mean()
            pairs[i, j] = pairs[j, i] = float((both**2).mean())
        return Importance(alone / total, pairs / total, self.model.sd * math.sqrt(total))

    def _block(self, position: int) -> slice:
        start = int(self.space.offsets[position])
        return slice(start, start + int(self.space.n_values[position]))

    def _mean_over(self, values: Floats, at: Mapping[int, int]) -> Floats:
        """Return the mean of `values` over the cases with these choices; over all where none of
        the cases drawn has them."""
        here = np.ones(len(values), dtype=bool)
        for position, code in at.items():
            here &= self._choices[:, position] == code
        return np.asarray(values[here].mean(axis=0) if here.any() else values.mean(axis=0))

    def _by_choice(self, expected: Floats, single: Floats, i: int) -> Floats:
        """Return E[f | u_i] for each choice."""
        if self._asked[i]:
            codes = range(int(self.space.n_values[i]))
            return np.array([self._mean_over(expected, {i: code}) for code in codes])
        return np.asarray(expected.mean() + single[:, self._block(i)].mean(axis=0))

    def _by_choices(self, expected: Floats, single: Floats, cross: Floats, i: int, j: int
    ) -> Floats:  # fmt: skip
        """Return E[f | u_i, u_j], (n_values, n_values)."""
        if self._asked[j] and not self._asked[i]:
            return self._by_choices(expected, single, cross, j, i).T
        if not self._asked[i]:
            made = expected.mean() + single[:, self._block(i)].mean(axis=0)[:, None]
            made = made + single[:, self._block(j)].mean(axis=0)
            return np.asarray(made + cross[:, self._block(i), self._block(j)].mean(axis=0))
        codes = range(int(self.space.n_values[i]))
        if not self._asked[j]:
            rows = expected[:, None] + single[:, self._block(j)]
            return np.stack([self._mean_over(rows, {i: code}) for code in codes])
        others = range(int(self.space.n_values[j]))
        return np.array([[self._mean_over(expected, {i: a, j: b}) for b in others] for a in codes])
