"""Agents that choose settings knob by knob and learn from the scores.

`KnobBandits` is k-armed bandits (Sutton & Barto, chapter 2), `QLearning` tabular
Q-learning (6.5) up to Monte Carlo control (5.4); `rl.model_tuner.DynaQ` learns a
model of the reward and plans with it (8.2). Each is rebuilt from all episodes by `fit`,
so what it believes is a pure function of its configuration and the episodes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Protocol, Self

import numpy as np

from rl.knobs import KnobState, knob_state, setting_of
from rl.mdp import Episode
from rl.model import standardised
from rl.policies import GREEDY, Bools, Drawers, EpsilonGreedy, Policy
from rl.space import Knob, SearchSpace, Setting, Value
from rl.targets import n_step, one_step
from rl.values import ActionValues

MOST_ARMS = 100_000

Beliefs = dict[str, list[dict[str, Any]]]
"""For every knob, a row a value: value, estimate, sd, count."""


class Agent(Protocol):
    """What a sampler asks of an agent."""

    space: SearchSpace

    def fit(self, episodes: Sequence[Episode], pending: Sequence[Setting] = ()) -> Self:
        """Return the agent, having forgotten all but these finished trials.

        Args:
            pending: settings that other workers are trying now.
        """
        ...

    def act(self, state: KnobState, knob: Knob, legal: Bools, rng: np.random.Generator,
            step: int) -> int:  # fmt: skip
        """Return the position of the value chosen for `knob`."""
        ...

    def greedy(self) -> Setting:
        """Return the setting that the agent would recommend."""
        ...

    def beliefs(self) -> Beliefs:
        """Return what the agent believes of every value of every knob, JSON-ready."""
        ...


def all_legal(knob: Knob) -> Bools:
    """Return the mask under which every value of `knob` may be chosen; not to be written to."""
    return _ones(len(knob.values))


@cache
def _ones(n: int) -> Bools:
    made = np.ones(n, dtype=bool)
    made.flags.writeable = False
    return made


def roll_out(agent: Agent, rng: np.random.Generator, step: int,
             fixed: Mapping[str, Value] | None = None) -> Setting:  # fmt: skip
    """Return a setting that the agent chose knob by knob, in imagination.

    The transitions are known (a state and a choice give the next state), so a whole episode can
    be played before anything is trained.

    Args:
        fixed: values that are not the agent's to choose.
    """
    chosen: Setting = {}
    while (knob := agent.space.next_knob(chosen)) is not None:
        if fixed and knob.name in fixed:
            chosen[knob.name] = fixed[knob.name]
            continue
        made = tuple((k.name, chosen[k.name]) for k in agent.space.knobs if k.name in chosen)
        state = KnobState(made, knob.name)
        chosen[knob.name] = knob.values[agent.act(state, knob, all_legal(knob), rng, step)]
    return chosen


class RandomSettings:
    """The agent that learns nothing: every value equally likely. What others must beat."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.fit([])

    def fit(self, episodes: Sequence[Episode], pending: Sequence[Setting] = ()) -> Self:
        self._episodes = episodes
        return self

    def act(self, state: KnobState, knob: Knob, legal: Bools, rng: np.random.Generator,
            step: int) -> int:  # fmt: skip
        return int(rng.choice(np.flatnonzero(legal)))

    def greedy(self) -> Setting:
        """Return the best setting seen, or the default where none was."""
        best = max(self._episodes, key=lambda e: e.total, default=None)
        return setting_of(best) if best else self.space.default()

    def beliefs(self) -> Beliefs:
        return KnobBandits(self.space).fit(self._episodes).beliefs()


