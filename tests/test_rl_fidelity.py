"""Trials that end early: who ends them, and what they would have come to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from rl.fidelity import LEAST_FINISHED, Forecast, Halving, make_pruner

optuna.logging.set_verbosity(optuna.logging.ERROR)


def finished(*curve: float) -> optuna.trial.FrozenTrial:
    steps = dict(enumerate(curve, 1))
    return create_trial(value=curve[-1], intermediate_values=steps)


def pruned(*curve: float, **attrs) -> optuna.trial.FrozenTrial:
    steps = dict(enumerate(curve, 1))
    return create_trial(
        state=TrialState.PRUNED, value=curve[-1], intermediate_values=steps, user_attrs=attrs
    )


def test_a_pruned_trial_is_worth_what_the_finished_ones_foretell() -> None:
    rng = np.random.default_rng(3)
    first = rng.uniform(0.2, 0.6, 12)
    last = 0.3 + 0.8 * first + rng.normal(0, 0.02, 12)
    trials = [finished(a, (a + b) / 2, b) for a, b in zip(first, last, strict=True)]
    slope, intercept = np.polyfit(first, last, 1)  # numpy's least squares, as a second opinion
    forecast = Forecast(trials)
    assert forecast.score(pruned(0.5)) == pytest.approx(intercept + slope * 0.5)
    assert forecast.score(trials[0]) == last[0]
    assert forecast.score(create_trial(state=TrialState.FAIL)) is None


def test_between_two_scores_a_straight_line_is_taken() -> None:
    rng = np.random.default_rng(4)
    curves = np.sort(rng.uniform(0, 1, (8, 3)), axis=1)
    sparse = [create_trial(value=c, intermediate_values={2: a, 4: b, 8: c}) for a, b, c in curves]
    slope, intercept = np.polyfit((curves[:, 0] + curves[:, 1]) / 2, curves[:, 2], 1)
    forecast = Forecast(sparse)
    assert forecast.line(3) == pytest.approx((slope, intercept))
    assert forecast.line(1) == (1.0, 0.0)  # none of them tells of it


def test_with_too_few_finished_trials_the_last_score_stands() -> None:
    few = [finished(0.1 * i, 0.9) for i in range(LEAST_FINISHED - 1)]
    assert Forecast(few).score(pruned(0.25)) == 0.25
    alike = [finished(0.4, 0.1 * i) for i in range(9)]
    assert Forecast(alike).score(pruned(0.25)) == 0.25


def test_a_forecast_never_turns_the_order_of_settings_round() -> None:
    falling = [finished(0.1 * i, 1 - 0.1 * i) for i in range(8)]
    forecast = Forecast(falling)
    assert forecast.score(pruned(0.1)) == pytest.approx(forecast.score(pruned(0.7)))


def ended(curves: Sequence[Sequence[float]], pruner: optuna.pruners.BasePruner,
          direction: str = "maximize", killed: Sequence[int] = ()) -> list[int]:  # fmt: skip
    """Return how many epochs each trial got."""
    study = optuna.create_study(direction=direction, pruner=pruner)
    lengths = []
    for curve in curves:
        trial = study.ask()
        n = 0
        for n, value in enumerate(curve, 1):
            trial.report(value, n)
            if n < len(curve) and trial.should_prune():
                break
        lengths.append(n)
        if trial.number in killed:
            trial.set_user_attr("killed", True)
        state = TrialState.COMPLETE if n == len(curve) else TrialState.PRUNED
        study.tell(trial, curve[n - 1] if n == len(curve) else None, state=state)
    return lengths


def test_halving_lets_the_best_third_at_a_rung_go_on() -> None:
    curves = [[level] * 9 for level in (0.5, 0.4, 0.6, 0.3, 0.55, 0.7)]
    # after 1 epoch: .5 is alone; .4 is worse; .6 leads; .3 no; .55 is second of five; .7 leads
    assert ended(curves, Halving((1, 3))) == [9, 1, 9, 1, 1, 9]
    negative = [[-level for level in curve] for curve in curves]
    assert ended(negative, Halving((1, 3)), "minimize") == [9, 1, 9, 1, 1, 9]
    late = [[0.5] * 9, [0.6, 0.6, 0.1, *[0.9] * 6]]  # leads at the first rung, not at the second
    assert ended(late, Halving((1, 3))) == [9, 3]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_halving_ends_what_has_no_number_and_compares_nothing_with_it(direction, bad) -> None:
    sign = 1.0 if direction == "maximize" else -1.0
    curves = [[bad] * 9, [sign * 0.5] * 9, [bad] * 9, [sign * 0.6] * 9, [sign * 0.4] * 9]
    assert ended(curves, Halving((1, 3)), direction) == [1, 9, 1, 9, 1]


@pytest.mark.parametrize("bad", [float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_the_worst_and_spoils_no_others(bad) -> None:
    rng = np.random.default_rng(3)
    curves = rng.uniform(0.2, 0.6, (12, 2))
    good = [finished(*curve) for curve in curves.tolist()]
    for i, trial in enumerate(good):
        trial.set_user_attr("block", i % 2)
    odd = [create_trial(value=bad), finished(bad, 0.4), finished(bad, bad, 0.4), pruned(0.5, bad)]
    fine, forecast = Forecast(good), Forecast([*good, odd[0]])
    part = pruned(0.01, block=1)
    assert forecast.score(part) == fine.score(part)
    assert forecast.line(1) == fine.line(1)
    assert [forecast.score(t) for t in good] == [fine.score(t) for t in good]
    scores = [fine.score(t) for t in good]
    assert forecast.score(odd[0]) == forecast.score(odd[3]) == min(scores)
    assert Forecast([*good, odd[0]], maximise=False).score(odd[0]) == max(scores)
    assert Forecast([*good, *odd[1:3]]).line(1) == pytest.approx(fine.line(1))
    assert Forecast(odd[:1]).score(odd[0]) is None


def test_killed_trials_do_not_compete() -> None:
    curves = [[0.9] * 9, [0.5] * 9]
    assert ended(curves, Halving((1, 3))) == [9, 1]
    assert ended(curves, Halving((1, 3)), killed=[0]) == [9, 9]


def test_pruners_by_name() -> None:
    curves = [[0.5] * 9] * 6 + [[0.1] * 9]
    assert ended(curves, make_pruner("none", 9)) == [9] * 7
    assert ended(curves, make_pruner("median", 9))[-1] == 3  # a third of the epochs
    assert ended(curves, make_pruner("halving", 9))[-1] == 1
    assert isinstance(make_pruner("hyperband", 9), optuna.pruners.HyperbandPruner)
    assert make_pruner("halving", 2).rungs == (1,)
    with pytest.raises(ValueError, match="'ashes' is not one of"):
        make_pruner("ashes", 9)
