"""Landscapes, the tuners that others use, and the contest between them and ours."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest

from rl.compare import (
    EARLY,
    ONCE,
    OURS,
    RIVALS,
    SLOW,
    ComparisonError,
    Queries,
    Run,
    contest,
    log_auc,
    log_points,
    mean_ranks,
    play,
    ratio_interval,
    summary,
    trials_to_reach,
)
from rl.landscape import Landscape, LandscapeError, additivity, shipped, shipped_names
from rl.rivals import BanditPerKnob, RegularisedEvolution
from rl.space import Knob, SearchSpace
from scripts import compare as script

SPACE = SearchSpace([Knob("a", (0, 1, 2, 3)), Knob("b", ("x", "y", "z")), Knob("c", (0, 1, 2))])


def made_up(seed: int = 0, *, pair: float = 0.0, noise: float = 0.02, n_seeds: int = 3,
            space: SearchSpace = SPACE) -> Landscape:  # fmt: skip
    """Return a landscape of main effects, pairs and noise, in hundredths of 200 clips."""
    rng = np.random.default_rng(seed)
    codes = np.array([space.encode(s) for s in space.settings()])
    mean = np.zeros(len(codes))
    for i, knob in enumerate(space.knobs):
        mean += rng.normal(size=len(knob.values) + 1)[codes[:, i]]
    if pair:
        mean += pair * rng.normal(size=(5, 5))[codes[:, 0], codes[:, 1]]
    mean = 0.5 + 0.1 * (mean - mean.mean()) / mean.std()
    scores = {}
    for split in ("validation", "test"):
        final = mean[:, None] + noise * rng.normal(size=(len(codes), n_seeds))
        curve = final[..., None] * np.array([0.5, 0.8, 1.0])
        scores[split] = (np.rint(curve * 200) / 200).astype(np.float32)
    seconds = np.ones((len(codes), n_seeds), np.float32)
    return Landscape("made up", space, scores["validation"], scores["test"], seconds,
                     {"n_validation": 200, "n_test": 200})  # fmt: skip


def flat() -> Landscape:
    """Return a landscape on which every setting scores the same."""
    whole = made_up()
    same = np.full_like(whole.validation, 0.5)
    return Landscape("flat", SPACE, same, same, whole.seconds, whole.about)


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return made_up()


def test_a_landscape_is_the_same_after_saving_and_loading(landscape, tmp_path):
    landscape.save(tmp_path / "l.npz")
    again = Landscape.load(tmp_path / "l.npz")
    assert again.space == landscape.space
    assert again.name == landscape.name
    for name in ("validation", "test", "seconds"):
        np.testing.assert_allclose(getattr(again, name), getattr(landscape, name), atol=1e-6)


def test_scores_that_are_no_counts_are_saved_as_they_are(landscape, tmp_path):
    replace(landscape, about={"n_test": 200}, validation=landscape.test / 3).save(
        tmp_path / "l.npz"
    )
    again = Landscape.load(tmp_path / "l.npz")
    assert np.array_equal(again.validation, landscape.test / 3)
    assert np.array_equal(again.test, landscape.test)


def not_quite(landscape, path) -> list[bytes]:
    """Return the bytes of files that are no landscape."""
    landscape.save(path)
    whole = path.read_bytes()
    made = [b"nothing", b"", whole[:1000], whole[:-30], whole[:500] + bytes(500) + whole[1000:]]
    for parts in (
        {"header": np.frombuffer(b"{}", np.uint8)},
        {"header": np.frombuffer(b"[]", np.uint8)},
        {"header": np.frombuffer(b'{"format": 1, "name": "x", "about": {}}', np.uint8)},
        {"other": np.ones(3)},
    ):
        np.savez(path, **parts)
        made.append(path.read_bytes())
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    return [*made, path.read_bytes()]


def test_a_file_that_is_no_landscape_is_refused_by_its_path(landscape, tmp_path):
    path = tmp_path / "l.npz"
    for content in not_quite(landscape, path):
        path.write_bytes(content)
        with pytest.raises(LandscapeError, match=r"l\.npz: no landscape"):
            Landscape.load(path)
    with pytest.raises(LandscapeError, match="fsdd-digits"):
        shipped("fsdd-nothing")


def test_scores_must_be_of_the_space():
    whole = made_up()
    with pytest.raises(LandscapeError, match="36 settings"):
        Landscape("cut", SPACE, whole.validation[:5], whole.test[:5], whole.seconds, whole.about)
    with pytest.raises(LandscapeError, match="no setting"):
        whole.row({"a": 1, "b": "x"})


@pytest.mark.parametrize("name", shipped_names())
def test_what_comes_with_melbandit_is_whole_and_has_numbers_only(name):
    table = shipped(name)
    assert len(table) == table.space.size() == {"fsdd-digits": 648, "fsdd-speakers": 864}[name]
    assert table.n_seeds == 3
    for split in ("validation", "test"):
        scores = getattr(table, split)
        assert ((scores >= 0) & (scores <= 1)).all()
        last = scores[:, :, -1]
        chance = 1 / table.about["n_labels"]
        assert last.mean() > 2 * chance  # they did learn
        assert last.std() > 0
    # a setting's seeds agree more than settings do, or there would be nothing to find
    assert table.validation[:, :, -1].std(1).mean() < table.mean().std()


def test_additivity_sees_main_effects_and_pairs():
    alone = additivity(made_up(noise=0.0))
    assert alone["main"] > 0.98
    assert alone["ceiling"] == pytest.approx(1, abs=1e-3)
    # three of four pairs of (a, b) never held out together: pairs can be predicted
    space = SearchSpace([Knob("a", (0, 1, 2, 3)), Knob("b", (0, 1, 2)), Knob("c", tuple(range(9)))])
    paired = additivity(made_up(1, pair=3.0, noise=0.0, space=space))
    assert paired["main"] < 0.9 < paired["main and pairs"]
    assert additivity(flat())["ceiling"] == 0
    assert np.isnan(additivity(made_up(n_seeds=1))["ceiling"])  # of one seed no noise is known
    noisy = additivity(made_up(noise=0.2))
    assert noisy["ceiling"] < 0.7


def test_each_query_shows_another_seed_and_the_last_one_never(landscape):
    queries = Queries(landscape, run=4)
    row = 7
    order = queries.order[row]
    seen = [queries.curve(row)[-1] for _ in range(4)]
    finals = landscape.validation[row, :, -1]
    assert seen == pytest.approx([finals[order[0]], finals[order[1]], *[finals[order[1]]] * 2])
    assert queries.hidden(row) == pytest.approx(finals[order[2]])
    assert queries.hidden(8) == pytest.approx(landscape.validation[8, :, -1].mean())


def test_regret_is_0_at_the_best_and_1_on_average(landscape):
    queries = Queries(landscape, run=0)
    regrets = np.array([queries.regret(row) for row in range(len(landscape))])
    assert regrets[landscape.mean().argmax()] == pytest.approx(0)
    assert regrets.mean() == pytest.approx(1)


def test_one_training_of_each_setting_cannot_be_a_contest():
    with pytest.raises(ComparisonError, match="--seeds 2"):
        contest(made_up(n_seeds=1), ["random"], n_runs=1, n_trials=3)


def test_all_tuners_have_the_same_luck(landscape):
    one, other = Queries(landscape, 3), Queries(landscape, 3)
    assert (one.order == other.order).all()
    assert (Queries(landscape, 5).order != one.order).any()


@pytest.mark.parametrize("name", [*OURS, *RIVALS, *EARLY, *SLOW, *ONCE])
def test_every_tuner_plays_through_and_can_be_repeated(name, landscape):
    first, second = (play(landscape, name, 2, 12) for _ in range(2))
    for part in ("cost", "observed", "modelled", "test"):
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))
    assert first.cost[-1] >= 12 - 1e-9
    if name not in EARLY:
        assert first.cost.tolist() == list(range(1, 13))
    assert np.isfinite(first.observed).all()


@pytest.mark.parametrize("name", EARLY)
def test_who_stops_early_pays_for_the_epochs_used(name, landscape):
    run = play(landscape, name, 1, 15)
    steps = np.diff(run.cost, prepend=0)
    assert set(np.round(steps * 3).astype(int)) <= {1, 2, 3}  # of three epochs
    assert (steps < 0.99).any()


def test_what_is_observed_best_is_the_best_of_what_was_shown():
    landscape = made_up(noise=0.0)  # nothing to be unlucky about
    run = play(landscape, "random", 0, 20)
    assert (np.diff(run.observed) <= 1e-6).all()
    assert play(landscape, "random", 0, 36).observed[-1] == pytest.approx(0, abs=1e-6)


def test_the_agent_finds_the_best_setting_of_an_additive_landscape_in_a_third_of_it():
    ends = [play(made_up(seed, noise=0.01), "dyna-q-ucb", 0, 12).modelled[-1] for seed in range(6)]
    chance = [play(made_up(seed, noise=0.01), "random", 0, 12).observed[-1] for seed in range(6)]
    assert np.mean(ends) < 0.1 < np.mean(chance)


def curve_of(cost: list[float], regret: list[float]) -> Run:
    made = np.array(regret)
    return Run(np.array(cost, float), made, made, 1 - made, 0.001)


def test_a_budget_buys_what_was_paid_for():
    run = curve_of([0.5, 1.5, 2.5], [0.9, 0.5, 0.1])
    assert run.at([0.4, 0.5, 1, 2, 3], "observed").tolist() == [1, 0.9, 0.9, 0.5, 0.1]


def test_log_auc_is_the_mean_over_the_logarithm_of_the_budget():
    run = curve_of(list(range(1, 5)), [1.0, 0.5, 0.5, 0.0])
    weights = np.array([1, 1 / 2, 1 / 3, 1 / 4])
    by_hand = (weights * [1.0, 0.5, 0.5, 0.0]).sum() / weights.sum()
    assert log_auc(run, 1, 4, "observed") == pytest.approx(by_hand)
    assert log_auc(run, 3, 3, "observed") == 0.5


def test_the_interval_of_a_ratio_is_paired():
    rng = np.random.default_rng(0)
    luck = rng.exponential(size=200)  # shared by both, and large
    ratio, low, high = ratio_interval(0.5 * luck, luck)
    assert (ratio, low, high) == pytest.approx((0.5, 0.5, 0.5))
    ratio, low, high = ratio_interval(rng.exponential(size=200), rng.exponential(size=200))
    assert low < ratio < high
    assert high - low > 0.2


def test_trials_to_reach_and_ranks():
    assert trials_to_reach(np.array([0.9, 0.4, 0.2]), 0.1) is None
    assert mean_ranks(np.array([[1.0, 1], [2, 2], [2, 0]])).tolist() == [1.5, 2.75, 1.75]
    assert log_points(200)[0] == 1
    assert {20, 50, 100, 200} <= set(log_points(200))


def test_a_summary_says_what_the_runs_say(landscape):
    runs = contest(landscape, ["random", "tpe", "dyna-q-ucb"], n_runs=3, n_trials=20)
    made = summary(runs, n_trials=20)
    assert json.loads(json.dumps(made)) == made
    mine = made["tuners"]["dyna-q-ucb"]["observed"]
    finals = [run.observed[-1] for run in runs["dyna-q-ucb"]]
    assert mine["regret"]["20"] == pytest.approx([np.mean(finals), np.std(finals, ddof=1) / 3**0.5])
    assert made["tuners"]["tpe"]["observed"]["ratio"] == pytest.approx([1, 1, 1])
    ranks = [row["observed"]["rank"] for row in made["tuners"].values()]
    assert sum(ranks) == pytest.approx(6)


def test_workers_play_the_same_runs(landscape):
    names = ["random", "evolution"]
    alone = contest(landscape, names, n_runs=4, n_trials=6)
    told: list[tuple[int, int]] = []
    spread = contest(landscape, names, n_runs=4, n_trials=6, workers=2,
                     on_run=lambda *where: told.append(where))  # fmt: skip
    for name in names:
        for one, other in zip(alone[name], spread[name], strict=True):
            np.testing.assert_array_equal(one.observed, other.observed)
    assert told[-1] == (8, 8)


def tell(study: optuna.Study, score, n: int) -> list[dict]:
    for _ in range(n):
        trial = study.ask()
        for knob in SPACE.knobs:
            trial.suggest_categorical(knob.name, knob.values)
        study.tell(trial, score(trial.params))
    return [t.params for t in study.trials]


@pytest.mark.parametrize(("direction", "best"), [("maximize", 3), ("minimize", 0)])
def test_the_bandit_tries_every_value_and_then_stays_with_the_best(direction, best):
    study = optuna.create_study(direction=direction, sampler=BanditPerKnob(seed=0, epsilon=0.0))
    params = tell(study, lambda p: p["a"], 30)
    assert {p["a"] for p in params[:4]} == {0, 1, 2, 3}
    assert all(p["a"] == best for p in params[4:])


def test_evolution_changes_one_knob_of_a_parent():
    sampler = RegularisedEvolution(seed=0, population=8, tournament=3)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    params = tell(study, lambda p: p["a"] + 3 * (p["b"] == "z"), 40)
    for i in range(8, 40):
        changes = [sum(params[i][k] != old[k] for k in old) for old in params[i - 8 : i]]
        assert min(changes) <= 1
    assert np.mean([p["b"] == "z" for p in params[30:]]) > 0.5


def test_the_command_prints_tables_and_writes_charts(landscape, tmp_path, capsys):
    landscape.save(tmp_path / "l.npz")
    arguments = [str(tmp_path / "l.npz"), "--runs", "2", "--trials", "20", "--workers", "1"]
    arguments += ["--tuners", "random", "tpe", "dyna-q-ucb", "--out", str(tmp_path / "out")]
    assert script.main(arguments) == 0
    out = capsys.readouterr().out
    assert "regret of the setting with the best observed score" in out
    last = json.loads(out.splitlines()[-1])
    assert last["made up"]["tpe"]["observed"] == pytest.approx(1)
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert written["made up"]["tuners"]["random"]["runs"] == 2
    assert (tmp_path / "out" / "made up.svg").read_text().count("<path") > 6


def test_a_tuner_that_is_none_is_refused(tmp_path, capsys):
    assert script.main(["fsdd-digits", "--tuners", "magic"]) == 1
    assert "'magic' is not one of: dyna-q-ucb" in capsys.readouterr().err


def test_landscapes_of_one_name_are_refused(landscape, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("one.npz", "two.npz")]
    for name in files:
        landscape.save(tmp_path / name)
    assert script.main([*files, "--runs", "1", "--trials", "5", "--workers", "1"]) == 1
    error = capsys.readouterr().err
    assert f"{files[1]}: is called made up, as {files[0]} is" in error


def test_what_the_ratios_are_taken_to_is_played_and_named(landscape, tmp_path, capsys):
    landscape.save(tmp_path / "l.npz")
    arguments = [str(tmp_path / "l.npz"), "--runs", "2", "--trials", "5", "--workers", "1"]
    assert script.main([*arguments, "--tuners", "evolution", "--against", "random"]) == 0
    told = capsys.readouterr()
    assert "random is played too" in told.err
    made = json.loads(told.out.splitlines()[-1])["made up"]
    assert set(made) == {"evolution", "random"}
    assert made["random"]["observed"] == 1
    assert made["evolution"]["observed"] is not None


def test_a_landscape_on_which_all_score_alike_is_refused(tmp_path, capsys):
    flat().save(tmp_path / "l.npz")
    arguments = [str(tmp_path / "l.npz"), "--tuners", "random", "--runs", "1", "--trials", "5"]
    assert script.main([*arguments, "--workers", "1"]) == 1
    assert "flat: every setting scores 0.5" in capsys.readouterr().err


def test_a_comparison_that_is_stopped_promises_nothing(capsys, monkeypatch):
    def stopping(*_given, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("rl.compare.contest", stopping)
    assert script.main(["fsdd-digits", "--runs", "1"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "melbandit: stopped."
