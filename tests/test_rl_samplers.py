"""The agents as Optuna samplers: one contract for every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from rl.policies import Drawers, EpsilonGreedy
from rl.samplers import (
    DynaQSampler,
    EpsilonGreedySampler,
    QLearningSampler,
    RandomSettingsSampler,
    make_sampler,
)
from rl.space import Knob, SearchSpace
from rl.trial_settings import Reader
from rl.tuners import RandomSettings
from rl.values import ActionValues

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = SearchSpace(
    [
        Knob("a", ("x", "y", "z")),
        Knob("noise", (0.0, 50.0)),
        Knob("snr", (0.0, 10.0), when={"noise": (50.0,)}),
        Knob("m", (40, 64, None)),
    ]
)
OURS = ["dyna-q-ucb", "dyna-q", "epsilon-greedy", "ucb", "thompson", "q-learning", "random"]


def score(values: Mapping) -> float:
    return (
        {"x": 0.0, "y": 0.5, "z": 0.2}[values["a"]]
        + 0.3 * (values["m"] == 64)
        - values["noise"] / 100
        + values.get("snr", 0.0) / 50
    )


def choose(trial: optuna.Trial) -> dict:
    values: dict = {}
    while (knob := SPACE.next_knob(values)) is not None:
        values[knob.name] = trial.suggest_categorical(knob.name, knob.values)
    return values


def search(name: str, n: int, *, seed: int = 1, direction: str = "maximize",
           given: bool = True, sign: float = 1.0, **parameters) -> optuna.Study:  # fmt: skip
    sampler = make_sampler(name, SPACE if given else None, seed, **parameters)
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.optimize(lambda trial: sign * score(choose(trial)), n_trials=n)
    return study


def params(study: optuna.Study) -> list[dict]:
    return [t.params for t in study.trials]


@pytest.mark.parametrize("name", OURS)
def test_a_small_space_is_exhausted_exactly_once_each_and_then_goes_on(name: str) -> None:
    study = search(name, SPACE.size() + 2, tries=1)
    first = params(study)[: SPACE.size()]
    assert sorted(map(str, first)) == sorted(map(str, SPACE.settings()))


@pytest.mark.parametrize("name", ["dyna-q-ucb", "q-learning", "tpe"])
def test_a_study_continued_from_its_file_is_the_uninterrupted_one(
    name: str, tmp_path: Path
) -> None:
    whole = params(search(name, 14, n_random=4))
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    for n in (5, 9):
        study = optuna.create_study(
            storage=storage, study_name="s", load_if_exists=True, direction="maximize",
            sampler=make_sampler(name, SPACE, 1, n_random=4),
        )  # fmt: skip
        study.optimize(lambda trial: score(choose(trial)), n_trials=n)
    assert params(study) == whole


@pytest.mark.parametrize("name", [*OURS, "tpe"])
def test_trials_that_were_killed_leave_no_trace_in_the_choices(name: str) -> None:
    whole = params(search(name, 14, n_random=4))
    study = optuna.create_study(
        direction="maximize", sampler=make_sampler(name, SPACE, 1, n_random=4)
    )
    kept = []
    for i in range(17):
        trial = study.ask()
        values = choose(trial)
        if i in (2, 3, 9):
            trial.set_user_attr("killed", True)
            study.tell(trial, state=TrialState.FAIL)
            continue
        kept.append(values)
        study.tell(trial, score(values))
    assert kept == whole


@pytest.mark.parametrize("name", OURS)
def test_minimising_is_maximising_the_negative(name: str) -> None:
    up = search(name, 15, n_random=3)
    down = search(name, 15, n_random=3, direction="minimize", sign=-1.0)
    assert params(up) == params(down)


@pytest.mark.parametrize("name", OURS)
def test_seeds_reproduce_and_differ(name: str) -> None:
    assert params(search(name, 9, seed=5)) == params(search(name, 9, seed=5))
    assert params(search(name, 9, seed=5)) != params(search(name, 9, seed=6))


@pytest.mark.parametrize("name", OURS)
def test_an_enqueued_setting_comes_first_and_is_not_tried_again(name: str) -> None:
    sampler = make_sampler(name, SPACE, 0, tries=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(SPACE.default())
    study.optimize(lambda trial: score(choose(trial)), n_trials=SPACE.size())
    assert params(study)[0] == SPACE.default()
    assert len(set(map(str, params(study)))) == SPACE.size()


@pytest.mark.parametrize("name", OURS)
def test_what_is_fixed_stays_and_the_rest_is_planned_around_it(name: str) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=make_sampler(name, SPACE, 0, n_random=2, tries=1)
    )
    for _ in range(6):
        study.enqueue_trial({"noise": 50.0, "m": None})
    study.optimize(lambda trial: score(choose(trial)), n_trials=6)
    assert all(p["noise"] == 50.0 and p["m"] is None for p in params(study))
    assert len(set(map(str, params(study)))) == 6  # 3 values of a by 2 of snr


def test_more_workers_than_settings_left_repeat_one_and_do_not_hang() -> None:
    study = optuna.create_study(direction="maximize", sampler=make_sampler("dyna-q", SPACE, 0))
    for _ in range(7):  # of which 6 can differ
        study.enqueue_trial({"noise": 50.0, "m": None})
    for trial in [study.ask() for _ in range(7)]:
        choose(trial)
    assert len(set(map(str, params(study)))) == 6


@pytest.mark.parametrize("name", OURS)
def test_settings_under_way_elsewhere_are_not_chosen(name: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, SPACE, 0))
    asked = [study.ask() for _ in range(SPACE.size())]
    for trial in asked:
        choose(trial)  # none is told: all run at once
    assert len(set(map(str, params(study)))) == SPACE.size()


@pytest.mark.parametrize("space", [SPACE, None])
@pytest.mark.parametrize("name", OURS)
def test_a_setting_is_tried_so_often_and_one_after_another(
    name: str, space: SearchSpace | None
) -> None:
    """Two trials at a time, of which a third fails: what failed is not tried again."""
    sampler = make_sampler(name, space, 0, tries=2)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    noise = np.random.default_rng(0).normal(size=100)
    failed: list[dict] = []
    chosen: list[dict] = []
    for number in range(0, 36 if space else 18, 2):
        pair = [study.ask(), study.ask()]
        values = [choose(trial) for trial in pair]
        if space or number > 10:  # without one what knobs there are is learnt first
            assert values[0] != values[1]
            assert not [v for v in values if v in failed]
        for trial, tried in zip(pair, values, strict=True):
            chosen.append(tried)
            if trial.number % 3 == 0:
                study.tell(trial, state=TrialState.FAIL)
                failed.append(tried)
            else:
                study.tell(trial, score(tried) + noise[trial.number])
    known = chosen if space else chosen[10:]
    assert max(known.count(values) for values in known) <= 2


def test_dyna_q_looks_twice_at_good_settings_of_a_search_and_once_of_its_own_accord() -> None:
    rng = np.random.default_rng(3)
    space = SearchSpace([Knob(f"k{i}", (0, 1, 2, 3)) for i in range(4)])

    def noisy(trial: optuna.Trial) -> float:
        values = [trial.suggest_categorical(knob.name, knob.values) for knob in space.knobs]
        return sum(values) + float(rng.normal()) * 2

    for sampler, most in (
        (make_sampler("dyna-q-ucb", space, 0), 2),
        (make_sampler("dyna-q-ucb", space, 0, tries=3), 3),
        (DynaQSampler(space=space, ucb=1.0), 1),
    ):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(noisy, n_trials=60)
        found = [tuple(p.values()) for p in params(study)]
        looks = {values: found.count(values) for values in found}
        assert max(looks.values()) == most
        if most > 1:
            often = [sum(values) for values, n in looks.items() if n == most]
            assert np.mean(often) > np.mean([sum(values) for values in looks]) + 1
    with pytest.raises(ValueError, match="tries=0 must be 1 or more"):
        DynaQSampler(tries=0)


@pytest.mark.parametrize(("killed", "holds"), [(True, False), ("died", True)])
def test_a_trial_that_is_to_be_run_again_holds_its_setting(killed: object, holds: bool) -> None:
    """Else another worker could take the setting before it is."""
    study = optuna.create_study(direction="maximize", sampler=make_sampler("dyna-q", SPACE, 0))
    trial = study.ask()
    values = choose(trial)
    trial.set_user_attr("killed", killed)
    study.tell(trial, state=TrialState.FAIL)
    assert (tuple(SPACE.encode(values)) in Reader(SPACE).tried(study.trials)) == holds


def test_a_failed_setting_counts_as_tried_and_a_pruned_one_brings_its_last_value() -> None:
    study = optuna.create_study(
        direction="maximize", sampler=EpsilonGreedySampler(space=SPACE, n_random=3)
    )

    def objective(trial: optuna.Trial) -> float:
        values = choose(trial)
        if trial.number % 3 == 1:
            raise RuntimeError
        if trial.number % 3 == 2:
            trial.report(-9.0, 0)
            trial.report(-4.0, 1)
            raise optuna.TrialPruned
        return score(values)

    study.optimize(objective, n_trials=15, catch=RuntimeError)
    assert len(set(map(str, params(study)))) == 15
    agent = study.sampler.fitted(study)
    rows = agent.beliefs()["a"]
    assert sum(row["count"] for row in rows) == 10
    for row in rows:
        rewards = [
            t.value for t in study.trials if t.params["a"] == row["value"] and t.value is not None
        ]
        assert row["estimate"] == pytest.approx(sum(rewards) / len(rewards))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_score_of_infinity_teaches_what_the_worst_score_teaches(name: str, direction) -> None:
    worst = 10.0 if direction == "minimize" else -10.0
    study = search("random", 10, direction=direction)
    fitted = []
    for bad in (float("inf"), worst):
        trials = [t for t in study.trials if t.number != 6]
        again = optuna.create_study(direction=direction, sampler=make_sampler(name, SPACE, 1))
        again.add_trials([*trials[:-1], *(again_scored(t, worst) for t in trials[-1:])])
        again.add_trial(again_scored(study.trials[6], bad))
        fitted.append(again.sampler.fitted(again))
    assert fitted[0].beliefs() == fitted[1].beliefs()
    assert fitted[0].greedy() == fitted[1].greedy()


def again_scored(trial: optuna.trial.FrozenTrial, value: float) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        value=value, params=trial.params, distributions=trial.distributions
    )


@pytest.mark.parametrize("name", OURS)
def test_define_by_run_works_without_a_space(name: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        values = choose(trial)
        layers = trial.suggest_int("layers", 2, 8, step=2)
        rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
        share = trial.suggest_float("share", 0.0, 0.3, step=0.1)
        assert 1e-4 <= rate <= 1.0
        return score(values) + (layers == 6) - share

    def run() -> list[dict]:
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name, None, 3))
        study.optimize(objective, n_trials=30)
        return params(study)

    made = run()
    assert made == run()
    if name != "random":  # what it settles on is better than chance
        late = made[18:]
        assert sum(p["layers"] == 6 for p in late) > len(late) / 2


@pytest.mark.parametrize("name", OURS)
def test_steps_stay_in_their_range_whatever_rounding_makes_of_them(name: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, None, 1))
    study.optimize(lambda t: t.suggest_float("x", 0.1, 0.7, step=0.1), n_trials=30)
    assert {t.params["x"] for t in study.trials} >= {0.7}
    for trial in study.trials:  # Optuna's own check
        optuna.create_study().add_trial(trial)


@pytest.mark.parametrize("name", OURS)
def test_an_enqueued_step_is_the_knobs_value_though_rounding_tells_them_apart(name: str) -> None:
    assert 0.3 != 0.0 + 3 * 0.1
    study = optuna.create_study(sampler=make_sampler(name, None, 1))
    study.enqueue_trial({"x": 0.3})

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0, step=0.1)
        return x + trial.suggest_categorical("y", [0])

    study.optimize(objective, n_trials=11)
    assert sorted(round(10 * x["x"]) for x in params(study)) == list(range(11))
    beliefs = study.sampler.fitted(study).beliefs()["x"]
    assert [row["count"] for row in beliefs] == [1] * 11


@pytest.mark.parametrize("name", [n for n in OURS if n != "random"])
def test_agents_find_good_settings(name: str) -> None:
    best = max(score(s) for s in SPACE.settings())
    found = [search(name, 12, seed=s, n_random=5).best_value for s in range(5)]
    assert sum(v == pytest.approx(best) for v in found) >= 3


def test_without_a_bound_the_best_setting_is_tried_again_and_again() -> None:
    study = search("dyna-q", 40, tries=None)
    assert len(set(map(str, params(study)))) < SPACE.size()
    late = [score(p) for p in params(study)[20:]]
    assert late.count(max(score(s) for s in SPACE.settings())) > 5


@pytest.mark.parametrize("name", [*OURS, "tpe"])
def test_without_a_seed_one_is_drawn(name: str) -> None:
    samplers = [make_sampler(name, None, None) for _ in range(2)]
    assert samplers[0].seed != samplers[1].seed
    study = optuna.create_study(sampler=samplers[0])
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)


def test_parameters_reach_the_agents() -> None:
    sampler = QLearningSampler(state="prefix", n=1, replays=4, space=SPACE)
    agent = sampler.agent(SPACE)
    assert (agent.state, agent.n, agent.replays) == ("prefix", 1, 4)
    assert DynaQSampler(ucb=0.5).agent(SPACE).ucb == 0.5
    with pytest.raises(ValueError, match="'gp' is not one of"):
        make_sampler("gp", SPACE, 0)


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=RandomSettingsSampler(space=SPACE)
    )
    with pytest.raises(ValueError, match="multi-objective"):
        study.ask().suggest_categorical("a", ("x", "y", "z"))


class Overtaken(RandomSettingsSampler):
    """One whose notes are replaced by another thread's as soon as they are written."""

    def __setattr__(self, name: str, value) -> None:
        others = {"_reader": Reader(OTHER), "_fitted": (None, RandomSettings(OTHER))}
        super().__setattr__(name, value if value is None else others.get(name, value))


OTHER = SearchSpace([Knob("other", (1, 2))])


def test_threads_do_not_take_each_others_notes() -> None:
    sampler = Overtaken(space=SPACE)
    assert sampler._reading(SPACE).space == SPACE
    assert sampler.fitted(optuna.create_study(sampler=sampler)).space == SPACE

    class Emptied(dict):
        def __setitem__(self, key, value) -> None:
            """Another thread is a step further, and forgets what was kept."""

    drawers = Drawers(EpsilonGreedy(0.0), ActionValues(2))
    drawers._kept = Emptied()
    assert drawers.get("state", np.array([False, True]), 0)(np.random.default_rng(0)) == 1


def test_tpe_keeps_apart_the_trials_under_way() -> None:
    def asked(order: str) -> list[dict]:
        study = optuna.create_study(sampler=make_sampler("tpe", None, 1))
        trials = [study.ask(), study.ask()]
        for number in order:
            trial = trials[int(number)]
            trial.suggest_float(f"x{len(trial.params)}", 0.0, 1.0)
        for trial in trials:
            study.tell(trial, 0.0)
        assert not study.sampler._of
        return params(study)

    assert asked("000111") == asked("010101")
