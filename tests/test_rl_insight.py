"""What is said of a study, against refits and hand calculations."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from rl.insight import MOST_POINTS, Insight
from rl.model import RewardModel
from rl.records import Record, StudyRecord, read_study
from rl.samplers import DynaQSampler
from rl.space import Knob, SearchSpace

SPACE = SearchSpace(
    [
        Knob("a", (1, 2, 3)),
        Knob("noise", (0, 50)),
        Knob("snr", (0, 10), when={"noise": (50,)}),
        Knob("b", ("x", "y")),
    ]
)


def study(n: int = 25, *, sign: float = 1.0, seed: int = 0, **more) -> StudyRecord:
    rng = np.random.default_rng(seed)
    records = []
    for i, codes in enumerate(SPACE.draw(rng, n)):
        score = 0.5 + 0.2 * codes[0] + 0.1 * (codes[0] == 2) * codes[3] + 0.02 * rng.normal()
        seconds = (
            10 * (1 + (codes[0] == 1)) * (1.5 if codes[3] else 1) * math.exp(0.01 * rng.normal())
        )
        records.append(
            Record(i, "complete", SPACE.decode(codes), tuple(codes.tolist()), sign * score,
                   sign * score, seconds, ((1.0, sign * score),), i == 0, "")
        )  # fmt: skip
    given = {"trials": tuple(records), "maximise": sign > 0, "default": None} | more
    return StudyRecord(name="s", space=SPACE, finals=(), agent=None, seed=0, **given)


def test_the_best_so_far_is_that_of_a_model_fitted_to_the_trials_up_to_there() -> None:
    found = Insight(study())
    assert [best.after for best in found.path] == list(range(25))
    for count in (2, 9, 25):
        codes, scores = found.codes[:count], found.scores[:count]
        means, sds = RewardModel(SPACE, codes, scores.tolist()).posterior(codes)
        best = found.path[count - 1]
        assert best.score.mean == pytest.approx(means.max())
        at = int(means.argmax())
        assert best.score.high - best.score.mean == pytest.approx(1.96 * sds[at])
        assert (codes[best.number] == codes[at]).all()
    assert math.isnan(found.path[0].score.low)  # one score says nothing of how far they lie apart
    assert found.best.values["a"] == 3
    long = Insight(study(400)).path
    assert len(long) == MOST_POINTS
    assert (long[0].after, long[-1].after) == (0, 399)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Scores drawn from the model's own kind: a main effect of each knob and noise."""
    inside = []
    for seed in range(60):
        found = Insight(study(15, seed=seed))
        best = found.path[-1]
        codes = SPACE.encode(found.best.values)
        truth = 0.5 + 0.2 * codes[0] + 0.1 * (codes[0] == 2) * codes[3]
        inside.append(best.score.low <= truth <= best.score.high)
    assert np.mean(inside) > 0.8


def test_a_difference_is_the_posterior_s() -> None:
    found = Insight(study())
    one, other = {"a": 3, "noise": 0, "b": "y"}, {"a": 1, "noise": 50, "snr": 0, "b": "x"}
    codes = np.stack([SPACE.encode(one), SPACE.encode(other)])
    means, sds = found.model.posterior(codes)
    got = found.difference(one, other)
    assert got.mean == pytest.approx(means[0] - means[1])
    half = (got.high - got.low) / 2 / 1.96
    assert abs(sds[0] - sds[1]) < half < sds[0] + sds[1]  # whatever their correlation is
    same = found.difference(one, one)
    assert (same.mean, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-6)
    assert got.low > 0
    assert found.expected(one).mean == pytest.approx(means[0])


def test_foretelling_is_leaving_out_one_trial_at_a_time() -> None:
    found = Insight(study(30))
    model = found.model
    z = (found.scores - model.mean) / model.sd
    misses, plain = [], []
    for i in range(30):
        kept = np.arange(30) != i
        gram = model.kernel(model._indicators[kept] @ model._indicators[kept].T)
        gram += model.settings.noise * np.eye(29)
        likeness = model.kernel(model._indicators[kept] @ model._indicators[i])
        misses.append(z[i] - likeness @ np.linalg.solve(gram, z[kept]))
        plain.append(z[i] - z[kept].mean())
    expected = 1 - np.sum(np.square(misses)) / np.sum(np.square(plain))
    assert found.foretells == pytest.approx(expected)
    assert found.foretells > 0.8
    assert Insight(study(7)).foretells is None


