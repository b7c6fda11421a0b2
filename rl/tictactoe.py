"""Tic-tac-toe: the rules, a perfect player, and the game as a Gymnasium environment.

A position is a number, seen by the player who is to move: cell i, counted row by row,
holds digit i to base 3: 0 empty, 1 mine, 2 the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from rl.agents import run
from rl.control import Control
from rl.policies import EpsilonGreedy, Linear, Power

Opponent = Callable[[int, Sequence[bool]], int]
"""Given a position as it sees it and a mask of legal cells, returns the cell to take."""

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
WIN, DRAW, LOSS = 1.0, 0.0, -1.0
_POWERS = tuple(3**cell for cell in range(9))
N_POSITIONS = 3**9


@cache
def cells_of(position: int) -> tuple[int, ...]:
    """Return the nine cells: 0 empty, 1 mine, 2 the other's.

    >>> cells_of(1 + 2 * 3)
    (1, 2, 0, 0, 0, 0, 0, 0, 0)
    """
    return tuple(position // power % 3 for power in _POWERS)


def position_of(cells: Sequence[int]) -> int:
    """Return the number of a position."""
    return sum(cell * power for cell, power in zip(cells, _POWERS, strict=True))


@cache
def legal_mask(position: int) -> tuple[bool, ...]:
    """Return which cells are empty."""
    return tuple(cell == 0 for cell in cells_of(position))


@cache
def empty_cells(position: int) -> tuple[int, ...]:
    """Return the cells that may be taken."""
    return tuple(cell for cell, empty in enumerate(legal_mask(position)) if empty)


@cache
def after_move(position: int, cell: int) -> tuple[int, float, bool]:
    """Return the position after I take `cell`, seen by the other, who is to move; what the move
    brought me (1 a win, else 0); and whether the game is over.

    Raises:
        ValueError: the cell is taken.
    """
    if position // _POWERS[cell] % 3:
        raise ValueError(f"cell {cell} is taken in {cells_of(position)}; take an empty one.")
    cells = list(cells_of(position))
    cells[cell] = 1
    won = any(all(cells[i] == 1 for i in line) for line in LINES if cell in line)
    other = position_of([(0, 2, 1)[value] for value in cells])
    return other, WIN if won else DRAW, won or 0 not in cells


@cache
def worth(position: int) -> float:
    """Return what a position is worth to the player to move, both playing perfectly: above 0 won,
    0 drawn, below 0 lost; a quick win is worth more than a slow one (.9 for every move)."""
    return max(worth_of_move(position, cell) for cell in empty_cells(position))


def worth_of_move(position: int, cell: int) -> float:
    """Return what taking `cell` is worth under perfect play: the negative of what is left to the
    other."""
    other, reward, over = after_move(position, cell)
    return reward if over else -0.9 * worth(other)


@cache
def perfect_moves(position: int) -> tuple[int, ...]:
    """Return the cells that a perfect player may take: all that share the best worth."""
    worths = {cell: worth_of_move(position, cell) for cell in empty_cells(position)}
    return tuple(cell for cell, value in worths.items() if value == max(worths.values()))


class TicTacToe(gym.Env):  # type: ignore[misc]
    """A game against an opponent. A win is 1, a loss -1, a draw 0; a taken cell loses at once.

    Args:
        opponent: `random`; `perfect`; a function, such as another agent's `greedy`; or `self`: the
            agent moves for both sides in turn, each position is shown as the one to move sees it,
            and a reward is the mover's. What follows is then the *other's* position, so such an
            agent learns with discount=-1.
        first: whether the agent begins; by the flip of a coin if None.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        opponent: Literal["random", "perfect", "self"] | Opponent = "random",
        *,
        first: bool | None = None,
        render_mode: str | None = None,
    ) -> None:
        if not callable(opponent) and opponent not in ("random", "perfect", "self"):
            raise ValueError(
                f"opponent={opponent!r} is not one of: random, perfect, self, or a function."
            )
        self.opponent = opponent
        self.first = first
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Discrete(N_POSITIONS)
        self.action_space = gym.spaces.Discrete(9)
        self.position = 0
        self._over = True

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:  # fmt: skip
        """Return the first position in which the agent is to move."""
        super().reset(seed=seed)
        self.position, self._over = 0, False
        begins = self.np_random.random() < 0.5 if self.first is None else self.first
        if not begins and self.opponent != "self":
            self.position, _, _ = after_move(0, self._reply(0))
        return self.position, self._info()

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Return the next position in which the agent is to move, what came of its move and the
        reply, and whether the game is over.

        Raises:
            ValueError: the game was over, or there is no such cell.
        """
        if self._over:
            raise ValueError("the game is over; reset first.")
        if not 0 <= action < 9:
            raise ValueError(f"action={action} must be a cell, from 0 to 8.")
        reward = LOSS
        if illegal := not legal_mask(self.position)[action]:
            self._over = True
        else:
            self.position, reward, self._over = after_move(self.position, int(action))
            if not self._over and self.opponent != "self":
                reply = self._reply(self.position)
                self.position, theirs, self._over = after_move(self.position, reply)
                reward = -theirs
        info = self._info() | ({"illegal": True} if illegal else {})
        return self.position, reward, self._over, False, info

    def _info(self) -> dict[str, Any]:
        # a new array each time: whoever keeps an info may write to it
        return {"action_mask": np.array(legal_mask(self.position), dtype=np.int8)}

    def _reply(self, position: int) -> int:
        if callable(self.opponent):
            return int(self.opponent(position, legal_mask(position)))
        if self.opponent == "perfect":
            among: Sequence[int] = perfect_moves(position)
        else:
            among = empty_cells(position)
        return among[int(self.np_random.random() * len(among))]

    def render(self) -> str:
        """Return the board: X is the player to move."""
        return board_text(self.position)


def board_text(position: int, signs: str = ".XO") -> str:
    """Return three lines of three signs: for empty, mine, the other's."""
    cells = cells_of(position)
    return "\n".join(" ".join(signs[c] for c in cells[row : row + 3]) for row in (0, 3, 6))


