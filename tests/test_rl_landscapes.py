"""The default agent against random settings on synthetic landscapes."""

from __future__ import annotations

import numpy as np
import optuna

from rl.samplers import make_sampler
from rl.space import Knob, SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = SearchSpace(
    [Knob(f"k{i}", tuple(range(n))) for i, n in enumerate((4, 4, 4, 3, 3, 3, 3, 2))]
)
EVERY = np.array([SPACE.encode(setting) for setting in SPACE.settings()])  # (10368, 8)


def landscape(seed: int) -> np.ndarray:
    """Return the true score of every setting: 60 % of the variance from single knobs, 30 % from
    pairs of them, 10 % from nothing that could be learnt."""
    rng = np.random.default_rng([11, seed])
    main, pair = np.zeros(len(EVERY)), np.zeros(len(EVERY))
    for i, n in enumerate(SPACE.n_values):
        main += rng.normal(size=n)[EVERY[:, i]] * np.sqrt(rng.exponential())
        for j in range(i):
            pair += rng.normal(size=(n, SPACE.n_values[j]))[EVERY[:, i], EVERY[:, j]]
    parts = (main, pair, rng.normal(size=len(EVERY)))
    return sum(
        np.sqrt(share) * (part - part.mean()) / part.std()
        for share, part in zip((0.6, 0.3, 0.1), parts, strict=True)
    )


def regret(agent: str, seed: int, n_trials: int) -> float:
    """Return how far the best trial's true score is from the best there is: 0 to about 1."""
    truth = landscape(seed)
    number = {tuple(codes): i for i, codes in enumerate(EVERY.tolist())}
    noise = 0.3 * np.random.default_rng([12, seed]).normal(size=n_trials)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(agent, SPACE, seed))
    seen = []
    for t in range(n_trials):
        trial = study.ask()
        codes = [trial.suggest_categorical(knob.name, knob.values) for knob in SPACE.knobs]
        score = truth[number[tuple(codes)]]
        study.tell(trial, score + noise[t])
        seen.append((score + noise[t], score))
    return float((truth.max() - max(seen)[1]) / (truth.max() - truth.mean()))


def test_the_default_agent_beats_random_settings_by_a_wide_margin() -> None:
    gains = np.array([regret("random", s, 100) - regret("dyna-q-ucb", s, 100) for s in range(20)])
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    assert gains.mean() > 0.1
    assert gains.mean() > 4 * error
