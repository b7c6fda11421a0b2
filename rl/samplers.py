"""The agents as Optuna samplers: `optuna.create_study(sampler=DynaQSampler(seed=1))`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rl.budget import OWN_TRIES, AgentName
from rl.confidence import UCB, Thompson
from rl.knob_sampler import KnobSampler, drawn_seed
from rl.model_tuner import DynaQ
from rl.policies import EpsilonGreedy
from rl.space import SearchSpace
from rl.trial_settings import trial_index
from rl.tuners import JointBandit, KnobBandits, QLearning, RandomSettings


class EpsilonGreedySampler(KnobSampler):
    """One epsilon-greedy bandit for each knob (`rl.tuners.KnobBandits`) or, if `joint`, one whose
    arms are whole settings (`rl.tuners.JointBandit`)."""

    def __init__(self, *, epsilon: float = 0.1, step_size: float | None = None,
                 joint: bool = False, **shared: Any) -> None:  # fmt: skip
        super().__init__(**shared)
        self.epsilon = epsilon
        self.step_size = step_size
        self.joint = joint

    def agent(self, space: SearchSpace) -> KnobBandits | JointBandit:
        if self.joint:
            return JointBandit(space, policy=EpsilonGreedy(self.epsilon), step_size=self.step_size)
        return KnobBandits(space, policy=EpsilonGreedy(self.epsilon), step_size=self.step_size)


class UCBSampler(KnobSampler):
    """One UCB1 bandit for each knob; see `rl.confidence.UCB`."""

    def __init__(self, *, c: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.c = c

    def agent(self, space: SearchSpace) -> KnobBandits:
        return KnobBandits(space, policy=UCB(self.c))


class ThompsonSampler(KnobSampler):
    """One Thompson bandit for each knob; see `rl.confidence.Thompson`."""

    def __init__(self, *, prior: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.prior = prior

    def agent(self, space: SearchSpace) -> KnobBandits:
        return KnobBandits(space, policy=Thompson(self.prior))


class QLearningSampler(KnobSampler):
    """Tabular Q-learning over the choices made so far; see `rl.tuners.QLearning`."""

    def __init__(self, *, epsilon: float = 0.1,
                 state: Literal["prefix", "previous", "depth"] = "previous",
                 n: int | None = None, step_size: float | None = None, discount: float = 1.0,
                 replays: int = 1, **shared: Any) -> None:  # fmt: skip
        super().__init__(**shared)
        self.epsilon = epsilon
        self.q: dict[str, Any] = {"state": state, "n": n, "step_size": step_size,
                                  "discount": discount, "replays": replays}  # fmt: skip

    def agent(self, space: SearchSpace) -> QLearning:
        return QLearning(space, policy=EpsilonGreedy(self.epsilon), **self.q)


class DynaQSampler(KnobSampler):
    """A learned reward model and planning in it; see `rl.model_tuner.DynaQ`."""

    def __init__(self, *, epsilon: float = 0.1, ucb: float | None = None, n_random: int = 1,
                 cost_aware: bool = False, **shared: Any) -> None:  # fmt: skip
        super().__init__(n_random=n_random, **shared)
        self.epsilon = epsilon
        self.ucb = ucb
        self.cost_aware = cost_aware

    def agent(self, space: SearchSpace) -> DynaQ:
        return DynaQ(
            space,
            policy=EpsilonGreedy(self.epsilon),
            ucb=self.ucb,
            tries=self.tries,
            earlier=self._known(space),
            cost_aware=self.cost_aware,
        )


class RandomSettingsSampler(KnobSampler):
    """Random settings, none twice: what every agent is measured against."""

    def agent(self, space: SearchSpace) -> RandomSettings:
        return RandomSettings(space)


class ReplayedTPESampler(BaseSampler):
    """Optuna's multivariate TPE, made a pure function of (seed, finished trials) like the rest."""

    def __init__(self, *, seed: int | None = 0, n_random: int = 10) -> None:
        self.seed = drawn_seed() if seed is None else seed
        self.n_random = n_random
        # for each trial under way: with n_jobs there are several
        self._of: dict[int, TPESampler] = {}

    def _tpe(self, study: Study, trial: FrozenTrial) -> TPESampler:
        tpe = self._of.get(trial._trial_id)
        if tpe is None:
            index = trial_index(study.get_trials(deepcopy=False), trial.number)
            seed = int(np.random.default_rng([self.seed, index]).integers(2**31))
            tpe = TPESampler(seed=seed, multivariate=True, n_startup_trials=self.n_random)
            self._of[trial._trial_id] = tpe
        return tpe

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of.pop(trial._trial_id, None)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._tpe(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # fmt: skip
        tpe = self._tpe(study, trial)
        return tpe.sample_independent(study, trial, param_name, param_distribution)


def make_sampler(name: AgentName, space: SearchSpace | None, seed: int | None,
                 **parameters: Any) -> BaseSampler:  # fmt: skip
    """Return the sampler called `name`, as a search has it; `parameters` go to its constructor.
    Of `earlier`, `tries` and `cost_aware` what is empty, 0 or false is left to the agent.

    Raises:
        ValueError: there is no such sampler, or it cannot do what is asked.
    """
    able_to = {
        "earlier": name != "tpe", "tries": name != "tpe", "cost_aware": name == "dyna-q-ucb"
    }  # fmt: skip
    for asked, able in able_to.items():
        if parameters.get(asked, True) in (False, 0, (), []):  # tries=None asks for no bound
            del parameters[asked]
        elif asked in parameters and not able:
            raise ValueError(f"agent {name} knows nothing of {asked}; take dyna-q-ucb.")
    shared: dict[str, Any] = {"space": space, "seed": seed, **parameters}
    if name == "dyna-q-ucb":
        return DynaQSampler(**{"ucb": 1.0, "tries": OWN_TRIES[name], **shared})
    if name == "dyna-q":
        return DynaQSampler(**shared)
    if name == "epsilon-greedy":
        return EpsilonGreedySampler(**shared)
    if name == "ucb":
        return UCBSampler(**shared)
    if name == "thompson":
        return ThompsonSampler(**shared)
    if name == "q-learning":
        return QLearningSampler(**shared)
    if name == "random":
        return RandomSettingsSampler(**shared)
    if name == "tpe":
        return ReplayedTPESampler(seed=seed, **parameters)
    raise ValueError(f"agent {name!r} is not one of: dyna-q-ucb, dyna-q, epsilon-greedy, "
                     "ucb, thompson, q-learning, tpe, random.")  # fmt: skip