Moves = Callable[[int], Sequence[int]]
"""The cells that a player chooses among, evenly: `empty_cells` plays at random, `perfect_moves`
perfectly."""


def match(mine: Moves, theirs: Moves, *, first: bool) -> tuple[float, float, float]:
    """Return the shares of games won, drawn and lost by `mine`, exact: every game is walked.

    >>> [round(share, 3) for share in match(perfect_moves, empty_cells, first=True)]
    [0.968, 0.032, 0.0]

    Args:
        first: whether `mine` begins.
    """

    @cache
    def shares(position: int, my_turn: bool) -> tuple[float, float, float]:
        cells = mine(position) if my_turn else theirs(position)
        total = [0.0, 0.0, 0.0]
        for cell in cells:
            following, reward, over = after_move(position, cell)
            if not over:
                result = shares(following, not my_turn)
            elif reward:
                result = (1.0, 0.0, 0.0) if my_turn else (0.0, 0.0, 1.0)
            else:
                result = (0.0, 1.0, 0.0)
            total = [a + b / len(cells) for a, b in zip(total, result, strict=True)]
        return (total[0], total[1], total[2])

    return shares(0, first)


#: Games, and how exploring and step size fall over them: of five recipes tried on four seeds each
#: (docs/benchmarks.md), the one that never lost a game to anybody.
SELF_PLAY_GAMES = 100_000
_MOVES_A_GAME = 4


def self_taught(*, games: int = SELF_PLAY_GAMES, seed: int = 0,
                on_games: Callable[[int, int], None] | None = None) -> Control:  # fmt: skip
    """Return a Q-learning agent that played against itself: its opponent is its own policy, which
    explores as it does.

    Args:
        games: how many.
        seed: of its exploring.
        on_games: called with (games played, games in all).
    """
    fading = EpsilonGreedy(Linear(1.0, 0.1, max(1, games * _MOVES_A_GAME * 3 // 4)), "initial")
    agent = Control(9, policy=fading, step_size=Power(1.0, 0.6), seed=seed)
    environment = TicTacToe(agent.choose)
    environment.reset(seed=seed)
    for done in range(0, games, 1000):
        run(agent, environment, episodes=min(1000, games - done))
        if on_games is not None:
            on_games(min(done + 1000, games), games)
    return agent


def greedy_moves(agent: Control) -> Moves:
    """Return the moves of an agent that no longer explores."""
    return lambda position: (agent.greedy(position, legal_mask(position)),)
