"""The agent that plans: a learned model of the reward, and the best setting it can imagine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

from rl.effects import Effects
from rl.knobs import KnobState
from rl.mdp import Episode
from rl.model import Known, ModelSettings, RewardModel, standardised
from rl.policies import GREEDY, Bools, EpsilonGreedy, Floats, Policy, drawer
from rl.space import Codes, Knob, SearchSpace, Setting, Value
from rl.tuners import Beliefs

EXHAUSTIVE = 4096
"""A space with no more settings than this is planned in by looking at each of them."""


class DynaQ:
    """Learns a model of the reward, and plans in it over imagined settings (Sutton & Barto, 8.2).

    The value of an action is that of the best setting the agent can imagine from there on:
    `Q(state, a) = max over completions of the model's mean`, found by looking at each of them or,
    where they are too many, by climbing knob by knob from random starts. It acts on these values
    by its policy, or, where `ucb` is given, tries whole settings by `mean + ucb * sd`, which seeks
    out what is uncertain (2.7).

    Args:
        space: the knobs.
        policy: how an action follows from the values; not used where `ucb` is given.
        ucb: weight of doubt; None leaves exploring to the policy.
        model: the reward model's constants.
        n_starts: random settings that planning climbs from.
        tries: plans do not end in a setting that was tried so often, or is being tried; None lets
            them. Climbing does not ask.
        earlier: settings and scores of earlier studies, a list for each; see `RewardModel`.
        cost_aware: try what promises the most improvement for each second (`learn_costs`).
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        policy: Policy = EpsilonGreedy(0.1),  # noqa: B008 - frozen
        ucb: float | None = None,
        model: ModelSettings = ModelSettings(),  # noqa: B008 - frozen
        n_starts: int = 10,
        tries: int | None = None,
        earlier: Sequence[Known] = (),
        cost_aware: bool = False,
    ) -> None:
        self.space = space
        self.policy = policy
        self.ucb = ucb
        self.model_settings = model
        self.n_starts = n_starts
        self.tries = tries
        self.earlier = earlier
        self.cost_aware = cost_aware
        self.every = space.every(EXHAUSTIVE)
        self.fit([])

    def fit(self, episodes: Sequence[Episode], pending: Sequence[Setting] = ()) -> Self:
        n_knobs = len(self.space.knobs)
        codes = [self._encoded(episode) for episode in episodes]
        rewards = [episode.total for episode in episodes]
        waiting = [self.space.encode(setting) for setting in pending]
        self.model = RewardModel(
            self.space,
            np.array(codes, dtype=np.int64).reshape(-1, n_knobs),
            rewards,
            settings=self.model_settings,
            pending=np.array(waiting, dtype=np.int64).reshape(-1, n_knobs),
            earlier=self.earlier,
        )
        self._log_cost: tuple[Floats, float] | None = None
        self._best_tried = self.model.codes[:0]
        if rewards:
            best = int(np.argmax(self.model.expected(self.model.likeness(np.array(codes)))))
            self._best_tried = self.model.codes[best : best + 1]
        self._plans: dict[tuple[tuple[str, Value], ...], Codes] = {}
        self._scores: Floats | None = None
        return self

    def _encoded(self, episode: Episode) -> Codes:
        last = episode.transitions[-1].next_state
        assert isinstance(last, KnobState)
        return self.space.codes_of(last.chosen)

    def _scores_of(self, every: Codes) -> Floats:
        """Return the score of each of all settings, computed once for a model."""
        scores = self._scores
        if scores is None:
            scores = self._score(self.model.likeness(every))
            if self.tries is not None:
                rows = [tuple(row) for row in self.model.codes.tolist()]
                count = Counter(rows)
                count.update(dict.fromkeys(rows[self.model.n_trials :], self.tries))  # under way
                gone = [count[tuple(row)] >= self.tries for row in every.tolist()]
                scores[np.array(gone, dtype=bool)] = -np.inf
            self._scores = scores
        return scores

    def _open(self, every: Codes, chosen: Iterable[tuple[str, Value]]) -> Bools:
        """Return which of all settings begin with these choices."""
        possible = np.ones(len(every), dtype=bool)
        for name, value in chosen:
            knob, column = self.space[name], every[:, self.space.position(name)]
            possible &= (column == knob.code(value)) | (column == len(knob.values))  # or absent
        return possible

    def learn_costs(self, seconds: Sequence[float]) -> None:
        """Learn what settings cost from the time that each episode of the last `fit` took.

        From then on plans go by the expected improvement over the best tried setting for each
        second (Snoek et al., 2012, 3.2), in logarithms. The cost's model is the reward's.
        """
        if len(seconds) < 2:
            return
        logs = np.log(np.maximum(seconds, 1e-9))
        self._log_cost = self.model.other_target(logs.tolist()), standardised(logs.tolist())[2]
        tried = self.model.likeness(self.model.codes[: self.model.n_trials])
        self._incumbent = float(self.model.expected(tried).max())
        self._plans.clear()
        self._scores = None

    def _improvement_per_second(self, likeness: Floats) -> Floats:
        assert self._log_cost is not None
        weights, sd_cost = self._log_cost
        doubt = self.model.doubt(likeness) + 1e-9
        u = (self.model.expected(likeness) - self._incumbent) / doubt
        density = np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
        below = 0.5 * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
        improvement = np.maximum(doubt * (u * below + density), 1e-12)
        return np.asarray(np.log(improvement) - sd_cost * (likeness @ weights))

    def _score(self, likeness: Floats) -> Floats:
        if self._log_cost is not None:
            return self._improvement_per_second(likeness)
        expected = self.model.expected(likeness)
        return expected if not self.ucb else expected + self.ucb * self.model.doubt(likeness)

    def _starts(self) -> Codes:
        # the same starts every time, so that a plan is a function of the model alone
        drawn = self.space.draw(np.random.default_rng(0), self.n_starts)
        return np.concatenate([self._best_tried, drawn])

    def plan(self, chosen: tuple[tuple[str, Value], ...] = ()) -> Codes:
        """Return the codes of the best setting the agent can imagine after these choices."""
        if chosen not in self._plans:
            self._plans[chosen] = self._imagine(chosen)
        return self._plans[chosen]

    def _imagine(self, chosen: tuple[tuple[str, Value], ...]) -> Codes:
        if self.every is not None:
            scores = np.where(self._open(self.every, chosen), self._scores_of(self.every), -np.inf)
            return np.asarray(self.every[int(scores.argmax())])
        starts = self._starts()
        fixed = [self.space.position(name) for name, _ in chosen]
        if chosen:
            plan = self.plan(chosen[:-1])
            if plan[fixed[-1]] == self.space[chosen[-1][0]].code(chosen[-1][1]):
                return plan  # the choice was the planned one
            starts = np.concatenate([plan[None], starts])
            for position, (name, value) in zip(fixed, chosen, strict=True):
                starts[:, position] = self.space[name].code(value)
            starts = self.space.settle(starts)
        codes, scores = self.model.climb(self._score, starts, fixed=fixed)
        return np.asarray(codes[int(scores.argmax())])

    def action_values(self, state: KnobState, knob: Knob) -> Floats:
        """Return Q(state, .): the score of the best plan from here with each value of `knob`;
        where planning climbs, of the plan from here with that value put in."""
        if self.every is not None:
            scores, column = (
                self._scores_of(self.every),
                self.every[:, self.space.position(knob.name)],
            )
            possible = self._open(self.every, state.chosen)
            best = [scores[possible & (column == a)].max() for a in range(len(knob.values))]
            return np.array(best)
        codes = np.repeat(self.plan(state.chosen)[None], len(knob.values), axis=0)
        codes[:, self.space.position(knob.name)] = np.arange(len(knob.values))
        return self._score(self.model.likeness(self.space.settle(codes)))

    def act(self, state: KnobState, knob: Knob, legal: Bools, rng: np.random.Generator,
            step: int) -> int:  # fmt: skip
        q = self.action_values(state, knob)
        policy = self.policy if self.ucb is None else GREEDY
        return drawer(policy, q, np.ones(len(q)), legal, step)(rng)

    def propose(self, tried: Iterable[tuple[int, ...]],
                fixed: Mapping[str, Value]) -> Setting | None:  # fmt: skip
        """Return the untried setting with the highest score that planning came across, or None.

        Args:
            tried: codes of settings not to return.
            fixed: values that are not the agent's to choose.
        """
        if self.every is not None:
            possible = self._open(self.every, fixed.items())
            untried = [tuple(row) not in tried for row in self.every.tolist()]
            possible &= np.array(untried, dtype=bool)
            if not possible.any():
                return None
            scores = np.where(possible, self._scores_of(self.every), -np.inf)
            return self.space.decode(self.every[int(scores.argmax())])
        starts, positions = self._starts(), [self.space.position(name) for name in fixed]
        for name, position in zip(fixed, positions, strict=True):
            starts[:, position] = self.space[name].code(fixed[name])
        codes, _ = self.model.climb(self._score, self.space.settle(starts), fixed=positions)
        seen, tried = np.unique(codes, axis=0), set(tried)
        for _ in range(2):  # around the summits, then one change further out
            seen = self.model.neighbours(seen)
            for position in positions:
                seen = seen[seen[:, position] == codes[0, position]]
            new = np.array([tuple(row) not in tried for row in seen.tolist()], dtype=bool)
            if new.any():
                scores = np.where(new, self._score(self.model.likeness(seen)), -np.inf)
                return self.space.decode(seen[int(scores.argmax())])
        return None

    def predict(self, settings: Sequence[Setting]) -> tuple[Floats, Floats]:
        """Return the posterior mean and deviation of settings' scores, in the score's unit."""
        return self.model.posterior(np.array([self.space.encode(s) for s in settings]))

    def greedy(self) -> Setting:
        """Return the setting with the highest posterior mean that planning finds."""
        if not self.model.n_trials:
            return self.space.default()
        if self.every is not None:
            likeness = self.model.likeness(self.every)
            return self.space.decode(self.every[int(self.model.expected(likeness).argmax())])
        codes, scores = self.model.climb(self.model.expected, self._starts())
        return self.space.decode(codes[int(scores.argmax())])

    def beliefs(self) -> Beliefs:
        """Return the score to expect with each value, over all settings in which the knob exists,
        and the posterior deviation of its difference from the mean over the knob's values; None
        for a value that is in no setting."""
        made: Beliefs = {}
        tried = self.model.codes[: self.model.n_trials]
        believed = Effects(self.model)
        for position, knob in enumerate(self.space.knobs):
            effects = believed.knob(position)
            made[knob.name] = [
                {
                    "value": value,
                    "estimate": None if math.isnan(effect.mean) else effect.mean,
                    "sd": None if math.isnan(effect.sd) else effect.sd,
                    "count": int((tried[:, position] == code).sum()),
                }
                for code, (value, effect) in enumerate(zip(knob.values, effects, strict=True))
            ]
        return made
