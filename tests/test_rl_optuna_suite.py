"""Optuna's own tests of samplers, where they apply, on every one of ours."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from rl.samplers import make_sampler

optuna.logging.set_verbosity(optuna.logging.ERROR)
NAMES = ["dyna-q-ucb", "dyna-q", "epsilon-greedy", "ucb", "thompson", "q-learning", "random"]


class TestOptunasSuite(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Floats, integers and categories, alone and together, conditions, NaN, fixed parameters,
    ranges that change, threads, several objectives refused."""

    @pytest.fixture(params=NAMES)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(request.param, None, 1, n_random=2)
