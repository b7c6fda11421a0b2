"""The textbook's small worlds as Gymnasium environments.

A finite world is a `FiniteMDP`, so that what planning makes of it is known exactly,
and `MDPEnv` lets an agent walk in it. Grids count their cells row by row, and their
actions are up, right, down, left (king's moves: the four diagonals after them).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rl.mdp import FiniteMDP, reachable
from rl.policies import Bools, Floats

Answer = tuple[int, float, bool, bool, dict[str, Any]]

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
KINGS = (*MOVES, (-1, 1), (1, 1), (1, -1), (-1, -1))
ARROWS = "↑→↓←↗↘↙↖"

#: Sutton & Barto, example 6.6: C is the cliff.
CLIFF_MAP = """
............
............
............
SCCCCCCCCCCG
"""
#: Example 6.5; the wind of each column is in `WIND`.
WINDY_MAP = """
..........
..........
..........
S......G..
..........
..........
..........
"""
WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
#: Figure 8.2: # is a wall.
DYNA_MAP = """
.......#G
..#....#.
S.#....#.
..#......
.....#...
.........
"""


class MDPEnv(gym.Env):  # type: ignore[misc]
    """A walk in a finite MDP: observations are numbers of states.

    Args:
        mdp: transitions, rewards, ends and starts; its discount is the agent's matter.
        reward_sd: rewards are normal with this deviation, (n_states, n_actions); exact if None.
        legal: which actions each state allows, bool (n_states, n_actions), told as
            `info["action_mask"]`; all if None. One that is not legal is carried out nevertheless.
        most_steps: the episode is broken off after so many; never if None.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        mdp: FiniteMDP,
        *,
        reward_sd: Floats | None = None,
        legal: Bools | None = None,
        most_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.mdp = mdp
        self.legal = legal
        self.reward_sd = reward_sd
        self.most_steps = most_steps
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Discrete(mdp.n_states)
        self.action_space = gym.spaces.Discrete(mdp.n_actions)
        self._sd = None if reward_sd is None else np.asarray(reward_sd).tolist()
        ends = mdp.terminal.tolist()
        # [state][action] -> (edges of the cumulative distribution, what follows in each part of it)
        self._rows: list[list[tuple[list[float], list[tuple[int, float, bool]]]]] = []
        for s in range(mdp.n_states):
            self._rows.append([])
            for a in range(mdp.n_actions):
                to = np.flatnonzero(mdp.transitions[s, a])
                edges = np.cumsum(mdp.transitions[s, a, to])[:-1].tolist()
                answers = [(t, float(mdp.rewards[s, a, t]), ends[t]) for t in to.tolist()]
                self._rows[s].append((edges, answers))
        self._starts = np.flatnonzero(mdp.start).tolist()  # type: ignore[arg-type]
        self._start_edges = np.cumsum(mdp.start)[self._starts][:-1].tolist()  # type: ignore[arg-type]
        self.state = self._starts[0]
        self._t = 0

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:  # fmt: skip
        """Return a first state, drawn."""
        super().reset(seed=seed)
        edges = self._start_edges
        at = bisect_right(edges, self.np_random.random()) if edges else 0
        self.state = self._starts[at]
        self._t = 0
        return self.state, self._info(self.state)

    def step(self, action: int) -> Answer:
        """Return next state, reward, terminated, truncated, info.

        Raises:
            ValueError: there is no such action.
        """
        if not 0 <= action < self.mdp.n_actions:
            raise ValueError(f"action={action} must be from 0 to {self.mdp.n_actions - 1}.")
        edges, answers = self._rows[self.state][action]
        state, reward, terminal = answers[
            bisect_right(edges, self.np_random.random()) if edges else 0
        ]
        if self._sd is not None and (sd := self._sd[self.state][action]):
            reward += sd * self.np_random.standard_normal()
        self._t += 1
        late = self.most_steps is not None and self._t >= self.most_steps and not terminal
        self.state = state
        return state, reward, terminal, late, {} if self.legal is None else self._info(state)

    def _info(self, state: int) -> dict[str, Any]:
        # a new array each time: whoever keeps an info may write to it
        return {} if self.legal is None else {"action_mask": self.legal[state].astype(np.int8)}

    def render(self) -> str:
        """Return where the walk stands."""
        return f"state {self.state}"


