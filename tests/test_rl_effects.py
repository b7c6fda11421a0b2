"""Effects and importance of knobs and pairs against brute force over every choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rl import effects as effects_module
from rl.effects import Effects
from rl.model import ModelSettings, RewardModel
from rl.model_tuner import DynaQ
from rl.space import Knob, SearchSpace

PLAIN = SearchSpace([Knob("a", (1, 2, 3)), Knob("b", ("x", "y")), Knob("c", (0.1, 0.2, 0.3, 0.4))])
NESTED = SearchSpace(
    [
        Knob("a", (1, 2, 3)),
        Knob("noise", (0, 50)),
        Knob("snr", (0, 10, 20), when={"noise": (50,)}),
        Knob("kind", ("low", "high"), when={"noise": (50,), "a": (1, 3)}),
        Knob("depth", (1, 2), when={"kind": ("high",)}),
        Knob("b", ("x", "y")),
    ]
)
ALONE = SearchSpace([Knob("a", (1, 2, 3))])


def fitted(space: SearchSpace, n: int = 14, seed: int = 3) -> RewardModel:
    rng = np.random.default_rng(seed)
    codes = space.draw(rng, n)
    scores = 0.7 + 0.2 * codes[:, 0] * (codes[:, -1] == 1) + 0.05 * rng.normal(size=n)
    return RewardModel(space, codes, scores.tolist(), settings=ModelSettings(noise=0.1))


class Brute:
    """Every combination of choices, equally likely, and the posterior over all of them at once."""

    def __init__(self, model: RewardModel) -> None:
        space = model.space
        self.u = np.array(list(itertools.product(*(range(n) for n in space.n_values))))
        self.x = space.settle(self.u)
        self.exists = self.x < space.n_values
        self.mean = model.posterior(self.x)[0]
        z = model.indicators(self.x)
        prior = model.kernel(z @ z.T)
        tried = model.likeness(self.x)
        self.covariance = model.sd**2 * (prior - tried @ model._precision @ tried.T)

    def cell(self, **fixed: int) -> np.ndarray:
        """Return the weights of the choices in which these knobs (`k0=1`) exist and are so."""
        here = np.ones(len(self.u), dtype=bool)
        for name, code in fixed.items():
            here &= self.exists[:, int(name[1:])] & (self.x[:, int(name[1:])] == code)
        return here / max(here.sum(), 1)

    def variance(self, *positions: int) -> float:
        """Return the variance of E[f | the choices of these knobs]."""
        _, group = np.unique(self.u[:, positions], axis=0, return_inverse=True)
        group = group.ravel()
        return float((np.bincount(group, self.mean) / np.bincount(group)).var())


SPACES = pytest.mark.parametrize("space", [PLAIN, NESTED, ALONE], ids=["plain", "nested", "alone"])


def hold_to_brute_force(model: RewardModel) -> None:
    """Hold the effect of each knob to the mean over every setting that has it, and its doubt."""
    brute, made = Brute(model), Effects(model)
    for position, n in enumerate(model.space.n_values):
        cells = np.stack([brute.cell(**{f"k{position}": code}) for code in range(n)])
        centred = cells - cells.mean(axis=0)
        found = made.knob(position)
        np.testing.assert_allclose([e.mean for e in found], cells @ brute.mean, atol=1e-9)
        sds = np.sqrt(np.maximum(np.diag(centred @ brute.covariance @ centred.T), 0))
        np.testing.assert_allclose([e.sd for e in found], sds, atol=1e-5)


@SPACES
def test_the_effect_of_a_knob_is_the_mean_over_every_setting_that_has_it(space) -> None:
    hold_to_brute_force(fitted(space))


@SPACES
@pytest.mark.parametrize("kind", ["pending", "earlier"])
def test_pending_trials_and_earlier_studies_have_their_part_in_effects(space, kind) -> None:
    rng = np.random.default_rng(8)
    codes, others = space.draw(rng, 9), space.draw(rng, 12)
    scores, earlier = rng.normal(size=9), rng.normal(size=12)
    more = {"pending": others} if kind == "pending" else {"earlier": [(others, earlier.tolist())]}
    model = RewardModel(space, codes, scores.tolist(), **more)
    if kind == "earlier":  # whatever it was found to be
        model.relation = 0.6
        model._fit(codes, (scores - model.mean) / model.sd)
    hold_to_brute_force(model)


@SPACES
def test_the_agents_beliefs_are_means_over_every_setting_that_has_the_knob(space) -> None:
    model = fitted(space)
    agent = DynaQ(space)
    agent.model = model
    brute = Brute(model)
    for position, knob in enumerate(space.knobs):
        cells = [brute.cell(**{f"k{position}": code}) for code in range(len(knob.values))]
        found = [row["estimate"] for row in agent.beliefs()[knob.name]]
        np.testing.assert_allclose(found, np.stack(cells) @ brute.mean, atol=1e-9)


def test_of_a_value_that_is_in_no_setting_nothing_is_believed() -> None:
    space = SearchSpace(
        [
            Knob("a", (1, 2)),
            Knob("b", (1, 2), when={"a": (1,)}),
            Knob("c", (1, 2), when={"a": (2,), "b": (1,)}),
        ]
    )
    rows = DynaQ(space).beliefs()["c"]
    assert [(row["estimate"], row["sd"], row["count"]) for row in rows] == [(None, None, 0)] * 2


@SPACES
def test_a_pair_s_effect_and_interaction_are_those_of_the_cells(space) -> None:
    model = fitted(space)
    brute, made = Brute(model), Effects(model)
    for i, j in itertools.combinations(range(len(space.knobs)), 2):
        shape = space.n_values[i], space.n_values[j]
        at = list(itertools.product(range(shape[0]), range(shape[1])))
        cells = np.stack([brute.cell(**{f"k{i}": a, f"k{j}": b}) for a, b in at])
        there = cells.sum(axis=1) > 0
        found = made.pair(i, j)
        assert np.isnan(found.mean.ravel()).tolist() == (~there).tolist()
        cells = cells[there]
        np.testing.assert_allclose(found.mean.ravel()[there], cells @ brute.mean, atol=1e-9)
        centred = cells - cells.mean(axis=0)
        sds = np.sqrt(np.maximum(np.diag(centred @ brute.covariance @ centred.T), 0))
        np.testing.assert_allclose(found.sd.ravel()[there], sds, atol=1e-5)
        if there.all():  # the textbook's doubly centred table
            table = (np.eye(len(cells)) - 1 / len(cells)).reshape(*shape, len(cells))
            table = table - table.mean(axis=0) - table.mean(axis=1)[:, None]
            contrast = table.reshape(len(cells), -1) @ cells
            np.testing.assert_allclose(found.interaction.ravel(), contrast @ brute.mean, atol=1e-9)
            sds = np.sqrt(np.maximum(np.diag(contrast @ brute.covariance @ contrast.T), 0))
            np.testing.assert_allclose(found.interaction_sd.ravel(), sds, atol=1e-5)


@SPACES
def test_importance_is_the_analysis_of_variance_over_every_choice(space) -> None:
    model = fitted(space)
    brute, found = Brute(model), Effects(model).importance
    total = float(brute.mean.var())
    assert found.sd == pytest.approx(total**0.5)
    alone = [brute.variance(i) for i in range(len(space.knobs))]
    np.testing.assert_allclose(found.alone, np.array(alone) / total, atol=1e-9)
    for i, j in itertools.combinations(range(len(space.knobs)), 2):
        share = (brute.variance(i, j) - alone[i] - alone[j]) / total
        assert found.pairs[i, j] == found.pairs[j, i] == pytest.approx(share, abs=1e-9)
    whole = found.alone.sum() + np.triu(found.pairs).sum() + found.rest
    assert whole == pytest.approx(1)
    assert (found.rest > 1e-6) == (space is NESTED)  # without conditions, pairs are all there is


def test_the_knob_that_matters_comes_first_and_one_that_does_not_is_near_nothing() -> None:
    rng = np.random.default_rng(0)
    codes = PLAIN.draw(rng, 60)
    scores = codes[:, 2] + 0.01 * rng.normal(size=60)
    found = Effects(RewardModel(PLAIN, codes, scores.tolist())).importance
    assert found.alone[2] > 0.95
    assert found.together[[0, 1]].max() < 0.05


def test_an_interaction_without_main_effects_is_seen_as_one() -> None:
    every = PLAIN.every(100)
    sign = np.where((every[:, 0] == 0) == (every[:, 1] == 0), 1.0, -1.0)
    made = Effects(RewardModel(PLAIN, every, sign.tolist()))
    assert made.importance.pairs[0, 1] > 0.5
    found = made.pair(0, 1)
    assert found.interaction[0, 0] > 5 * found.interaction_sd[0, 0] > 0


def test_equal_scores_make_nothing_important() -> None:
    model = RewardModel(PLAIN, PLAIN.draw(np.random.default_rng(0), 5), [0.5] * 5)
    found = Effects(model).importance
    assert found.sd == 0
    assert not found.together.any()


def test_very_many_cases_are_drawn_and_come_close(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted(NESTED)
    exact = Effects(model).importance
    monkeypatch.setattr(effects_module, "MOST_CASES", 11)  # of 12: a, noise and kind are asked
    drawn = Effects(model).importance
    np.testing.assert_allclose(drawn.alone, exact.alone, atol=0.25)
    assert np.isfinite(drawn.pairs).all()
    assert len(Effects(model)._choices) == 11


def test_a_pair_with_very_many_cells_has_means_but_no_deviations() -> None:
    wide = SearchSpace([Knob("a", tuple(range(21))), Knob("b", tuple(range(20)))])
    found = Effects(fitted(wide)).pair(0, 1)
    assert np.isfinite(found.mean).all()
    assert np.isnan(found.sd).all()
