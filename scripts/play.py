"""`melbandit play tictactoe`: a game against an agent that taught itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audio.files import write_atomically
from audio.settings import UserError
from scripts.command import DONE, check_least, parse, print_result, progress, read_json, run

if TYPE_CHECKING:
    from rl.control import Control


@dataclass(frozen=True)
class Play:
    """Play against a Q-learning agent that taught itself by playing against itself."""

    game: Annotated[Literal["tictactoe"], tyro.conf.Positional]
    """What is played."""
    opponent: Literal["you", "random", "perfect"] = "you"
    """Who plays against the agent: you at the terminal, or a player that shows it at work."""
    games: int = 1
    """Games to play; the sides take turns to begin."""
    begin: bool = True
    """Whether the opponent begins the first game."""
    training_games: int = 100_000
    """Games that the agent plays against itself before: 100,000 take some 10 s."""
    agent: Path | None = None
    """JSON of an agent that was saved; it is not trained again."""
    save: Path | None = None
    """File to save the trained agent in, as JSON."""
    seed: int = 0
    """Of training, and of a random opponent."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: play(parse(Play, "play", arguments)), stopped="stopped.")


def play(command: Play) -> int:
    """Train or load the agent, say how good it is, play; returns an exit code."""
    from rl.tictactoe import empty_cells, greedy_moves, match, perfect_moves

    check_least("--games", command.games, 0)
    check_least("--training-games", command.training_games, 1)
    check_least("--seed", command.seed, 0)
    if command.save is not None and command.agent is not None:
        raise UserError(
            f"--save {command.save} keeps an agent that was trained, and {command.agent} is saved "
            "already; leave out one of the two."
        )
    if command.save is not None and not command.save.parent.is_dir():
        raise UserError(f"--save {command.save}: there is no folder {command.save.parent}; "
                        "make it first.")  # fmt: skip
    if command.save is not None and command.save.is_dir():
        raise UserError(f"--save {command.save}: is a folder; give the name of a file.")
    agent = _agent(command)
    moves, strength = greedy_moves(agent), {}
    for name, theirs in (("random", empty_cells), ("perfect", perfect_moves)):
        both = [match(moves, theirs, first=first) for first in (True, False)]
        won, drawn, lost = (sum(shares) / 2 for shares in zip(*both, strict=True))
        strength[name] = {"won": round(won, 4), "drawn": round(drawn, 4), "lost": round(lost, 4)}
        print(f"against a {name} player the agent wins {won:.1%}, draws {drawn:.1%} and loses "
              f"{lost:.1%} of games, beginning half of them")  # fmt: skip
    score = {"agent": 0, "drawn": 0, "opponent": 0}
    played = 0
    for game in range(command.games):
        result = _game(agent, command, begins=command.begin == (game % 2 == 0), seed=game)
        if result is None:
            break
        score[result] += 1
        played += 1
    print_result({"games": played, **score, "strength": strength})
    return DONE


def _agent(command: Play) -> Control:
    from rl.control import Control
    from rl.tictactoe import self_taught

    if command.agent is not None:
        made = read_json(command.agent)
        try:
            agent = Control.from_json(made)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{command.agent}: no agent that was saved ({error}).") from None
        if agent.n_actions != 9:
            raise UserError(f"{command.agent}: an agent of {agent.n_actions} actions, not of 9.")
        return agent
    with progress("playing against itself", "games") as draw:
        agent = self_taught(games=command.training_games, seed=command.seed, on_games=draw)
    if command.save is not None:
        import json

        write_atomically(command.save, json.dumps(agent.to_json()).encode())
    return agent


def _game(agent: Control, command: Play, *, begins: bool, seed: int) -> str | None:
    """Play one game; returns who won, or None where the player left."""
    import numpy as np

    from rl.tictactoe import after_move, board_text, legal_mask

    rng = np.random.default_rng([command.seed, seed])
    position, their_turn = 0, begins
    print(f"\na game: {'the opponent (O)' if begins else 'the agent (X)'} begins")
    while True:
        if their_turn:
            cell = _their_move(command.opponent, position, rng)
            if cell is None:
                return None
        else:
            legal = legal_mask(position)
            values = agent.q(position)
            cell = agent.greedy(position, legal)
            worths = "  ".join(f"{i + 1}: {values[i]:+.2f}" for i in range(9) if legal[i])
            print(f"the agent's values   {worths}")
        position, reward, over = after_move(position, cell)
        # seen by who is to move next: the agent's sign is X
        print(board_text(position, ".XO" if their_turn else ".OX"))
        print(f"{'the opponent' if their_turn else 'the agent'} took {cell + 1}\n")
        if over:
            result = "drawn" if not reward else "opponent" if their_turn else "agent"
            print("drawn" if result == "drawn" else f"the {result} won", flush=True)
            return result
        their_turn = not their_turn


def _their_move(opponent: str, position: int, rng: Any) -> int | None:
    from rl.tictactoe import empty_cells, perfect_moves

    free = empty_cells(position)
    if opponent != "you":
        return int(rng.choice(free if opponent == "random" else perfect_moves(position)))
    while True:
        print(f"your move ({', '.join(str(cell + 1) for cell in free)}; q to leave): ",
              end="", flush=True)  # fmt: skip
        answer = sys.stdin.readline()
        if not answer or answer.strip().lower() in ("q", "quit"):
            print()
            return None
        if answer.strip().isdecimal() and int(answer) - 1 in free:
            return int(answer) - 1
        print(f"{answer.strip()!r} is no free cell; cells are counted row by row from 1.")


if __name__ == "__main__":
    sys.exit(main())