class KnobBandits:
    """One bandit for each knob: Q(knob, value) is the average score of the trials with that value
    (Sutton & Barto, 2.2 to 2.5).

    Args:
        space: the knobs.
        policy: how an action follows from the values.
        step_size: None for the average, or a constant to follow scores that drift.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        policy: Policy = EpsilonGreedy(0.1),  # noqa: B008 - frozen
        step_size: float | None = None,
    ) -> None:
        self.space = space
        self.policy = policy
        self.step_size = step_size
        self.fit([])

    def fit(self, episodes: Sequence[Episode], pending: Sequence[Setting] = ()) -> Self:
        # standardised, so that an untried value's 0 is an average score and not a bad one
        z, self._mean, self._sd = standardised([e.total for e in episodes])
        self.q = ActionValues(lambda knob: len(self.space[str(knob)].values),
                              step_size=self.step_size)  # fmt: skip
        self._taught = [(episode, float(score)) for episode, score in zip(episodes, z, strict=True)]
        for episode, score in self._taught:
            for transition in episode:
                knob = transition.state.knob  # type: ignore[attr-defined]
                self.q.update(knob, transition.action, score)
        self._drawers = Drawers(self.policy, self.q)
        return self

    def act(self, state: KnobState, knob: Knob, legal: Bools, rng: np.random.Generator,
            step: int) -> int:  # fmt: skip
        return self._drawers.get(knob.name, legal, step)(rng)

    def greedy(self) -> Setting:
        return _greedy_rollout(self.space, lambda state: self.q.values(state.knob),
                               lambda state: self.q.counts(state.knob))  # fmt: skip

    def beliefs(self) -> Beliefs:
        """Return each value's average score, its standard error (None below two trials) and
        count."""
        made: Beliefs = {}
        of: dict[tuple[str, int], list[float]] = {}
        for episode, score in self._taught:
            for transition in episode:
                name = transition.state.knob  # type: ignore[attr-defined]
                of.setdefault((name, transition.action), []).append(score)
        for knob in self.space.knobs:
            q, n = self.q.values(knob.name), self.q.counts(knob.name)
            made[knob.name] = []
            for action, value in enumerate(knob.values):
                scores = of.get((knob.name, action), [])
                error = np.std(scores, ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else None
                made[knob.name].append(
                    {
                        "value": value,
                        "estimate": self._mean + self._sd * float(q[action]) if scores else None,
                        "sd": None if error is None else self._sd * float(error),
                        "count": int(n[action]),
                    }
                )
        return made


class JointBandit:
    """One bandit whose arms are whole settings: nothing that is learnt of one says anything of
    another. It needs far more trials than a bandit for each knob, and is here to show it.

    Knob by knob it draws from the policy over the arms, given the choices made: `p(value | choices)
    = sum of the policy's probabilities of the settings that go on with it / that of all left`.

    Args:
        space: the knobs; at most `MOST_ARMS` combinations of their values, conditions aside.
        policy: how an arm follows from the values.
        step_size: None for the average, or a constant to follow scores that drift.

    Raises:
        ValueError: the space has more combinations than that, or a step size outside (0, 1].
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        policy: Policy = EpsilonGreedy(0.1),  # noqa: B008 - frozen
        step_size: float | None = None,
    ) -> None:
        every = space.every(MOST_ARMS)
        if every is None:
            n = math.prod(space.n_values.tolist())
            raise ValueError(
                f"a bandit over whole settings looks through all {n:,} combinations of values, "
                f"conditions aside, and at most {MOST_ARMS:,} are allowed; use a bandit for each "
                "knob (joint=False)."
            )
        if not (step_size is None or 0 < step_size <= 1):
            raise ValueError(f"step_size={step_size} must be above 0 and at most 1, or None.")
        self.space = space
        self.policy = policy
        self.step_size = step_size
        self.every = every
        self._arm = {tuple(row): i for i, row in enumerate(every.tolist())}
        self.fit([])

    def fit(self, episodes: Sequence[Episode], pending: Sequence[Setting] = ()) -> Self:
        self._episodes = episodes
        self.q, self.n = np.zeros(len(self.every)), np.zeros(len(self.every))
        z, _, _ = standardised([e.total for e in episodes])
        for episode, score in zip(episodes, z, strict=True):
            arm = self._arm.get(tuple(self.space.encode(setting_of(episode)).tolist()))
            if arm is not None:  # a define-by-run trial may lack a knob
                self.n[arm] += 1
                count = self.n[arm] if self.step_size is None else 1 / self.step_size
                self.q[arm] += (score - self.q[arm]) / count
        return self

    def act(self, state: KnobState, knob: Knob, legal: Bools, rng: np.random.Generator,
            step: int) -> int:  # fmt: skip
        arms = np.ones(len(self.every), dtype=bool)
        shares = self.policy.probabilities(self.q, self.n, arms, step)
        for name, value in state.chosen:
            shares = shares * (self.every[:, self.space.position(name)]
                               == self.space[name].code(value))  # fmt: skip
        column = self.every[:, self.space.position(knob.name)]
        weights = np.bincount(column, shares, len(knob.values) + 1)[: len(knob.values)] * legal
        if not weights.sum():  # given choices that the policy would never have made
            weights = legal.astype(float)
        return int(rng.choice(len(weights), p=weights / weights.sum()))

    def greedy(self) -> Setting:
        """Return the arm with the best average, or the default setting where none was tried."""
        if not self.n.any():
            return self.space.default()
        tried = np.where(self.n > 0, self.q, -np.inf)
        return self.space.decode(self.every[int(tried.argmax())])

    def beliefs(self) -> Beliefs:
        return KnobBandits(self.space).fit(self._episodes).beliefs()


