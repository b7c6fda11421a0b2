"""The augmentation picked while one training runs, against no schedule, presets and a rule.

`python -m benchmarks.schedule ../shared/data/fsdd/recordings --out runs/schedule.jsonl [--minutes
35] [--seeds 5]` trains, on spoken digits of two speakers never heard, on speakers by takes never
heard and on the embedded corpus: with each of the eight presets (`none` is one of them), by
TrivialAugment's rule (`uniform`), by each agent that picks among the presets, and by each agent's
schedule replayed frozen, all clips trained on. Every training of a corpus has as many steps. A line
of JSON a training; the same command goes on where it was stopped, and prints the tables of what is
there. `--table` prints alone.

The searched preset is what eight trainings on one seed and the choice by validation accuracy give.
Scoring the test so often is for these tables; no choice is made by it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audio.arms import AGENTS, ScheduleSettings, arms_of, presets
from audio.clips import Manifest
from audio.progress_reward import SMOOTHING
from audio.settings import Settings
from audio.splits import SplitSettings, assign_splits
from data.corpus import CorpusSettings, open_corpus

FIRST_SEED = 500
PRESETS = tuple(presets()["preset"])
ACCURACIES = ("validation_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Task:
    """A corpus thinned to be trained on in seconds: what is taken of it, and with what settings."""

    pattern: str | None
    split: SplitSettings
    clips: dict[str, int | None]
    values: dict[str, Any]
    segment_epochs: float
    """How long an arm is held: 64 segments in all."""


_SMALL = {"n_mels": 32, "threads": 1, "device": "cpu"}
_DIGITS = _SMALL | {"sample_rate_hz": 8000, "clip_s": 0.75, "win_length": 256, "hop_length": 256}
#: Much like the landscapes (docs/benchmarks.md), with coarser pictures and fewer clips, so that the
#: whole contest takes one core 35 minutes and augmentation has something to mend.
TASKS = {
    "digits": Task(
        "{label}_{group}_{take}",
        SplitSettings(test_groups=("theo", "lucas"), validation_groups=("yweweler",)),
        {"train": 180, "validation": 100, "test": 400},
        _DIGITS | {"epochs": 32},
        0.5,
    ),
    "speakers": Task(
        "{digit}_{label}_{group}",
        SplitSettings(),
        {"train": 90, "validation": 100, "test": 400},
        _DIGITS | {"epochs": 64},
        1.0,
    ),
    "embedded": Task(
        None,
        SplitSettings(),
        {"train": 180, "validation": 100, "test": 160},
        _SMALL | {"hop_length": 640, "epochs": 32},
        0.5,
    ),
}


def manifest_of(name: str, recordings: Path, scratch: Path) -> Manifest:
    """Return a task's clips, split and thinned; the embedded corpus is written into `scratch`."""
    from data.synthetic import SyntheticSettings, write_corpus
    from scripts.landscape import thinned

    task = TASKS[name]
    if task.pattern is None:
        root = scratch / "embedded"
        write_corpus(root, SyntheticSettings(clips_per_class=80, sessions=20, clip_s=1.0))
        manifest = open_corpus(root, CorpusSettings())
    else:
        manifest = open_corpus(recordings, CorpusSettings(pattern=task.pattern))
    return thinned(assign_splits(manifest, task.split), task.clips, seed=0)


def contenders(arms: Sequence[str]) -> Iterator[str]:
    """Give the names of all contenders of one seed, those first that others need."""
    yield from PRESETS
    yield "uniform"
    for names in arms:
        for agent in AGENTS:
            suffix = "" if names == "presets" else f" {names}"
            yield f"{agent}{suffix}"
            yield f"{agent}{suffix} frozen"


