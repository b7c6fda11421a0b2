"""The pictures of reinforcement-learning.md."""

from __future__ import annotations

import numpy as np
from draw import BLUE, GREEN, GREY, ORANGE, PINK, SKY, bare, panels
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from rl.agents import run
from rl.bandits import UCB1, EpsilonGreedyBandit
from rl.control import Control
from rl.dyna import DynaQ
from rl.environments import cliff_walk, dyna_maze, maximisation_bias, random_walk
from rl.many import run_many, run_testbed
from rl.mdp import FiniteMDP
from rl.planning import evaluate, value_iteration
from rl.policies import EpsilonGreedy, Exponential, Linear, RandomThen
from rl.prediction import Prediction

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
EXPLORING = EpsilonGreedy(0.1, unvisited="initial")
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY)


def loop() -> Figure:
    figure, (axes,) = panels(1, 1, width=6.5, height=2.1)
    axes.set(xlim=(0, 13), ylim=(0, 4.2))
    bare(axes)
    for x, name, colour in ((1, "agent", SKY), (8.6, "environment", "#f0c9a5")):
        axes.add_patch(FancyBboxPatch((x, 1.2), 3.4, 1.8, boxstyle="round,pad=0.1", fc=colour,
                                      ec="none"))  # fmt: skip
        axes.text(x + 1.7, 2.1, name, ha="center", va="center", fontsize=12)
    for start, end, words, y, bend in (
        ((3.2, 3.15), (9.8, 3.15), "action $A_t$", 3.62, -0.15),
        ((9.8, 1.05), (3.2, 1.05), "reward $R_{t+1}$, next state $S_{t+1}$", 0.1, -0.15),
    ):
        axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}",
                                       arrowstyle="-|>", mutation_scale=16, lw=1.6,
                                       color=GREY))  # fmt: skip
        axes.text(6.5, y, words, ha="center", va="center", fontsize=11,
                  bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
    return figure


def rooms() -> Figure:
    figure, (axes,) = panels(1, 1, width=6.5, height=2.6)
    gamma = np.linspace(0, 0.9, 300)
    axes.plot(gamma, 1 / (1 - gamma), color=ORANGE, label="stay in A")
    axes.plot(gamma, 2 * gamma / (1 - gamma), color=BLUE, label="go to B and stay there")
    axes.plot(0.5, 2, "o", color="black", ms=5)
    axes.annotate("1/2: both are worth 2", (0.5, 2), (0.52, 0.5), fontsize=8)
    axes.set(xlabel="discount", ylabel="worth, starting in A", ylim=(0, 18), xlim=(0, 0.9))
    axes.legend(loc="upper left")
    return figure


def jumping_grid() -> FiniteMDP:
    """Return the grid of Sutton & Barto's example 3.5."""
    p, r = np.zeros((25, 4, 25)), np.zeros((25, 4))
    for s in range(25):
        for a, (down, right) in enumerate(MOVES):
            row, column = s // 5 + down, s % 5 + right
            inside = 0 <= row < 5 and 0 <= column < 5
            to, r[s, a] = (5 * row + column, 0) if inside else (s, -1)
            if s in (1, 3):
                to, r[s, a] = ((21, 10), (13, 5))[s // 2]
            p[s, a, to] = 1
    return FiniteMDP(p, r, terminal=np.zeros(25, bool), discount=0.9)


def gridworld() -> Figure:
    figure, axes = panels(1, 3, height=3.0)
    mdp = jumping_grid()
    best = value_iteration(mdp)
    values = (evaluate(mdp, np.full((25, 4), 0.25)), best.v)
    for one, v, title in zip(axes, values, ("V, acting at random", "V*, acting best"),
                             strict=False):  # fmt: skip
        one.imshow(v.reshape(5, 5), cmap="YlGnBu", vmin=-4, vmax=38)
        for s in range(25):
            one.text(s % 5, s // 5, f"{v[s]:.1f}", ha="center", va="center")
        one.set_title(title)
    arrows = axes[2]
    arrows.imshow(np.zeros((5, 5)), cmap="Greys")
    for s, row in enumerate(best.greedy()):
        if s in (1, 3):
            arrows.text(s % 5, s // 5, "AB"[s // 2], ha="center", va="center", fontsize=12)
            continue
        for (down, right), good in zip(MOVES, row, strict=True):
            if good:
                arrows.annotate("", (s % 5 + 0.42 * right, s // 5 + 0.42 * down),
                                (s % 5, s // 5), arrowprops={"arrowstyle": "->", "color": BLUE,
                                                             "lw": 1.4})  # fmt: skip
    for s, name in ((21, "A'"), (13, "B'")):
        arrows.text(s % 5 + 0.22, s // 5 + 0.28, name, ha="center", va="center", fontsize=9,
                    color=ORANGE)  # fmt: skip
    arrows.set_title("the best actions")
    for one in axes:
        bare(one)
        for x in np.arange(0.5, 4):
            one.axhline(x, color="white" if one is not arrows else GREY, lw=0.6)
            one.axvline(x, color="white" if one is not arrows else GREY, lw=0.6)
    return figure


def dyna() -> Figure:
    figure, (axes,) = panels(1, 1, width=6.5, height=2.8)
    episodes = 50
    for planning, colour in ((0, GREY), (5, ORANGE), (50, BLUE)):
        lengths = [
            run(
                DynaQ(4, planning=planning, discount=0.95, policy=EXPLORING, seed=seed),
                dyna_maze(), episodes=episodes, seed=seed,
            ).lengths
            for seed in range(30)
        ]  # fmt: skip
        words = f"{planning} imagined steps" if planning else "no planning"
        axes.plot(np.arange(1, episodes + 1), np.mean(lengths, axis=0), color=colour, label=words)
    axes.axhline(14, color="black", lw=0.8, ls=":")
    axes.text(50, 13.4, "14, the shortest way", ha="right", va="top", fontsize=8)
    axes.set(xlabel="episode", ylabel="steps", ylim=(8, 3000), xlim=(0, 50), yscale="log")
    axes.set_yticks([10, 100, 1000], ["10", "100", "1000"])
    axes.minorticks_off()
    axes.legend()
    return figure


def walk() -> Figure:
    figure, (axes,) = panels(1, 1, width=6.5, height=3.0)
    environment = random_walk(19)
    coin = np.full((21, 2), 0.5)
    true = evaluate(environment.mdp, coin)[1:20]
    steps = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    for depth, colour in zip((1, 2, 4, 8, 16, "episode"), COLOURS, strict=True):
        errors = np.full(len(steps), np.nan)
        for i, step_size in enumerate(steps):
            seen = []
            for seed in range(20):
                agent = Prediction(coin, depth=depth, step_size=step_size, seed=seed,
                                   frequency="episode" if depth == "episode" else "step",
                                   )  # fmt: skip
                for _ in range(10):
                    run(agent, environment, episodes=1, seed=seed)
                    seen.append(np.sqrt(np.mean((agent.values(21)[1:20] - true) ** 2)))
            errors[i] = np.mean(seen)
            if errors[i] > 0.62:
                break
        words = {1: "1 step", "episode": "whole episode"}.get(depth, f"{depth} steps")
        axes.plot(steps, errors, ".-", color=colour, label=words, ms=4, lw=1.3)
    axes.set(xlabel="step size", ylabel="RMS error, first 10 episodes", ylim=(0.2, 0.6),
             xlim=(0, 1))  # fmt: skip
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8)
    return figure


def qtable() -> Figure:
    figure, axes = panels(1, 4, height=1.75)
    maze = dyna_maze()
    agent = Control(4, step_size=0.5, discount=0.95, policy=EXPLORING, seed=3)
    for one, until in zip(axes, (1, 5, 30, 200), strict=True):
        run(agent, maze, episodes=until - agent.episodes, seed=0)
        best = np.array([max(agent.q(s)) for s in range(54)]).reshape(6, 9)
        signs = np.array([list(row) for row in maze.cells])
        shown = np.ma.masked_where((signs == "#") | (signs == "G"), best)
        one.set_facecolor("#555555")
        one.imshow(shown, cmap="YlGnBu", vmin=0, vmax=1.0)
        for row, column in np.argwhere((signs == "S") | (signs == "G")):
            one.text(column, row, signs[row, column], ha="center", va="center", fontsize=9,
                     color="white" if signs[row, column] == "G" else "black")  # fmt: skip
        one.set_title(f"after {until} episode{'s' * (until > 1)}", fontsize=9)
        bare(one)
    return figure


def greedy_way(environment, q: np.ndarray) -> np.ndarray:
    """Return the cells (row, column) that the greedy policy walks through, from the start."""
    state, _ = environment.reset(seed=0)
    way, ended = [divmod(state, environment.width)], False
    while not ended and len(way) < 60:
        state, _, ended, _, _ = environment.step(int(q[state].argmax()))
        way.append(divmod(state, environment.width))
    return np.array(way)


def cliff() -> Figure:
    figure, (curves, ways) = panels(1, 2, height=2.7, width_ratios=(1, 1.15))
    environment = cliff_walk()
    ways.imshow(np.array([[sign == "C" for sign in row] for row in environment.cells]),
                cmap="Greys", vmax=2)  # fmt: skip
    for update, colour, name, aside in (("sarsa", BLUE, "SARSA", -0.06),
                                        ("q-learning", ORANGE, "Q-learning", 0.06)):  # fmt: skip
        many = run_many(environment.mdp, update=update, runs=500, episodes=500, epsilon=0.1,
                        step_size=0.5, discount=1.0, seed=0)  # fmt: skip
        curves.plot(np.arange(1, 501), many.returns.mean(0), color=colour, label=name, lw=1)
        way = greedy_way(environment, many.q.mean(0))
        ways.plot(way[:, 1] + aside, way[:, 0] + aside, "-", color=colour, lw=2.2)
    curves.set(xlabel="episode", ylabel="sum of rewards", ylim=(-100, 0), xlim=(0, 500))
    curves.legend(loc="lower right")
    ways.text(5.5, 3, "cliff", ha="center", va="center", fontsize=10)
    for column, sign in ((0, "S"), (11, "G")):
        ways.text(column, 3, sign, ha="center", va="center", fontsize=10,
                  bbox={"fc": "white", "ec": "none", "pad": 2})  # fmt: skip
    bare(ways)
    for x in np.arange(-0.5, 12):
        ways.axvline(x, color="#dddddd", lw=0.5, zorder=0.5)
    for y in np.arange(-0.5, 4):
        ways.axhline(y, color="#dddddd", lw=0.5, zorder=0.5)
    ways.set_title("the greedy ways")
    return figure


def bias() -> Figure:
    figure, (axes,) = panels(1, 1, width=6.5, height=2.5)
    world = maximisation_bias()
    for update, colour, name in (("q-learning", ORANGE, "Q-learning"),
                                 ("double-q-learning", BLUE, "Double Q-learning")):  # fmt: skip
        many = run_many(world.mdp, update=update, runs=2000, episodes=300, epsilon=0.1,
                        step_size=0.1, reward_sd=world.reward_sd, legal=world.legal,
                        seed=0)  # fmt: skip
        left = 100 * many.first_actions.mean(0)
        axes.plot(np.arange(1, 301), left, color=colour, label=name, lw=1.2)
    axes.axhline(5, color="black", lw=1, ls=":", label="5 %: exploring alone")
    axes.set(xlabel="episode", ylabel="left in A, %", ylim=(0, 100), xlim=(0, 300))
    axes.legend()
    return figure


def switched() -> Figure:
    figure, (axes,) = panels(1, 1, width=6.5, height=2.6)
    p = np.linspace(0.02, 0.98, 400)

    def value(chance):
        return -2 * (2 - chance) / (chance * (1 - chance))

    axes.plot(p, value(p), color=BLUE)
    for chance, words, away in (
        (0.05, "epsilon-greedy,\nleft", (0.09, -85)),
        (2 - np.sqrt(2), "best: 0.59", (0.52, -26)),
        (0.95, "epsilon-greedy,\nright", (0.76, -55)),
    ):
        axes.plot(chance, value(chance), "o", color=ORANGE, ms=6)
        axes.text(*away, words, fontsize=8)
    axes.set(xlabel="probability of going right", ylabel="expected return", ylim=(-100, 0),
             xlim=(0, 1))  # fmt: skip
    return figure


def testbed() -> Figure:
    figure, (left, right) = panels(1, 2, height=2.9, width_ratios=(2, 3))
    decaying = Exponential(1.0, 0.0, half_life=60)
    t = np.arange(0, 1001)
    for schedule, colour, words in (
        (Linear(1.0, 0.1, 300), GREEN, "straight to 0.1"),
        (decaying, BLUE, "halved every 60 steps"),
        (RandomThen(100, 0.1), PINK, "random, then 0.1"),
    ):
        left.plot(t, [schedule(step) for step in t], color=colour, label=words)
    left.set(xlabel="step", title="epsilon", ylim=(0, 1.05), xlim=(0, 1000))
    left.legend(fontsize=8)
    bandits = (
        (EpsilonGreedyBandit(10, epsilon=0.0, runs=2000), GREY, "greedy"),
        (EpsilonGreedyBandit(10, epsilon=0.01, runs=2000), SKY, "epsilon 0.01"),
        (EpsilonGreedyBandit(10, epsilon=0.1, runs=2000), ORANGE, "epsilon 0.1"),
        (EpsilonGreedyBandit(10, epsilon=decaying, runs=2000), BLUE, "halved every 60"),
        (UCB1(10, c=1.0, runs=2000), "black", "UCB, c = 1"),
    )
    for bandit, colour, words in bandits:
        played = run_testbed(bandit, steps=1000)
        right.plot(np.arange(1, 1001), 100 * played.optimal, color=colour, lw=1, label=words)
    right.set(xlabel="step", title="pulls of the best arm, %", ylim=(0, 100), xlim=(0, 1000))
    right.legend(fontsize=8, loc="lower right", ncols=2)
    return figure


DRAWINGS = {
    "loop": loop,
    "rooms": rooms,
    "gridworld": gridworld,
    "dyna": dyna,
    "walk": walk,
    "qtable": qtable,
    "cliff": cliff,
    "bias": bias,
    "switched": switched,
    "testbed": testbed,
}