def test_scores_of_pure_chance_are_not_foretold() -> None:
    given = study(60)
    rng = np.random.default_rng(1)
    shuffled = [
        Record(**{**vars(t), "score": s, "foretold": s})
        for t, s in zip(given.trials, rng.normal(size=60).tolist(), strict=True)
    ]
    assert Insight(study(60, trials=tuple(shuffled))).foretells < 0.1


def test_minimising_is_the_mirror_image() -> None:
    up, down = Insight(study()), Insight(study(sign=-1.0))
    for one, other in zip(up.path, down.path, strict=True):
        assert (one.after, one.number) == (other.after, other.number)
        assert one.score.mean == pytest.approx(-other.score.mean)
        if not math.isnan(one.score.low):
            assert one.score.low < one.score.mean < one.score.high
            assert other.score.low < other.score.mean < other.score.high
    for one, other in zip(up.knobs, down.knobs, strict=True):
        assert one.position == other.position
        assert [e.mean for e in one.effects] == pytest.approx([-e.mean for e in other.effects])
    for (one, share), (other, same) in zip(up.pairs(9), down.pairs(9), strict=True):
        assert share == pytest.approx(same)
        np.testing.assert_allclose(one.mean, -other.mean)
    assert up.best.values == down.best.values


def test_knobs_come_by_importance_and_a_pair_that_is_only_a_condition_is_left_out() -> None:
    found = Insight(study(40))
    assert SPACE.knobs[found.knobs[0].position].name == "a"
    assert found.knobs[0].alone > 0.8
    assert sum(found.knobs[0].counts) == 40
    pairs = [(pair.first, pair.second) for pair, _ in found.pairs(99)]
    assert pairs[0] == (0, 3)
    assert (1, 2) not in pairs  # snr exists with one value of noise: a row, and no table


def test_slow_values_are_found_and_others_not_blamed() -> None:
    costs = Insight(study(60)).costs
    assert [rows[0].knob for rows in costs[:2]] == ["a", "b"]
    a = [row.times.mean for row in costs[0]]
    assert a[1] / a[0] == pytest.approx(2, rel=0.1)
    b = [row.times.mean for row in costs[1]]
    assert b[1] / b[0] == pytest.approx(1.5, rel=0.1)
    for rows in costs[2:]:
        assert [row.times.mean for row in rows] == pytest.approx([1, 1], rel=0.05)
    assert sum(row.n for row in costs[0]) == 60


def test_little_or_nothing_is_borne() -> None:
    for n in (0, 1, 2):
        found = Insight(study(n))
        assert not found.knows
        assert found.knobs == found.pairs(3) == found.costs == []
        assert found.foretells is None
        assert (found.best is None) == (n == 0)
    given = study(12)
    equal = tuple(Record(**{**vars(t), "score": 0.5, "foretold": 0.5}) for t in given.trials)
    assert not Insight(study(12, trials=equal)).knows
    assert Insight(study(5)).default == given.trials[0].values  # the trial marked as default
    assert Insight(study(5, default={"a": 1})).default == {"a": 1}


def test_of_anybodys_study_the_best_is_what_the_model_expects_most_of() -> None:
    """The README's way to a recommendation: the luckiest of noisy scores is another setting."""
    rng = np.random.default_rng(1)
    study = optuna.create_study(direction="maximize", sampler=DynaQSampler(ucb=1.0, tries=2))

    def noisy(trial: optuna.Trial) -> float:
        return trial.suggest_int("x", 0, 9) - trial.suggest_int("y", 0, 9) + 4 * rng.normal()

    study.optimize(noisy, n_trials=60)
    found = Insight(read_study(study)).best.values
    assert found["x"] - found["y"] >= 7
    assert found["x"] - found["y"] >= study.best_params["x"] - study.best_params["y"]