class QLearning:
    """Tabular Q-learning over the knob-by-knob episode (Sutton & Barto, 6.5).

    Args:
        space: the knobs.
        policy: how an action follows from the values.
        state: what is remembered of the choices made. `prefix`: all, the true state; `previous`:
            the last one; `depth`: none, so which knob comes next is all there is.
        n: rewards in a target before it bootstraps: 1 is Q-learning's own, None the whole episode
            (Monte Carlo). Targets of 2 steps and more bootstrap with the greedy value but follow
            the choices that were made, with no correction for exploring (7.3).
        step_size: None for 1/N, or a constant.
        discount: of the return.
        replays: passes over the stored episodes; one-step targets carry a score back by about one
            knob a pass, whole-episode ones need a single pass.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        policy: Policy = EpsilonGreedy(0.1),  # noqa: B008 - frozen
        state: Literal["prefix", "previous", "depth"] = "previous",
        n: int | None = None,
        step_size: float | None = None,
        discount: float = 1.0,
        replays: int = 1,
    ) -> None:
        if state not in ("prefix", "previous", "depth"):
            raise ValueError(f"state={state!r} is not one of: prefix, previous, depth.")
        if replays < 1:
            raise ValueError(f"replays={replays} must be at least 1.")
        self.space = space
        self.policy = policy
        self.state = state
        self.n = n
        self.step_size = step_size
        self.discount = discount
        self.replays = replays
        self.fit([])

    def key(self, state: KnobState) -> Hashable:
        """Return what the table knows `state` by: the next knob, and what is remembered."""
        kept = {"prefix": len(state.chosen), "previous": 1, "depth": 0}[self.state]
        return (state.knob, state.chosen[len(state.chosen) - kept :] if kept else ())

    def fit(self, episodes: Sequence[Episode], pending: Sequence[Setting] = ()) -> Self:
        scores, self._mean, self._sd = standardised([e.total for e in episodes])
        self.q = ActionValues(lambda key: len(self.space[key[0]].values),  # type: ignore[index]
                              step_size=self.step_size)  # fmt: skip
        for _ in range(self.replays):
            for episode, score in zip(episodes, scores, strict=True):
                self._learn(episode, float(score))
        self._drawers = Drawers(self.policy, self.q)
        return self

    def _learn(self, episode: Episode, score: float) -> None:
        keys = [self.key(step.state) for step in episode]  # type: ignore[arg-type]
        if self.n == 1:
            for t, step in enumerate(episode):
                following = 0.0 if step.terminal else self.q.best(keys[t + 1])
                target = one_step(score if step.terminal else 0.0, following,
                                  discount=self.discount, terminal=step.terminal)  # fmt: skip
                self.q.update(keys[t], step.action, target)
            return
        rewards = [0.0] * (len(keys) - 1) + [score]
        # a whole return bootstraps from nothing
        values = [0.0 if self.n is None else self.q.best(key) for key in keys]
        targets = n_step(rewards, values, n=self.n, discount=self.discount)
        for key, step, target in zip(keys, episode, targets, strict=True):
            self.q.update(key, step.action, float(target))

    def act(self, state: KnobState, knob: Knob, legal: Bools, rng: np.random.Generator,
            step: int) -> int:  # fmt: skip
        return self._drawers.get(self.key(state), legal, step)(rng)

    def greedy(self) -> Setting:
        return _greedy_rollout(self.space, lambda state: self.q.values(self.key(state)),
                               lambda state: self.q.counts(self.key(state)))  # fmt: skip

    def beliefs(self) -> Beliefs:
        """Return each value's Q averaged over the states it was taken in, and its count.

        Tabular Q-learning keeps no measure of doubt, so `sd` is None.
        """
        made: Beliefs = {}
        for knob in self.space.knobs:
            q, n = np.zeros(len(knob.values)), np.zeros(len(knob.values))
            for key in self.q:
                if key[0] == knob.name:  # type: ignore[index]
                    q += self.q.values(key) * self.q.counts(key)
                    n += self.q.counts(key)
            made[knob.name] = [
                {
                    "value": value,
                    "estimate": self._mean + self._sd * float(q[a] / n[a]) if n[a] else None,
                    "sd": None,
                    "count": int(n[a]) // self.replays,
                }
                for a, value in enumerate(knob.values)
            ]
        return made


def _greedy_rollout(space: SearchSpace, q: Any, n: Any) -> Setting:
    """Return the setting that the greedy policy chooses, ties broken by the first value."""
    chosen: Setting = {}
    while (knob := space.next_knob(chosen)) is not None:
        state = knob_state(space, chosen)
        p = GREEDY.probabilities(q(state), n(state), all_legal(knob), 0)
        chosen[knob.name] = knob.values[int(p.argmax())]
    return chosen
