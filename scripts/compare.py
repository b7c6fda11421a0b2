"""`melbandit compare`: our agents and others' tuners on measured landscapes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from audio.files import write_atomically
from audio.settings import UserError
from scripts.command import DONE, check_least, parse, print_result, progress, run, say
from scripts.tables import aligned

if TYPE_CHECKING:
    from rl.landscape import Landscape


@dataclass(frozen=True)
class Compare:
    """Play tuners against one another: every trial is a look into a table of real trainings."""

    landscapes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Landscapes that come with melbandit, or files that `melbandit landscape` wrote; all that
    come with it if none is given."""
    tuners: tuple[str, ...] = ()
    """Tuners by name; by default all but gp, those with a pruner (tpe+hyperband, ...) and
    dyna-q-ucb-once, which tries no setting a second time."""
    against: str = "tpe"
    """The tuner that the ratios are taken to."""
    runs: int = 100
    """Runs of each tuner on each landscape; run r has the same luck for all of them."""
    trials: int = 200
    """Trainings in a run."""
    workers: int = 0
    """Runs at a time, each in a process of its own; 0 is one for each core."""
    out: Path | None = None
    """Folder for the figures as JSON and a chart of each landscape."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: compare(parse(Compare, "compare", arguments)), stopped="stopped.")


def compare(command: Compare) -> int:
    """Print a table for each landscape; returns an exit code."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before numpy: each run has a core to itself
    from rl.compare import OURS, RIVALS, check_tuners, contest, summary
    from rl.landscape import additivity

    check_least("--runs", command.runs, 1)
    check_least("--trials", command.trials, 1)
    check_least("--workers", command.workers, 0)
    names = list(dict.fromkeys(command.tuners or (*OURS, *RIVALS)))
    check_tuners([*names, command.against])
    if command.against not in names:
        say(f"note: {command.against} is played too: --against takes the ratios to it.")
        names.append(command.against)
    results: dict[str, Any] = {}
    for landscape in _landscapes(command.landscapes):
        with progress(landscape.name, "runs") as draw:
            runs = contest(
                landscape,
                names,
                n_runs=command.runs,
                n_trials=command.trials,
                workers=command.workers or os.cpu_count() or 1,
                on_run=draw,
            )
        made = summary(runs, n_trials=command.trials, against=command.against)
        explained = {key: round(value, 3) for key, value in additivity(landscape).items()}
        results[landscape.name] = made | {"explained": explained}
        print(contest_text(landscape, results[landscape.name]), flush=True)
    if command.out is not None:
        _write(command.out, results)
    print_result(
        {
            name: {
                tuner: {
                    what: row[what].get("ratio", [None])[0] for what in ("observed", "modelled")
                }
                for tuner, row in made["tuners"].items()
            }
            for name, made in results.items()
        }
    )
    return DONE


def _landscapes(names: Sequence[str]) -> list[Landscape]:
    """Return the landscapes, shipped or of files.

    Raises:
        LandscapeError: one cannot be read.
        UserError: two have one name, by which results and charts are kept.
    """
    from rl.landscape import Landscape, shipped, shipped_names

    read: dict[str, tuple[str, Landscape]] = {}
    for given in names or shipped_names():
        landscape = Landscape.load(Path(given)) if given.endswith(".npz") else shipped(given)
        if landscape.name in read:
            raise UserError(
                f"{given}: is called {landscape.name}, as {read[landscape.name][0]} is; compare "
                "them by two commands, or measure one with another --name."
            )
        read[landscape.name] = given, landscape
    return [landscape for _, landscape in read.values()]


def contest_text(landscape: Landscape, made: dict[str, Any]) -> str:
    """Return the figures of one landscape as tables, best first: what each tuner reports, and
    what the reward model makes of its trials."""
    explained = made["explained"]
    lines = [
        f"{landscape.name}: {len(landscape):,} settings, {landscape.n_seeds} trainings each; of "
        f"the variance between settings, knobs alone explain {explained['main']:.2f}, with pairs "
        f"{explained['main and pairs']:.2f}, of at most {explained['ceiling']:.2f}",
    ]
    titles = {
        "observed": "regret of the setting with the best observed score",
        "modelled": "regret of the tried setting that the reward model expects most of",
    }
    for what, title in titles.items():
        order = sorted(made["tuners"].items(), key=lambda item: item[1][what]["auc"])
        budgets = list(order[0][1][what]["regret"])
        head = ["", *(f"@{b}" for b in budgets), "AUC", f"to {made['against']}", "95 %", "from 1"]
        rows = [[*head, "rank", "random's end in", "ms"]]
        for name, row in order:
            one = row[what]
            ratio = one.get("ratio")
            rows.append(
                [
                    name,
                    *(f"{one['regret'][b][0]:.3f}" for b in budgets),
                    f"{one['auc']:.3f}",
                    f"{ratio[0]:.2f}" if ratio else "-",
                    f"{ratio[1]:.2f} to {ratio[2]:.2f}" if ratio else "-",
                    f"{one['ratio_from_1'][0]:.2f}" if ratio else "-",
                    f"{one['rank']:.1f}",
                    "-" if one["random_in"] is None else str(one["random_in"]),
                    f"{row['decide_ms']:.1f}",
                ]
            )
        lines += ["", title, *aligned(rows)]
    return "\n".join(lines) + "\n"


def _write(folder: Path, results: dict[str, Any]) -> None:
    """Write compare.json and a chart of each landscape, NAME.svg."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "compare.json", text.encode())
    for name, made in results.items():
        write_atomically(folder / f"{name}.svg", _chart(name, made))


def _chart(name: str, made: dict[str, Any]) -> bytes:
    """Return mean regret over trainings as an SVG: what each tuner reports on the left, what the
    reward model makes of its trials on the right."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(9.5, 3.8), layout="constrained")
        titles = {"observed": "best observed", "modelled": "recommended by the model"}
        for axes, (what, title) in zip(
            figure.subplots(1, 2, sharey=True), titles.items(), strict=True
        ):
            for i, (tuner, row) in enumerate(made["tuners"].items()):
                trials, regret = zip(*row[what]["curve"], strict=True)
                color = matplotlib.colormaps["tab20"](2 * i % 20 + 2 * i // 20)
                width = 2 if tuner.startswith("dyna") else 1
                axes.plot(trials, regret, label=tuner, lw=width, color=color)
            axes.set(xscale="log", xlabel="trainings", title=f"{name}: {title}")
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("regret (0 best, 1 average)")
        figure.axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