def train(
    name: str,
    clips: Any,
    contender: str,
    seed: int,
    *,
    segment_epochs: float,
    learn_percent: float,
    smoothing: float,
    known: dict,
) -> dict[str, Any]:
    """Return what one training gave: accuracies, seconds of the CPU, the schedule's record."""
    from audio.schedule import AgentSchedule, replay
    from audio.train import fine_tune, score
    from scripts.schedule import make_schedule

    settings = Settings().with_values(TASKS[name].values | {"seed": seed})
    agent, *more = contender.split()
    schedule = None
    if contender in PRESETS:
        preset = arms_of("presets").augmentation((PRESETS.index(contender),), settings.augmentation)
        settings = Settings(settings.spectrogram, preset, settings.training)
    elif "frozen" in more:
        whole = contender.removesuffix(" frozen")
        schedule = replay(known[name, whole, seed]["schedule"], where=whole)
    else:
        chosen = ScheduleSettings(
            schedule=agent, arms=more[0] if more else "presets",
            segment_epochs=segment_epochs, learn_percent=learn_percent,
        )  # fmt: skip
        schedule = make_schedule(chosen, settings, clips)
        if isinstance(schedule, AgentSchedule):
            schedule.smoothing = smoothing
    began, began_cpu = time.perf_counter(), time.process_time()
    fit = fine_tune(
        clips.examples["train"], clips.examples["validation"], settings, clips.labels,
        schedule=schedule,
    )  # fmt: skip
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    record = {} if schedule is None else schedule.record()
    return {
        "task": name, "contender": contender, "seed": seed,
        "validation_accuracy": fit.history[-1]["validation_accuracy"],
        "validation_loss": fit.history[-1]["validation_loss"],
        "test_accuracy": score(fit.model, clips.examples["test"])["accuracy"],
        "curve": [row["validation_accuracy"] for row in fit.history],
        "seconds": seconds, "cpu_s": cpu_s, "schedule": record,
    }  # fmt: skip


