"""Environments: Gymnasium's checker, the textbook's known optima, and the rules by hand."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl.environments import (
    GridWorld,
    KArmedTestbed,
    MDPEnv,
    cliff_walk,
    dyna_maze,
    grid_mdp,
    maximisation_bias,
    random_walk,
    windy_grid,
)
from rl.knob_env import KnobEnv
from rl.mdp import random_mdp
from rl.planning import evaluate, policy_iteration, value_iteration
from rl.space import Knob, SearchSpace
from rl.spaces import DEFAULT, QUICK
from rl.tictactoe import (
    LINES,
    TicTacToe,
    after_move,
    board_text,
    cells_of,
    empty_cells,
    legal_mask,
    perfect_moves,
    position_of,
    worth,
)

SPACE = SearchSpace(
    [Knob("a", ("x", "y")), Knob("b", (1, 2, 3), when={"a": ("y",)}), Knob("c", (0.0, 0.5))]
)
BUILDERS = {
    "cliff": cliff_walk,
    "windy": windy_grid,
    "windy, king's moves": lambda: windy_grid(kings=True),
    "dyna maze": dyna_maze,
    "random walk": random_walk,
    "maximisation bias": maximisation_bias,
    "chance": lambda: MDPEnv(random_mdp(np.random.default_rng(1)), most_steps=50),
    "testbed": KArmedTestbed,
    "drifting testbed": lambda: KArmedTestbed(drift_sd=0.01),
    "tic-tac-toe, random": TicTacToe,
    "tic-tac-toe, perfect": lambda: TicTacToe("perfect"),
    "tic-tac-toe, self": lambda: TicTacToe("self"),
    "tic-tac-toe, function": lambda: TicTacToe(lambda position, legal: legal.index(True)),
    "knobs": lambda: KnobEnv(SPACE, lambda chosen: 1.0),
    "knobs, quick space": lambda: KnobEnv(QUICK, lambda chosen: 1.0),
    "knobs, default space": lambda: KnobEnv(DEFAULT, lambda chosen: 1.0),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_gymnasiums_checker_has_no_complaint(name) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*alternative render modes.*")  # has no spec
        check_env(BUILDERS[name]())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_seed_gives_the_same_episode_again(name) -> None:
    def played():
        environment = BUILDERS[name]()
        seen, info = environment.reset(seed=11)
        trail, rng = [str(seen)], np.random.default_rng(2)
        for _ in range(30):
            mask = info.get("action_mask", np.ones(environment.action_space.n, np.int8))
            action = int(rng.choice(np.flatnonzero(mask)))
            seen, reward, over, late, info = environment.step(action)
            assert environment.observation_space.contains(seen)
            trail.append(f"{seen} {reward}")
            assert environment.render()
            if over or late:
                break
        return trail

    assert played() == played()


def test_grids_have_the_textbooks_optima() -> None:
    for environment, start, best in (
        (cliff_walk(), 36, -13.0),
        (windy_grid(), 30, -15.0),
        (windy_grid(kings=True), 30, -7.0),
        (dyna_maze(), 18, 0.95**13),  # 14 steps, the last of which is rewarded
    ):
        assert environment.reset()[0] == start
        assert value_iteration(environment.mdp).v[start] == pytest.approx(best)


def test_a_cliff_a_wall_and_the_wind_by_hand() -> None:
    cliff = cliff_walk()
    cliff.reset()
    assert cliff.step(1)[:3] == (36, -100.0, False)  # back to the start
    assert [cliff.step(a)[0] for a in (0, 1, 2)] == [24, 25, 36]
    assert "@" in cliff.render()
    windy = windy_grid()
    windy.reset()
    assert [windy.step(1)[0] for _ in range(6)] == [31, 32, 33, 24, 15, 6]
    maze = dyna_maze()
    maze.reset()
    assert [maze.step(a)[0] for a in (1, 1, 3, 3)] == [19, 19, 18, 18]
    for signs in (["S.", "."], ["SS", ".G"], ["S?", ".G"], ["S.", ".."]):
        with pytest.raises(ValueError, match="a map has"):
            grid_mdp(signs)
    assert GridWorld("SG", most_steps=1).step(3)[3] is True


@pytest.mark.parametrize("signs", ["S.G\n###\n...", "##.\n#S.\n..G", "G.S\n.##\n.#."])
def test_pockets_and_walls_do_not_keep_a_map_from_being_planned(signs: str) -> None:
    world = GridWorld(signs)
    start = world.cells_text.index("S")
    for solve in (value_iteration, policy_iteration):
        solution = solve(world.mdp)
        assert solution.v[start] == -2.0  # two steps to the goal in each of them
        assert evaluate(world.mdp, solution.policy)[start] == -2.0
    assert world.mdp.terminal[[i for i, sign in enumerate(world.cells_text) if sign == "#"]].all()


def test_the_random_walk_has_the_textbooks_values() -> None:
    five, nineteen = random_walk(5, left_reward=0.0), random_walk()
    half = np.full((21, 2), 0.5)
    assert np.allclose(evaluate(five.mdp, half[:7])[1:6], np.arange(1, 6) / 6)
    assert np.allclose(evaluate(nineteen.mdp, half)[1:20], np.arange(-18, 19, 2) / 20)
    assert five.reset()[0] == 3
    assert nineteen.reset()[0] == 10


def test_chance_is_drawn_as_the_model_says() -> None:
    mdp = random_mdp(np.random.default_rng(3), n_states=4)
    environment = MDPEnv(mdp)
    environment.reset(seed=5)
    reached = np.zeros(4)
    for _ in range(8000):
        environment.state = 2
        reached[environment.step(1)[0]] += 1
    assert np.abs(reached / 8000 - mdp.transitions[2, 1]).max() < 0.025  # 4.5 standard errors


def test_the_rewards_of_the_bias_are_normal_and_a_allows_two_actions() -> None:
    environment = maximisation_bias()
    _, info = environment.reset(seed=1)
    assert info["action_mask"].sum() == 2
    rewards = []
    for _ in range(4000):
        environment.reset()
        _, reward, over, _, info = environment.step(1)
        assert (reward, over, info["action_mask"].sum()) == (0.0, False, 10)
        rewards.append(environment.step(7)[1])
    assert np.mean(rewards) == pytest.approx(-0.1, abs=0.07)
    assert np.std(rewards) == pytest.approx(1.0, abs=0.05)


def test_the_testbed_by_its_moments() -> None:
    still, drifting = KArmedTestbed(k=400, mean=4.0), KArmedTestbed(k=400, drift_sd=0.1)
    _, info = still.reset(seed=1)
    assert still.worths.mean() == pytest.approx(4.0, abs=0.25)
    assert still.worths.std() == pytest.approx(1.0, abs=0.2)
    assert info["optimal"] == still.worths.argmax()
    before = still.worths.copy()
    rewards = [still.step(3)[1] for _ in range(900)]
    assert np.mean(rewards) == pytest.approx(before[3], abs=0.15)
    assert (still.worths == before).all()
    drifting.reset(seed=1)
    assert (drifting.worths == 0).all()
    for _ in range(100):
        drifting.step(0)
    assert drifting.worths.std() == pytest.approx(1.0, abs=0.2)  # .1 times the root of 100
    assert KArmedTestbed(most_steps=1).reset()[0] == 0
    with pytest.raises(ValueError, match="k=0"):
        KArmedTestbed(0)


def test_actions_that_are_not_there_are_refused() -> None:
    for environment, action in ((cliff_walk(), 4), (cliff_walk(), -1), (KArmedTestbed(), 10)):
        environment.reset()
        with pytest.raises(ValueError, match=f"action={action} must be from 0"):
            environment.step(action)


# --- tic-tac-toe


def every_position():
    """Return every position that play can reach, seen by the player to move, and who won it."""
    reached, todo = {0}, [0]
    over = 0
    while todo:
        position = todo.pop()
        for cell in empty_cells(position):
            following, _, ended = after_move(position, cell)
            if following not in reached:
                reached.add(following)
                over += ended
                if not ended:
                    todo.append(following)
    return reached, over


def test_the_game_has_as_many_positions_as_is_known() -> None:
    reached, over = every_position()
    assert (len(reached), over) == (5478, 958)


def test_there_are_as_many_games_as_is_known() -> None:
    ends = {"first": 0, "second": 0, "drawn": 0}

    def play(position, ply):
        for cell in empty_cells(position):
            following, reward, ended = after_move(position, cell)
            if not ended:
                play(following, ply + 1)
            else:
                ends["drawn" if not reward else "second" if ply % 2 else "first"] += 1

    play(0, 0)
    assert ends == {"first": 131_184, "second": 77_904, "drawn": 46_080}


def test_perfect_players_draw_and_take_what_is_offered() -> None:
    assert worth(0) == 0.0
    assert set(perfect_moves(0)) == set(range(9))
    # after a corner only the centre holds; after the centre, only a corner does
    assert perfect_moves(after_move(0, 0)[0]) == (4,)
    assert perfect_moves(after_move(0, 4)[0]) == (0, 2, 6, 8)
    for a, b, c in LINES:
        for missing in (a, b, c):
            cells = [0] * 9
            for cell in {a, b, c} - {missing}:
                cells[cell] = 1
            free = [cell for cell in range(9) if cell not in (a, b, c)]
            cells[free[0]] = cells[free[-1]] = 2
            assert missing in perfect_moves(position_of(cells))  # it wins at once
            swapped = [(0, 2, 1)[cell] for cell in cells]
            wins = [m for m in perfect_moves(position_of(swapped)) if m != missing]
            assert all(after_move(position_of(swapped), m)[1] for m in wins)  # else it blocks


def test_positions_are_numbered_both_ways() -> None:
    for position in (0, 1, 4321, 3**9 - 1):
        assert position_of(cells_of(position)) == position
    assert board_text(position_of([1, 2, 0, 0, 1, 0, 0, 0, 2])) == "X O .\n. X .\n. . O"
    assert legal_mask(1) == (False, *[True] * 8)
    with pytest.raises(ValueError, match="cell 0 is taken"):
        after_move(1, 0)


def test_rewards_are_the_agents_and_a_taken_cell_loses() -> None:
    def first_free(position, legal):
        return legal.index(True)

    environment = TicTacToe(first_free, first=True)
    environment.reset()
    assert environment.step(6)[1:3] == (0.0, False)
    assert environment.step(7)[1:3] == (0.0, False)
    assert environment.step(8)[1:3] == (1.0, True)
    environment.reset()
    environment.step(8)
    environment.step(7)
    assert environment.step(4)[1:3] == (-1.0, True)  # it has 0, 1, 2
    environment.reset()
    environment.step(6)
    assert environment.step(6)[1:3] == (-1.0, True)
    with pytest.raises(ValueError, match="the game is over"):
        environment.step(0)
    environment.reset()
    with pytest.raises(ValueError, match="action=9"):
        environment.step(9)
    second = TicTacToe(first_free, first=False)
    assert cells_of(second.reset()[0])[0] == 2
    both = TicTacToe("self")
    both.reset()
    for cell, seen in ((0, (2,)), (3, (1, 0, 0, 2)), (1, (2, 2, 0, 1)), (4, (1, 1, 0, 2, 2))):
        assert cells_of(both.step(cell)[0])[: len(seen)] == seen
    assert both.step(2)[1:3] == (1.0, True)
    with pytest.raises(ValueError, match="opponent='good'"):
        TicTacToe("good")


# --- settings, knob by knob


def test_every_setting_can_be_chosen_and_has_its_score() -> None:
    environment = KnobEnv(SPACE, lambda chosen: 10.0 * len(chosen))
    met = []
    for actions in itertools.product(range(2), range(3), range(2)):
        _, info = environment.reset()
        assert info["knob"] == "a"
        chosen = iter(actions)
        over = False
        while not over:
            action = next(chosen) % int(info["action_mask"].sum())
            _, reward, over, _, info = environment.step(action)
        assert reward == 10.0 * len(info["setting"])
        met.append(info["setting"])
    assert all(setting in met for setting in SPACE.settings())
    with pytest.raises(ValueError, match="reset first"):
        environment.step(0)


def test_observations_say_what_is_chosen_absent_and_to_come() -> None:
    environment = KnobEnv(SPACE, lambda chosen: 0.0, penalty=-7.0)
    assert environment.reset()[0].tolist() == [3, 4, 3]
    seen, _, _, _, info = environment.step(0)
    assert seen.tolist() == [0, 3, 3]  # a is x, so b does not exist
    assert info["knob"] == "c"
    assert environment.step(2)[1:3] == (-7.0, True)  # c has two values
    with pytest.raises(ValueError, match="reset first"):
        environment.step(0)
    environment.reset()
    seen, *_, info = environment.step(1)
    assert seen.tolist() == [1, 4, 3]
    assert info["action_mask"].tolist() == [1, 1, 1]
