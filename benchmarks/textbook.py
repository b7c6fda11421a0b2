"""Figures of Sutton & Barto's textbook (2nd edition), computed and drawn.

`python -m benchmarks.textbook` prints them beside what the book shows; with a folder,
`python -m benchmarks.textbook docs/notes`, it draws them there as SVGs. The slow
tests hold the same functions, with fewer runs, to the book's relations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.agents import run
from rl.bandits import UCB1, Bandit, EpsilonGreedyBandit, GradientBandit, ThompsonBandit
from rl.dyna import DynaQ
from rl.environments import cliff_walk, dyna_maze, maximisation_bias, random_walk
from rl.many import ManyRuns, TestbedRun, run_many, run_testbed
from rl.planning import evaluate
from rl.policies import EpsilonGreedy, Floats
from rl.prediction import Prediction

WALK_STATES = 19


def ten_arms(runs: int = 2000, steps: int = 1000) -> dict[str, TestbedRun]:
    """Return the 10-armed testbed of figures 2.2 to 2.4, and of 2.5 (worths about 4)."""
    bandits: dict[str, tuple[Bandit, float]] = {
        "epsilon 0": (EpsilonGreedyBandit(10, epsilon=0.0, runs=runs), 0.0),
        "epsilon .01": (EpsilonGreedyBandit(10, epsilon=0.01, runs=runs), 0.0),
        "epsilon .1": (EpsilonGreedyBandit(10, epsilon=0.1, runs=runs), 0.0),
        "realistic, epsilon .1": (
            EpsilonGreedyBandit(10, epsilon=0.1, step_size=0.1, runs=runs), 0.0,
        ),
        "optimistic, greedy": (
            EpsilonGreedyBandit(10, epsilon=0.0, step_size=0.1, initial=5.0, runs=runs), 0.0,
        ),
        "UCB, c = 2": (UCB1(10, c=2.0, runs=runs), 0.0),
        "Thompson": (ThompsonBandit(10, runs=runs), 0.0),
        **{
            f"gradient {size}{', no baseline' * (not baseline)}": (
                GradientBandit(10, step_size=size, baseline=baseline, runs=runs), 4.0,
            )
            for size in (0.1, 0.4)
            for baseline in (True, False)
        },
    }  # fmt: skip
    return {
        name: run_testbed(bandit, steps=steps, mean=mean)
        for name, (bandit, mean) in bandits.items()
    }


def walk_errors(ns: Sequence[int], step_sizes: Sequence[float], runs: int = 25) -> Floats:
    """Return the root-mean-square error of n-step TD on the 19-state walk, averaged over states,
    the first 10 episodes and the runs, (ns, step sizes): figure 7.2."""
    environment = random_walk(WALK_STATES)
    policy = np.full((WALK_STATES + 2, 2), 0.5)
    exact = evaluate(environment.mdp, policy)
    errors = np.zeros((len(ns), len(step_sizes)))
    for i, n in enumerate(ns):
        for j, step_size in enumerate(step_sizes):
            for seed in range(runs):  # the same walks for every n and step size
                agent = Prediction(policy, depth=n, step_size=step_size, seed=seed)
                for _ in range(10):
                    run(agent, environment, episodes=1)
                    wrong = (agent.values(WALK_STATES + 2) - exact)[1:-1]
                    errors[i, j] += np.sqrt((wrong**2).mean()) / (10 * runs)
    return errors


def cliff(runs: int = 500, episodes: int = 500) -> dict[str, ManyRuns]:
    """Return SARSA and Q-learning on the cliff, epsilon .1, step size .5: example 6.6."""
    return {
        update: run_many(cliff_walk().mdp, runs=runs, episodes=episodes, update=update,
                         epsilon=0.1, step_size=0.5, seed=1)
        for update in ("sarsa", "q-learning", "expected-sarsa")
    }  # type: ignore[misc]  # fmt: skip


def maze(plannings: Iterable[int] = (0, 5, 50), runs: int = 30,
         episodes: int = 50) -> dict[int, Floats]:  # fmt: skip
    """Return mean steps an episode in the Dyna maze by planning steps, (episodes,): figure 8.2."""
    found = {}
    for planning in plannings:
        lengths = []
        for seed in range(runs):
            agent = DynaQ(4, planning=planning, step_size=0.1, discount=0.95, seed=seed,
                          policy=EpsilonGreedy(0.1, unvisited="initial"))  # fmt: skip
            lengths.append(run(agent, dyna_maze(), episodes=episodes).lengths)
        found[planning] = np.mean(lengths, axis=0)
    return found


def bias(runs: int = 5000, episodes: int = 300) -> dict[str, Floats]:
    """Return the share of left in A by episode, (episodes,): figure 6.5."""
    world = maximisation_bias()
    return {
        update: run_many(world.mdp, runs=runs, episodes=episodes, update=update, epsilon=0.1,
                         step_size=0.1, reward_sd=world.reward_sd, legal=world.legal,
                         seed=1).first_actions.mean(0)
        for update in ("q-learning", "double-q-learning")
    }  # type: ignore[misc]  # fmt: skip


def path_length(q: Floats, most: int = 200) -> int:
    """Return the steps of the greedy path over the cliff by Q, (n_states, n_actions); `most` if it
    does not arrive."""
    world = cliff_walk()
    state, _ = world.reset()
    for t in range(1, most + 1):
        state, _, over, _, _ = world.step(int(q[state].argmax()))
        if over:
            return t
    return most


def main(folder: str | None = None) -> None:
    """Print the figures, and draw them where a folder is given."""
    beds = ten_arms()
    print("\n10-armed testbed, 2,000 runs: reward and share of the best arm, steps 801 to 1,000")
    for name, found in beds.items():
        reward, optimal = found.rewards[800:].mean(), found.optimal[800:].mean()
        print(f"  {name:<28}{reward:8.3f}{optimal:8.3f}")
    ns, step_sizes = (1, 2, 4, 8, 16, 32), (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    errors = walk_errors(ns, step_sizes)
    print("\n19-state random walk: error by n (rows) and step size (columns); the book's best is "
          "n = 4 at .4, about .25")  # fmt: skip
    print("  " + " " * 6 + "".join(f"{size:>7}" for size in step_sizes))
    for n, row in zip(ns, errors, strict=True):
        print(f"  {n:<6}" + "".join(f"{min(value, 9.99):7.3f}" for value in row))
    cliffs = cliff()
    print("\nCliff: sum of rewards, episodes 401 to 500; greedy path at the end (median)")
    for name, many in cliffs.items():
        paths = np.median([path_length(q) for q in many.q[:50]])
        print(f"  {name:<18}{many.returns[:, 400:].mean():8.1f}{paths:8.0f}")
    mazes = maze()
    print("\nDyna maze: steps in episode 2, 3, 5, 10, 30, 50; the best is 14")
    for planning, steps in mazes.items():
        cells = "".join(f"{steps[k - 1]:8.1f}" for k in (2, 3, 5, 10, 30, 50))
        print(f"  {planning:<4} planning steps{cells}")
    lefts = bias()
    print("\nMaximisation bias: share of left at its largest, and in episode 300; best is .05")
    for name, share in lefts.items():
        print(f"  {name:<20}{share.max():8.3f}{share[-10:].mean():8.3f}", flush=True)
    if folder is not None:
        for name, draw in {
            "testbed": lambda: _draw_testbed(beds),
            "random_walk": lambda: _draw_walk(ns, step_sizes, errors),
            "cliff": lambda: _draw_cliff(cliffs),
            "dyna_maze": lambda: _draw_maze(mazes),
            "maximisation_bias": lambda: _draw_bias(lefts),
        }.items():
            _save(draw(), Path(folder) / f"{name}.svg")


def _figure(columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 4.2 * columns, 3.2), layout="constrained")
    axes = figure.subplots(1, columns)
    for each in axes if columns > 1 else [axes]:
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    # the same file for the same figures: no date, no random ids; text as text, which is small
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem,
                                "path.simplify": True}):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
    print(f"  {path}: {path.stat().st_size / 1024:.0f} KiB")


def _smooth(values: Floats, points: int = 60) -> tuple[Floats, Floats]:
    """Return means over equal stretches, and the middles of these, counted from 1."""
    width = max(1, len(values) // points)
    cut = len(values) // width * width
    parts = np.asarray(values)[:cut].reshape(-1, width)
    return np.arange(len(parts)) * width + (width + 1) / 2, parts.mean(1)


def _draw_testbed(beds: dict[str, TestbedRun]) -> Any:
    figure, (left, right) = _figure(2)
    for k, (name, found) in enumerate(beds.items()):
        style = {"color": f"C{k % 10}", "ls": "--" if "no baseline" in name else "-", "lw": 1.2}
        if not name.startswith("gradient"):  # whose arms are worth 4 more
            left.plot(*_smooth(found.rewards), **style)
        right.plot(*_smooth(found.optimal), **style, label=name)
    left.set(xlabel="step", ylabel="mean reward", title="10-armed testbed, 2,000 runs")
    right.set(xlabel="step", ylabel="share of the best arm", ylim=(0, 1))
    right.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_walk(ns: Sequence[int], step_sizes: Sequence[float], errors: Floats) -> Any:
    figure, axes = _figure()
    for n, row in zip(ns, errors, strict=True):
        axes.plot(step_sizes, row, "o-", ms=3, label=f"n = {n}")
    axes.set(ylim=(0.2, 0.6), xlabel="step size", ylabel="RMS error, first 10 episodes",
             title="n-step TD on the 19-state walk")  # fmt: skip
    axes.legend(fontsize=8, frameon=False)
    return figure


def _draw_cliff(cliffs: dict[str, ManyRuns]) -> Any:
    figure, axes = _figure()
    for name, many in cliffs.items():
        axes.plot(*_smooth(many.returns.mean(0)), label=name)
    axes.set(ylim=(-100, 0), xlabel="episode", ylabel="sum of rewards", title="Walk by the cliff")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _draw_maze(mazes: dict[int, Floats]) -> Any:
    figure, axes = _figure()
    for planning, steps in mazes.items():
        axes.plot(np.arange(2, len(steps) + 1), steps[1:], label=f"{planning} planning steps")
    axes.axhline(14, color="grey", lw=0.8, ls=":")
    axes.set(yscale="log", xlabel="episode", ylabel="steps", title="Dyna maze")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _draw_bias(lefts: dict[str, Floats]) -> Any:
    figure, axes = _figure()
    for name, share in lefts.items():
        axes.plot(*_smooth(share), label=name)
    axes.axhline(0.05, color="grey", lw=0.8, ls=":")
    axes.set(ylim=(0, 1), xlabel="episode", ylabel="share of left", title="Maximisation bias")
    axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:2])
