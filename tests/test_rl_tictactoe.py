"""Tic-tac-toe learnt by self-play, and the commands that show agents at work."""

from __future__ import annotations

import io
import json

import pytest

from rl.tictactoe import empty_cells, greedy_moves, match, perfect_moves, self_taught
from scripts.cli import main


def test_exact_matches_agree_with_what_is_known() -> None:
    # at random the first player wins 58.5 %, the second 28.8 %
    assert match(empty_cells, empty_cells, first=True) == pytest.approx(
        (0.585, 0.127, 0.288), abs=1e-3
    )
    assert match(empty_cells, empty_cells, first=False)[0] == pytest.approx(0.288, abs=1e-3)
    assert match(perfect_moves, perfect_moves, first=False) == pytest.approx((0.0, 1.0, 0.0))
    for first in (True, False):
        assert match(perfect_moves, empty_cells, first=first)[2] == 0.0


def test_self_play_learns_within_few_games() -> None:
    before = match(greedy_moves(self_taught(games=1)), empty_cells, first=True)
    after = match(greedy_moves(self_taught(games=3000)), empty_cells, first=True)
    assert after[0] > before[0] + 0.05
    assert after[2] < before[2] / 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_self_taught_it_loses_to_nobody_and_beats_a_random_player(seed: int) -> None:
    moves = greedy_moves(self_taught(seed=seed))
    assert match(moves, perfect_moves, first=True)[2] == 0.0
    assert match(moves, perfect_moves, first=False)[2] == 0.0
    # nobody: a random player plays every game there is
    results = [match(moves, empty_cells, first=first) for first in (True, False)]
    assert results[0][2] == results[1][2] == 0.0
    assert sum(won for won, _, _ in results) / 2 >= 0.9


def last_line(text: str):
    return json.loads(text.splitlines()[-1])


def test_play_trains_saves_loads_and_plays(tmp_path, capsys) -> None:
    saved = tmp_path / "agent.json"
    train = ["play", "tictactoe", "--training-games", "2000", "--save", str(saved)]
    assert main([*train, "--opponent", "random", "--games", "3"]) == 0
    first = capsys.readouterr().out
    made = last_line(first)
    assert made["games"] == made["agent"] + made["drawn"] + made["opponent"] == 3
    assert first.count("begins") == 3
    assert main(["play", "tictactoe", "--agent", str(saved), "--opponent", "perfect"]) == 0
    again = last_line(capsys.readouterr().out)
    assert again["strength"] == made["strength"]
    assert again["agent"] == 0  # nobody beats a perfect player


def test_you_play_by_numbers_and_may_leave(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("5\n5\nmiddle\nq\n"))
    assert main(["play", "tictactoe", "--training-games", "200"]) == 0
    out = capsys.readouterr().out
    assert "the opponent took 5" in out
    assert "'5' is no free cell" in out
    assert "'middle' is no free cell" in out
    assert last_line(out)["games"] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join("1234567891234567891234567")))
    assert main(["play", "tictactoe", "--training-games", "200", "--no-begin"]) == 0
    assert last_line(capsys.readouterr().out)["games"] == 1


def test_play_tells_what_is_wrong(tmp_path, capsys) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"n_actions": 9}')
    for arguments, message in (
        (["--agent", str(tmp_path / "none.json")], "none.json"),
        (["--agent", str(bad)], "bad.json: no agent that was saved"),
        (["--training-games", "0"], "--training-games 0"),
        (["--games", "-1"], "--games -1"),
        (["--seed", "-1"], "--seed -1 is below its least value 0"),
        (["--save", str(tmp_path / "nope" / "x.json")], f"there is no folder {tmp_path / 'nope'}"),
        (["--save", str(tmp_path)], "is a folder; give the name of a file"),
        (["--save", str(tmp_path / "x"), "--agent", str(bad)], "leave out one of the two"),
    ):
        assert main(["play", "tictactoe", *arguments]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["play", "chess"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("world", ["cliff", "windy", "windy-kings", "maze"])
def test_a_grid_is_drawn_with_what_was_learnt(world, capsys) -> None:
    best = {"cliff": 13, "windy": 15, "windy-kings": 7, "maze": 14}[world]
    arguments = ["--world", world, "--planning", "10", "--episodes", "60", "--epsilon", "0.1"]
    assert main(["gridworld", *arguments, "--show"]) == 0  # no terminal: the last picture alone
    out = capsys.readouterr().out
    made = last_line(out)
    assert made["episodes"] == 60
    assert best <= made["greedy_steps"] <= best + 4
    assert "G" in out
    assert "→" in out


def test_the_picture_shows_the_greedy_policy() -> None:
    from rl.control import Control
    from rl.environments import GridWorld
    from scripts.gridworld import picture

    world = GridWorld("S.G\n.#.")
    agent = Control(4)
    agent.function.add(0, [0.0, 1.0, 0.0, 0.0])
    agent.function.add(1, [0.0, 0.0, 3.0, 2.0])
    assert picture(world, agent).plain == "→ ↓ G \n· ██· \n"


def test_the_three_choices_can_be_made_on_the_command_line(capsys) -> None:
    for more, method in (
        (["--depth", "3", "--update", "sarsa"], "3-step sarsa"),
        (["--depth", "lambda=0.5"], "q-learning(0.5)"),
        (["--depth", "episode", "--frequency", "episode"], "monte-carlo"),
        (["--sweeping"], "PrioritisedSweeping q-learning"),
        (["--frequency", "5"], "q-learning"),
    ):
        assert main(["gridworld", "--episodes", "2", *more]) == 0
        assert method in capsys.readouterr().out
    for more, message in (
        (["--depth", "episode"], "whole return is known only"),
        (["--depth", "lambda=much"], "lambda must be a number"),
        (["--planning", "2", "--depth", "3"], "depth=3 with a model"),
        (["--epsilon", "2"], "epsilon=2"),
        (["--episodes", "0"], "--episodes 0"),
        (["--seed", "-1"], "--seed -1 is below its least value 0"),
    ):
        assert main(["gridworld", *more]) == 1
        assert message in capsys.readouterr().err


def test_the_show_runs_in_a_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal
    assert main(["gridworld", "--show", "--episodes", "4", "--seconds", "0"]) == 0
    out = capsys.readouterr().out
    assert "episode 1:" in out
    assert "episode 4:" in out
    assert "\x1b[" in out
