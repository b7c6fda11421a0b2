"""`melbandit gridworld --show`: an agent's values and policy on a grid, while it learns."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audio.settings import UserError
from scripts.command import DONE, check_least, parse, print_result, run

if TYPE_CHECKING:
    from rl.choices import Depth, Frequency
    from rl.control import Control
    from rl.environments import GridWorld


@dataclass(frozen=True)
class Grid:
    """Let an agent learn its way through a grid, and look at what it learns.

    Every cell shows the action that the agent thinks best; the brighter, the more it expects.
    """

    world: Literal["cliff", "windy", "windy-kings", "maze"] = "maze"
    """The cliff walk, the windy grid (with king's moves), or the Dyna maze."""
    update: Literal["q-learning", "sarsa", "expected-sarsa", "double-q-learning"] = "q-learning"
    """The formula: what a target ends with."""
    frequency: str = "step"
    """When values are updated: step, episode, or a number of steps."""
    depth: str = "1"
    """How far ahead a target looks: a number of steps, episode, or lambda=0.9."""
    planning: int = 0
    """Steps imagined with a learned model for each real one: Dyna-Q."""
    sweeping: bool = False
    """Plan by prioritised sweeping."""
    epsilon: float = 0.1
    """Probability of exploring."""
    step_size: float = 0.5
    """Share of the way to a target that a value moves."""
    episodes: int = 100
    """Walks from start to goal."""
    show: bool = False
    """Draw the grid while the agent learns; needs a terminal."""
    seconds: float = 10.0
    """How long the show is to last, at least."""
    seed: int = 0
    """Of the agent."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: gridworld(parse(Grid, "gridworld", arguments)), stopped="stopped.")


def gridworld(command: Grid) -> int:
    """Learn, draw, print; returns an exit code."""
    from rich.console import Console
    from rich.live import Live

    from rl.agents import run as walk
    from rl.planning import value_iteration

    check_least("--episodes", command.episodes, 1)
    check_least("--seed", command.seed, 0)
    world = _world(command.world)
    agent = _agent(command, world)
    console = Console()
    lengths: list[int] = []
    returns: list[float] = []

    def learn() -> None:
        found = walk(agent, world, episodes=1, seed=command.seed)
        lengths.append(int(found.lengths[0]))
        returns.append(float(found.returns[0]))

    if command.show and console.is_terminal:
        pause = command.seconds / command.episodes
        with Live(console=console, auto_refresh=False) as live:
            for _ in range(command.episodes):
                learn()
                live.update(_panel(command, world, agent, lengths, returns), refresh=True)
                time.sleep(pause)
    else:
        for _ in range(command.episodes):
            learn()
        console.print(_panel(command, world, agent, lengths, returns))
    best = value_iteration(world.mdp)
    start = world.cells_text.index("S")
    print_result(
        {
            "world": command.world,
            "episodes": len(lengths),
            "steps": sum(lengths),
            "last_10": {
                "steps": round(sum(lengths[-10:]) / len(lengths[-10:]), 2),
                "reward": round(sum(returns[-10:]) / len(returns[-10:]), 2),
            },
            "greedy_steps": greedy_steps(world, agent),
            "best_value": round(float(best.v[start]), 4),
            "value": round(max(agent.q(start)), 4),
        }
    )
    return DONE


def _world(name: str) -> GridWorld:
    from rl.environments import cliff_walk, dyna_maze, windy_grid

    limit = 5000  # a walk that does not arrive ends here
    if name == "cliff":
        return cliff_walk(most_steps=limit)
    if name == "maze":
        return dyna_maze(most_steps=limit)
    return windy_grid(kings=name == "windy-kings", most_steps=limit)


def _agent(command: Grid, world: GridWorld) -> Control:
    from rl.control import Control
    from rl.dyna import DynaQ, PrioritisedSweeping
    from rl.policies import EpsilonGreedy

    try:
        more: dict[str, Any] = {
            "update": command.update,
            "policy": EpsilonGreedy(command.epsilon, unvisited="initial"),
            "step_size": command.step_size,
            "discount": world.mdp.discount,
            "seed": command.seed,
        }
        n_actions = world.mdp.n_actions
        frequency, depth = frequency_of(command.frequency), depth_of(command.depth)
        if not command.planning and not command.sweeping:
            return Control(n_actions, frequency=frequency, depth=depth, **more)
        if (frequency, depth) != ("step", 1):
            more |= {"frequency": frequency, "depth": depth}  # refused there, with the rule
        kind = PrioritisedSweeping if command.sweeping else DynaQ
        return kind(n_actions, planning=command.planning or 5, **more)
    except ValueError as error:
        raise UserError(str(error)) from None


def frequency_of(text: str) -> Frequency:
    """Return the frequency that an argument says."""
    return int(text) if text.isdecimal() else text  # type: ignore[return-value]


def depth_of(text: str) -> Depth:
    """Return the depth that an argument says: `3`, `episode`, `lambda=0.9`.

    >>> depth_of("lambda=0.9")
    Lambda(value=0.9, trace='accumulating')

    Raises:
        ValueError: a lambda that is no number.
    """
    from rl.choices import Lambda

    if not text.startswith("lambda="):
        return frequency_of(text)  # type: ignore[return-value]
    try:
        value = float(text.removeprefix("lambda="))
    except ValueError:
        raise ValueError(f"depth={text!r}: lambda must be a number, as in lambda=0.9.") from None
    return Lambda(value)


def greedy_steps(world: GridWorld, agent: Control, most: int = 1000) -> int | None:
    """Return the steps from start to goal without exploring, None if it does not arrive."""
    state, _ = world.reset()
    for t in range(1, most + 1):
        state, _, over, _, _ = world.step(agent.greedy(state))
        if over:
            return t
    return None


def _panel(command: Grid, world: GridWorld, agent: Control, lengths: Sequence[int],
           returns: Sequence[float]) -> Any:  # fmt: skip
    from rich.console import Group
    from rich.text import Text

    head = Text(f"{command.world}: {type(agent).__name__} {agent.choices.method}", style="bold")
    foot = (
        f"episode {len(lengths)}: {lengths[-1]} steps, sum of rewards {returns[-1]:g}; "
        f"mean of the last ten {sum(lengths[-10:]) / len(lengths[-10:]):.1f} steps"
    )
    return Group(head, picture(world, agent), Text(foot))


def picture(world: GridWorld, agent: Control) -> Any:
    """Return the grid as coloured text: arrows of the greedy policy, shaded by value."""
    from rich.text import Text

    from rl.environments import ARROWS

    cells = world.cells_text
    free = (s for s, sign in enumerate(cells) if sign in ".S")
    known = {s: q for s in free if any(q := agent.q(s))}
    tops = [max(q) for q in known.values()]
    low, high = (min(tops), max(tops)) if tops else (0.0, 0.0)
    text = Text()
    for s, sign in enumerate(cells):
        if sign in "#C":
            text.append("██" if sign == "#" else "▒▒", style="grey37" if sign == "#" else "red")
        elif sign == "G":
            text.append("G ", style="bold black on bright_green")
        elif s not in known:
            text.append(f"{sign if sign == 'S' else '·'} ", style="grey50")
        else:
            share = (max(known[s]) - low) / (high - low) if high > low else 1.0
            shade = f"rgb({30 + int(40 * share)},{50 + int(150 * share)},{120 + int(60 * share)})"
            arrow = ARROWS[known[s].index(max(known[s]))]
            text.append(f"{arrow} ", style=f"{'bold ' * (sign == 'S')}white on {shade}")
        if (s + 1) % world.width == 0:
            text.append("\n")
    return text


if __name__ == "__main__":
    sys.exit(main())
