"""Many independent runs at once, as arrays over runs: the testbed, and tabular control.

For figures that are averages over hundreds of runs. The formulas are those of
`rl.bandits` and `rl.control`; only the loop over runs is numpy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rl.bandits import Bandit
from rl.mdp import FiniteMDP, Ints, reachable
from rl.policies import Bools, Floats

Updates = Literal["sarsa", "expected-sarsa", "q-learning", "double-q-learning"]


@dataclass(frozen=True)
class TestbedRun:
    """What a testbed gave, averaged over its runs, an entry a step."""

    __test__ = False  # no test, whatever its name begins with

    rewards: Floats
    """Mean reward, (steps,)."""
    optimal: Floats
    """Share of runs that took the arm which was best, (steps,)."""


def run_testbed(bandit: Bandit, *, steps: int = 1000, mean: float = 0.0, drift_sd: float = 0.0,
                seed: int = 0) -> TestbedRun:  # fmt: skip
    """Let each run of a bandit play a testbed of its own (Sutton & Barto, 2.3; the arguments are
    those of `rl.environments.KArmedTestbed`)."""
    rng = np.random.default_rng(seed)
    runs = np.arange(bandit.runs)
    worths = np.full((bandit.runs, bandit.k), float(mean))
    if not drift_sd:
        worths += rng.standard_normal(worths.shape)
    rewards, optimal = np.zeros(steps), np.zeros(steps)
    best = worths.argmax(1)
    for t in range(steps):
        action = bandit.act()
        reward = worths[runs, action] + rng.standard_normal(bandit.runs)
        bandit.update(action, reward)
        rewards[t], optimal[t] = reward.mean(), (action == best).mean()
        if drift_sd:
            worths += drift_sd * rng.standard_normal(worths.shape)
            best = worths.argmax(1)
    return TestbedRun(rewards, optimal)


@dataclass(frozen=True)
class ManyRuns:
    """What many runs gave, a row a run and a column an episode."""

    returns: Floats
    """Sum of rewards, without a discount, float64 (runs, episodes)."""
    lengths: Ints
    """Steps, int64 (runs, episodes)."""
    first_actions: Ints
    """The action in each episode's first state, int64 (runs, episodes)."""
    q: Floats
    """Q at the end, the mean of both tables where there are two, (runs, n_states, n_actions)."""


def run_many(
    mdp: FiniteMDP,
    *,
    runs: int,
    episodes: int,
    update: Updates = "q-learning",
    epsilon: float = 0.1,
    step_size: float = 0.1,
    discount: float | None = None,
    initial: Floats | float = 0.0,
    reward_sd: Floats | None = None,
    legal: Bools | None = None,
    seed: int = 0,
) -> ManyRuns:
    """Learn `runs` times from scratch, epsilon-greedily, by one-step targets at every step.

    Args:
        mdp: the world.
        runs, episodes: how many of each.
        update: as in `rl.control.Control`.
        epsilon: probability of exploring.
        step_size: constant.
        discount: the MDP's if None.
        initial: Q to begin with, a number or (n_states, n_actions).
        reward_sd, legal: as in `rl.environments.MDPEnv`; a state that allows none, such as a
            terminal one may, counts as one that allows all.
        seed: of everything that is drawn.

    Raises:
        ValueError: an unknown update, no runs or episodes, or a state that a run may come to and
            from which no end can be reached.
    """
    if update not in ("sarsa", "expected-sarsa", "q-learning", "double-q-learning"):
        raise ValueError(
            f"update={update!r} is not one of: sarsa, expected-sarsa, q-learning, "
            "double-q-learning."
        )
    for name, number in (("runs", runs), ("episodes", episodes)):
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1.")
    if not mdp.terminal.any():
        raise ValueError("the MDP has no terminal state, so no episode ends; give it one.")
    may = np.ones((mdp.n_states, mdp.n_actions), bool) if legal is None else np.array(legal, bool)
    may[~may.any(1)] = True
    legal = None if legal is None else may
    leads = (mdp.transitions * may[:, :, None]).sum(1)
    stuck = reachable(leads, np.asarray(mdp.start) > 0) & ~reachable(leads.T, mdp.terminal)
    if stuck.any():
        raise ValueError(
            f"from state {int(np.flatnonzero(stuck)[0])}, which a run may come to, no end can be "
            "reached; make it terminal, or give it an action that leads on."
        )
    world = _World(mdp, reward_sd, legal, np.random.default_rng(seed))
    gamma = mdp.discount if discount is None else discount
    n_states, n_actions = mdp.n_states, mdp.n_actions
    # Q of every run, actions first: numpy reduces over a short first axis far faster than over a
    # short last one. Column run * n_states + s is a state of a run.
    table = np.broadcast_to(np.asarray(initial, float), (n_states, n_actions)).T
    if legal is not None:
        table = np.where(may.T, table, -np.inf)
    tables = [np.tile(table, (1, runs)) for _ in range(2 if update == "double-q-learning" else 1)]
    q = tables[0]

    def acting(column: Ints) -> Floats:
        return q[:, column] if len(tables) == 1 else (q[:, column] + tables[1][:, column]) / 2

    returns, lengths = np.zeros((runs, episodes)), np.zeros((runs, episodes), dtype=np.int64)
    first_actions = np.zeros((runs, episodes), dtype=np.int64)
    # what follows has an entry for each run that still has episodes to go
    run, episode = np.arange(runs), np.zeros(runs, dtype=np.int64)
    state = world.starts(runs)
    action = world.choose(acting(run * n_states + state), state, epsilon)
    first_actions[:, 0] = action
    while len(run):
        after, reward = world.follow(state, action)
        ended = mdp.terminal[after]
        column, after_column = run * n_states + state, run * n_states + after
        if update != "double-q-learning":
            following = acting(after_column)
        if update == "sarsa":  # the next action is chosen before learning
            next_action = world.choose(following, after, epsilon)
            value = following[next_action, np.arange(len(run))]
        elif update == "q-learning":
            value = following.max(0)
        elif update == "expected-sarsa":
            value = world.expected(following, after, epsilon)
        if update != "double-q-learning":
            target = reward + gamma * np.where(ended, 0.0, value)
            q[action, column] += step_size * (target - q[action, column])
        else:
            first = world.rng.random(len(run)) < 0.5
            for mine, other, which in ((q, tables[1], first), (tables[1], q, ~first)):
                at, to, a = column[which], after_column[which], action[which]
                value = other[mine[:, to].argmax(0), to]
                target = reward[which] + gamma * np.where(ended[which], 0.0, value)
                mine[a, at] += step_size * (target - mine[a, at])
        returns[run, episode] += reward
        lengths[run, episode] += 1
        over = np.flatnonzero(ended)
        if len(over):
            after[over] = world.starts(len(over))
            episode[over] += 1
            after_column = run * n_states + after
        if update == "sarsa":
            next_action[over] = world.choose(acting(after_column[over]), after[over], epsilon)
        else:
            next_action = world.choose(acting(after_column), after, epsilon)
        state, action = after, next_action
        if len(over):
            keep = episode < episodes
            begun = over[keep[over]]
            first_actions[run[begun], episode[begun]] = action[begun]
            if not keep.all():
                run, episode, state, action = run[keep], episode[keep], state[keep], action[keep]
    mean = q if len(tables) == 1 else (q + tables[1]) / 2
    return ManyRuns(returns, lengths, first_actions, mean.T.reshape(runs, n_states, n_actions))