def read_lines(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the trainings that a file holds, by (task, contender, seed); a cut last line is not
    one."""
    made = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        made[row["task"], row["contender"], row["seed"]] = row
    return made


def measure(options: argparse.Namespace) -> None:
    """Train what the file does not hold yet, a line each, until the time is over."""
    from scripts.clips_in import decode_sounds

    known = read_lines(options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder, options.out.open("a", encoding="utf-8") as out:
        clips = {}
        for name in options.tasks:
            manifest = manifest_of(name, options.recordings.resolve(), Path(folder))
            rate = Settings().with_values(TASKS[name].values).spectrogram.sample_rate_hz
            clips[name] = decode_sounds(
                manifest, sample_rate_hz=rate, folder=Path(folder) / f"{name}.store", workers=1
            )
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for contender in contenders(options.arms):
                if options.only and contender not in options.only:
                    continue
                for name in options.tasks:
                    if (name, contender, seed) in known:
                        continue
                    if time.monotonic() > until:
                        return
                    row = train(
                        name, clips[name], contender, seed,
                        segment_epochs=options.segment_epochs or TASKS[name].segment_epochs,
                        learn_percent=options.learn_percent,
                        smoothing=options.smoothing, known=known,
                    )  # fmt: skip
                    known[name, contender, seed] = row
                    out.write(json.dumps(row) + "\n")
                    out.flush()
                    print(name, contender, seed, *(f"{row[k]:.3f}" for k in ACCURACIES),
                          f"{row['cpu_s']:.1f} s", flush=True)  # fmt: skip


def bootstrap(differences: np.ndarray, *, draws: int = 10_000) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % interval, bootstrapped over seeds."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(len(differences), size=(draws, len(differences)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)


def tables(known: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    """Return a Markdown table a task, over the seeds of which every contender is there."""
    lines = []
    for name in TASKS:
        rows = {key[1:]: row for key, row in known.items() if key[0] == name}
        names = list(dict.fromkeys(contender for contender, _ in rows))
        most = sorted({seed for _, seed in rows})
        seeds = [s for s in most if all((n, s) in rows for n in names)]
        if not seeds:
            continue
        test = {n: np.array([rows[n, s]["test_accuracy"] for s in seeds]) for n in names}
        validation = {
            n: np.array([rows[n, s]["validation_accuracy"] for s in seeds]) for n in names
        }
        cost = {n: np.array([rows[n, s]["cpu_s"] for s in seeds]) for n in names}
        single = [n for n in PRESETS if n in names]
        if len(single) == len(PRESETS):  # one training each on one seed, the best by validation
            best = [max(single, key=lambda n, i=i: validation[n][i]) for i in range(len(seeds))]
            test["searched preset"] = np.array([test[n][i] for i, n in enumerate(best)])
            validation["searched preset"] = np.array([validation[n][i] for i, n in enumerate(best)])
            cost["searched preset"] = sum(cost[n] for n in single)
            mean_best = max(single, key=lambda n: validation[n].mean())
            lines += [f"{name}: {len(seeds)} seeds; searched: {', '.join(best)}; best preset by "
                      f"mean validation: {mean_best}", ""]  # fmt: skip
        head = "| contender | validation | test | test - searched | test - uniform | CPU s |"
        lines += [head, "|---|---|---|---|---|---|"]
        for n in test:
            line = f"| {n} | {validation[n].mean():.1%} | {test[n].mean():.1%}"
            for other in ("searched preset", "uniform"):
                if n == other or other not in test:
                    line += " | "
                else:
                    mean, low, high = bootstrap(test[n] - test[other])
                    line += f" | {100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            lines.append(f"{line} | {cost[n].mean():.1f} |")
        shares = [
            row["schedule"]["schedule_seconds"] / row["seconds"]
            for (contender, _), row in rows.items()
            if "schedule_seconds" in row["schedule"] and "frozen" not in contender
        ]
        if shares:
            lines += ["", f"picking and scoring the probe: {np.median(shares):.1%} of the training "
                      f"(median), {max(shares):.1%} at most", ""]  # fmt: skip
    return "\n".join(lines)


def simulate(repeats: int = 150, steps: int = 38, k: int = 8) -> str:
    """Return how good the arms are that agents pick among bandits alone: where the constants of
    `rl.schedule` come from.

    Arms have normal worths of deviation 1, rewards are ranks of worth and noise. 0 is what drawing
    evenly gives; the best of eight arms is worth 1.42 on average.
    """
    from audio.progress_reward import WINDOW, rank
    from rl.bandits import EpsilonGreedyBandit, Exp3S, SlidingWindowUCB
    from rl.schedule import BanditPicker, QPicker

    makes: dict[str, Any] = {
        f"exp3s, gamma {g}": lambda k, seed, g=g: Exp3S(
            k, gamma=g, alpha=0.005, low=-1.0, high=1.0, seed=seed
        )
        for g in (0.2, 0.4, 0.6, 0.8)
    }
    makes |= {
        f"epsilon-greedy, step size {a}": lambda k, seed, a=a: EpsilonGreedyBandit(
            k, epsilon=0.15, step_size=a, seed=seed
        )
        for a in (0.1, 0.2, 0.3)
    }
    makes |= {
        f"ucb-window, c {c}": lambda k, seed, c=c: SlidingWindowUCB(k, c=c, window=40, seed=seed)
        for c in (0.3, 0.5, 0.7, 1.0)
    }
    lines = ["| agent | noise | picked after 8 | settled on |", "|---|---|---|---|"]
    for noise in (1.0, 2.0, 5.0):
        for name, make in {**makes, "q-learning": None}.items():
            found = []
            for seed in range(repeats):
                rng = np.random.default_rng(seed)
                worth = rng.standard_normal(k)
                if make is None:
                    picker: Any = QPicker((k,), seed=seed)
                else:
                    picker = BanditPicker((k,), make, seed=seed)
                seen: list[float] = []
                picked = []
                for _ in range(steps):
                    (arm,) = picker.pick((0, 0))
                    picked.append(worth[arm])
                    seen = [*seen, float(worth[arm] + noise * rng.standard_normal())][-WINDOW:]
                    picker.observe(rank(seen[-1], seen), (0, 0))
                settled = [worth[picker.pick((0, 0), settled=True)[0]] for _ in range(10)]
                found.append((np.mean(picked[8:]), np.mean(settled)))
            while_learning, after = np.mean(found, 0)
            lines.append(f"| {name} | {noise:g} | {while_learning:.2f} | {after:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Train and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/schedule.jsonl"))
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument(
        "--arms", nargs="+", default=["presets"], choices=["presets", "factored", "operations"]
    )
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--segment-epochs", type=float, help="instead of the task's")
    parser.add_argument("--learn-percent", type=float, default=60.0)
    parser.add_argument("--smoothing", type=float, default=SMOOTHING)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--simulate", action="store_true")
    options = parser.parse_args()
    if options.simulate:
        print(simulate())
        return
    if not options.table:
        if options.recordings is None:
            parser.error("give the folder of FSDD's recordings.")
        measure(options)
    print(tables(read_lines(options.out)))


if __name__ == "__main__":
    main()