class GridWorld(MDPEnv):
    """A grid of cells, some of them walls (#), cliffs (C), start (S) and goal (G)."""

    def __init__(
        self,
        map_text: str,
        *,
        moves: Sequence[tuple[int, int]] = MOVES,
        wind: Sequence[int] | None = None,
        step_reward: float = -1.0,
        goal_reward: float = -1.0,
        cliff_reward: float = -100.0,
        discount: float = 1.0,
        most_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.cells = map_text.strip().splitlines()
        self.cells_text = "".join(self.cells)
        """The sign of each state."""
        self.height, self.width = len(self.cells), len(self.cells[0])
        mdp = grid_mdp(
            self.cells, moves=moves, wind=wind, step_reward=step_reward, goal_reward=goal_reward,
            cliff_reward=cliff_reward, discount=discount,
        )  # fmt: skip
        super().__init__(mdp, most_steps=most_steps, render_mode=render_mode)

    def render(self) -> str:
        """Return the map, the walker on it as @."""
        row, column = divmod(self.state, self.width)
        lines = list(self.cells)
        lines[row] = lines[row][:column] + "@" + lines[row][column + 1 :]
        return "\n".join(lines)


def grid_mdp(cells: Sequence[str], *, moves: Sequence[tuple[int, int]] = MOVES,
             wind: Sequence[int] | None = None, step_reward: float = -1.0,
             goal_reward: float = -1.0, cliff_reward: float = -100.0,
             discount: float = 1.0) -> FiniteMDP:  # fmt: skip
    """Return the MDP of a map. Walls and edges stop a move; the wind of the column that is left
    pushes up; a cliff sends back to the start. Cells that no walk comes to, walls among them, are
    terminal: what a walk in them would be worth is not asked.

    Raises:
        ValueError: rows of unequal length, an unknown sign, or not one start and a goal.
    """
    height, width = len(cells), len(cells[0])
    signs = "".join(cells)
    if {len(row) for row in cells} != {width} or set(signs) - set(".#CSG"):
        raise ValueError(f"a map has equal rows of . # C S G only; this one is {list(cells)}.")
    if signs.count("S") != 1 or "G" not in signs:
        raise ValueError("a map has one start (S) and at least one goal (G).")
    n, start = height * width, signs.index("S")
    p, r = np.zeros((n, len(moves), n)), np.full((n, len(moves)), step_reward)
    for s in range(n):
        for a, (down, right) in enumerate(moves):
            row, column = divmod(s, width)
            row = row + down - (wind[column] if wind else 0)
            to = min(max(row, 0), height - 1) * width + min(max(column + right, 0), width - 1)
            if signs[to] == "#":
                to = s
            elif signs[to] == "C":
                to, r[s, a] = start, cliff_reward
            elif signs[to] == "G":
                r[s, a] = goal_reward
            p[s, a, to] = 1.0
    goal = np.array([sign == "G" for sign in signs])
    p[goal] = 0.0  # a walk ends there
    ends = goal | ~reachable(p.sum(1), np.arange(n) == start)
    return FiniteMDP(p, r, terminal=ends, discount=discount, start=np.eye(n)[start])


def cliff_walk(**more: Any) -> GridWorld:
    """Return the cliff walk: -1 a step, -100 and back to the start for the cliff (example 6.6)."""
    return GridWorld(CLIFF_MAP, **more)


def windy_grid(*, kings: bool = False, **more: Any) -> GridWorld:
    """Return the windy grid: -1 a step; the best is 15 steps, or 7 with king's moves (6.5, 6.9)."""
    return GridWorld(WINDY_MAP, wind=WIND, moves=KINGS if kings else MOVES, **more)


def dyna_maze(**more: Any) -> GridWorld:
    """Return the Dyna maze: +1 at the goal, else 0, discount .95; the best is 14 steps (8.2)."""
    return GridWorld(DYNA_MAP, **{"step_reward": 0.0, "goal_reward": 1.0, "discount": 0.95} | more)


def random_walk(n_states: int = 19, *, left_reward: float = -1.0) -> MDPEnv:
    """Return the walk between two ends: +1 for leaving to the right, `left_reward` to the left
    (Sutton & Barto, examples 6.2 and 7.1). States 1 to n_states are between, the middle is the
    start; action 0 is left, 1 right."""
    n = n_states + 2
    p, r = np.zeros((n, 2, n)), np.zeros((n, 2))
    for s in range(1, n - 1):
        p[s, 0, s - 1] = p[s, 1, s + 1] = 1.0
    r[1, 0], r[n - 2, 1] = left_reward, 1.0
    ends = np.isin(np.arange(n), [0, n - 1])
    # the ends' own rows are set by FiniteMDP
    return MDPEnv(FiniteMDP(p, r, terminal=ends, start=np.eye(n)[n // 2]))


def maximisation_bias(n_actions: int = 10) -> MDPEnv:
    """Return example 6.7: in A (state 0) right (0) ends with 0 and left (1) leads to B (state 1),
    where each of `n_actions` ends with a reward drawn from N(-.1, 1). Left is a mistake."""
    p, r, sd = np.zeros((3, n_actions, 3)), np.zeros((3, n_actions)), np.zeros((3, n_actions))
    p[:, :, 2] = 1.0
    p[0, 1] = [0.0, 1.0, 0.0]
    r[1], sd[1] = -0.1, 1.0
    legal = np.ones((3, n_actions), bool)
    legal[0, 2:] = False
    mdp = FiniteMDP(p, r, terminal=np.array([False, False, True]), start=np.eye(3)[0])
    return MDPEnv(mdp, reward_sd=sd, legal=legal)


class KArmedTestbed(gym.Env):  # type: ignore[misc]
    """A bandit of k arms whose worths are N(mean, 1), drawn at each reset; a reward is N(worth, 1)
    (Sutton & Barto, 2.3).

    Args:
        k: number of arms.
        mean: of the arms' worths; figure 2.5 has 4.
        drift_sd: each step adds N(0, drift_sd) to every worth, all of which then begin at `mean`
            (exercise 2.5 has .01); 0 keeps them as drawn.
        most_steps: after which the episode is broken off.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - Gymnasium's

    def __init__(self, k: int = 10, *, mean: float = 0.0, drift_sd: float = 0.0,
                 most_steps: int = 1000, render_mode: str | None = None) -> None:  # fmt: skip
        if k < 1 or drift_sd < 0:
            raise ValueError(f"k={k} must be at least 1, and drift_sd={drift_sd} not below 0.")
        self.k, self.mean, self.drift_sd, self.most_steps = k, mean, drift_sd, most_steps
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Discrete(1)
        self.action_space = gym.spaces.Discrete(k)
        self.worths = np.full(k, mean)

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:  # fmt: skip
        """Draw the arms; the only state is 0."""
        super().reset(seed=seed)
        self.worths = np.full(self.k, float(self.mean))
        if not self.drift_sd:
            self.worths += self.np_random.standard_normal(self.k)
        self._t = 0
        return 0, {"optimal": int(self.worths.argmax())}

    def step(self, action: int) -> Answer:
        """Return 0, the reward, False, whether it was the last step, the arm that is best now."""
        if not 0 <= action < self.k:
            raise ValueError(f"action={action} must be from 0 to {self.k - 1}.")
        reward = float(self.worths[action] + self.np_random.standard_normal())
        self._t += 1
        if self.drift_sd:
            self.worths += self.drift_sd * self.np_random.standard_normal(self.k)
        info = {"optimal": int(self.worths.argmax())}
        return 0, reward, False, self._t >= self.most_steps, info

    def render(self) -> str:
        """Return the arms' worths."""
        return "  ".join(f"{worth:.2f}" for worth in self.worths)