class _World:
    """An MDP's answers to arrays of states and actions."""

    def __init__(self, mdp: FiniteMDP, reward_sd: Floats | None, legal: Bools | None,
                 rng: np.random.Generator) -> None:  # fmt: skip
        self.rng = rng
        self.n_actions = mdp.n_actions
        self._legal = legal
        self._sd = None if reward_sd is None else np.asarray(reward_sd).ravel()
        n_pairs = mdp.n_states * mdp.n_actions
        p = mdp.transitions.reshape(n_pairs, -1)
        widest = int((p > 0).sum(1).max())
        # the states that a pair leads to, the likeliest first, and the edges between them
        self._to = np.argsort(-p, axis=1, kind="stable")[:, :widest]
        at = np.arange(n_pairs)[:, None]
        self._edges = p[at, self._to].cumsum(1)[:, :-1]
        self._rewards = mdp.rewards.reshape(n_pairs, -1)[at, self._to]
        start = np.asarray(mdp.start)
        self._start_edges = start.cumsum()
        starts = np.flatnonzero(start)
        self._only_start = int(starts[0]) if len(starts) == 1 else None

    def starts(self, n: int) -> Ints:
        """Return n first states."""
        if self._only_start is not None:
            return np.full(n, self._only_start)
        drawn = self.rng.random(n) * self._start_edges[-1]
        return np.asarray(np.searchsorted(self._start_edges, drawn, side="right"))

    def follow(self, state: Ints, action: Ints) -> tuple[Ints, Floats]:
        """Return the states that follow, and the rewards."""
        pair = state * self.n_actions + action
        if self._edges.shape[1]:
            branch = (self.rng.random(len(pair))[:, None] >= self._edges[pair]).sum(1)
            after, reward = self._to[pair, branch], self._rewards[pair, branch]
        else:
            after, reward = self._to[pair, 0], self._rewards[pair, 0]
        if self._sd is not None:
            reward = reward + self._sd[pair] * self.rng.standard_normal(len(pair))
        return after, reward

    def choose(self, q: Floats, state: Ints, epsilon: float) -> Ints:
        """Return an action for each column of q, (n_actions, n): greedy with ties at random, or
        exploring."""
        drawn = self.rng.random((2, q.shape[1]))
        action = q.argmax(0)
        best = q == q[action, np.arange(len(action))]
        tied = np.flatnonzero(best.sum(0) > 1)
        action[tied] = _nth(best[:, tied], drawn[1, tied])
        exploring = np.flatnonzero(drawn[0] < epsilon)
        if self._legal is None:
            action[exploring] = (drawn[1, exploring] * self.n_actions).astype(np.int64)
        else:
            action[exploring] = _nth(self._legal[state[exploring]].T, drawn[1, exploring])
        return np.asarray(action)

    def expected(self, q: Floats, state: Ints, epsilon: float) -> Floats:
        """Return the mean of q under the policy, for each column."""
        if self._legal is None:
            mean = q.mean(0)
        else:
            may = self._legal[state].T
            mean = np.where(may, q, 0.0).sum(0) / may.sum(0)
        return np.asarray(epsilon * mean + (1 - epsilon) * q.max(0))


def _nth(among: Bools, drawn: Floats) -> Ints:
    """Return, for each column, one of the rows that are true, by a number drawn from [0, 1)."""
    place = among.cumsum(0)
    wanted = (drawn * place[-1]).astype(np.int64)
    return np.asarray((place <= wanted).sum(0))
