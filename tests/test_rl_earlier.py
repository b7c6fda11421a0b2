"""Earlier studies and what a training costs: what the model that plans makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from rl.knobs import knob_episode
from rl.model import RELATIONS, RewardModel
from rl.model_tuner import DynaQ
from rl.records import RecordError, read_earlier
from rl.samplers import make_sampler
from rl.space import Knob, SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = SearchSpace([Knob(name, tuple(range(4))) for name in "abcde"])
EVERY = SPACE.every(5000)


def landscape(seed: int) -> np.ndarray:
    """Return a score for every setting: main effects of the knobs."""
    effects = np.random.default_rng(seed).normal(size=(5, 4))
    return effects[np.arange(5), EVERY].sum(1)


def sample(score: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, list[float]]:
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(EVERY), n, replace=False)
    return EVERY[rows], (score[rows] + 0.1 * rng.normal(size=n)).tolist()


def test_a_related_study_is_believed_and_an_unrelated_one_is_not() -> None:
    mine = landscape(1)

    def error(model: RewardModel) -> float:
        return float(np.sqrt(((model.posterior(EVERY)[0] - mine) ** 2).mean()))

    codes, rewards = sample(mine, 25, 2)
    alone = RewardModel(SPACE, codes, rewards)
    kin = RewardModel(SPACE, codes, rewards, earlier=[sample(100 + 7 * mine, 60, 3)])
    assert kin.relation >= RELATIONS[-2]
    assert error(kin) < 0.8 * error(alone)
    for other in (9, 10, 13):  # correlations with mine: 0.0, -0.4, -0.4
        stranger = RewardModel(SPACE, codes, rewards, earlier=[sample(landscape(other), 60, 3)])
        assert stranger.relation <= 0.3
        assert error(stranger) < 1.1 * error(alone)


def test_without_a_relation_the_posterior_is_that_of_this_study_alone() -> None:
    codes, rewards = sample(landscape(1), 12, 2)
    alone = RewardModel(SPACE, codes, rewards)
    beside = RewardModel(SPACE, codes, rewards, earlier=[sample(landscape(9), 30, 3)])
    beside.relation = 0.0
    beside.mean, beside.sd = alone.mean, alone.sd
    beside._fit(codes, (np.array(rewards) - alone.mean) / alone.sd)
    for ours, theirs in zip(beside.posterior(EVERY), alone.posterior(EVERY), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_the_first_plan_is_the_earlier_study_s_best() -> None:
    mine = landscape(1)
    settings = [(SPACE.decode(row), s) for row, s in zip(*sample(mine, 100, 3), strict=True)]
    for name in ("dyna-q-ucb", "epsilon-greedy", "q-learning", "thompson"):
        found = []
        for seed in range(5):
            sampler = make_sampler(name, SPACE, seed, earlier=[settings])
            study = optuna.create_study(direction="maximize", sampler=sampler)
            trial = study.ask()
            setting = {k.name: trial.suggest_categorical(k.name, k.values) for k in SPACE.knobs}
            found.append(mine[(SPACE.encode(setting) == EVERY).all(1)].item())
        assert np.mean(found) > np.quantile(mine, 0.85), name
    with pytest.raises(ValueError, match="tpe knows nothing of earlier"):
        make_sampler("tpe", SPACE, 0, earlier=[settings])


def test_an_earlier_study_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = optuna.create_study(
        storage=f"sqlite:///{path}", study_name="mine", direction="minimize"
    )
    for _ in range(3):
        trial = study.ask()
        study.tell(trial, float(trial.suggest_categorical("a", [1, 2])))
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    expected = [(t.params, -t.value) for t in study.trials[:3]]
    assert read_earlier(str(path)) == read_earlier(str(tmp_path)) == expected
    assert read_earlier(f"{path}#mine") == expected
    with pytest.raises(RecordError, match="holds no study 'other'; there are: mine"):
        read_earlier(f"{path}#other")
    with pytest.raises(RecordError, match="no such file"):
        read_earlier(str(tmp_path / "no.db"))
    (tmp_path / "text.db").write_text("this is no database, but long enough to be read as one")
    with pytest.raises(RecordError, match=r"text.db: neither an SQLite file"):
        read_earlier(str(tmp_path / "text.db"))


def test_of_two_equal_hopes_the_cheaper_is_tried() -> None:
    space = SearchSpace([Knob("size", ("small", "large")), Knob("x", tuple(range(12)))])
    seconds = {"small": 1.0, "large": 60.0}
    rng = np.random.default_rng(0)
    plans = {}
    for cost_aware in (False, True):
        agent = DynaQ(space, ucb=1.0, tries=1, cost_aware=cost_aware)
        tried = [{"size": s, "x": x} for x in range(6) for s in seconds]
        scores = rng.normal(size=12) + 0.2 * np.array([t["size"] == "large" for t in tried])
        agent.fit([knob_episode(space, t, v) for t, v in zip(tried, scores, strict=True)])
        if cost_aware:
            agent.learn_costs([seconds[t["size"]] for t in tried])
        plans[cost_aware] = agent.propose({tuple(space.encode(t).tolist()) for t in tried}, {})
    assert plans[True]["size"] == "small"


def test_expected_improvement_a_second_is_the_integral() -> None:
    space = SearchSpace([Knob("a", tuple(range(5))), Knob("b", tuple(range(4)))])
    every = space.every(100)
    tried = every[::3]
    rng = np.random.default_rng(2)
    rewards, seconds = rng.normal(size=len(tried)), rng.uniform(1, 9, len(tried))
    agent = DynaQ(space, ucb=1.0, cost_aware=True)
    agent.fit(
        [knob_episode(space, space.decode(c), r) for c, r in zip(tried, rewards, strict=True)]
    )
    agent.learn_costs(seconds.tolist())
    model = agent.model
    likeness = model.likeness(every)
    mean, sd = model.expected(likeness), model.doubt(likeness)
    best = model.expected(model.likeness(tried)).max()
    draws = mean + sd * rng.normal(size=(200_000, 1))
    improvement = np.maximum(draws - best, 0).mean(0)
    costs = RewardModel(space, tried, np.log(seconds).tolist())
    expected = np.log(np.maximum(improvement, 1e-9)) - costs.posterior(every)[0]
    found = agent._score(likeness)
    likely = improvement > 0.02  # where the draws tell
    shift = (found - expected)[likely]
    np.testing.assert_allclose(shift, shift.mean(), atol=0.05)
