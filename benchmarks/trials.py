"""A search's trials per hour against a new process and a full decode for each.
`python -m benchmarks.trials --help`.

Both train the same network with the same settings and seeds and score the same clips; the naive
way gives every trial a process of its own, which imports, decodes each clip with librosa, trains
with as many threads as there are cores and scores once. Ours are two workers of one thread each,
which score on the way as a search without a pruner does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from audio.clips import Manifest
from audio.settings import Settings
from audio.splits import SplitSettings, assign_splits
from benchmarks.timing import shared_data
from data.corpus import CorpusSettings, open_corpus
from rl.overseer import is_on_curve
from scripts.objective import TrainingObjective, settings_of

_RATE_HZ = 16000
_worker: TrainingObjective | None = None


def corpus(folder: Path, train_clips: int | None) -> Manifest:
    """Return FSDD with speakers held out where it is, else the embedded corpus, made here."""
    from data.synthetic import SyntheticSettings, write_corpus

    if (recordings := shared_data("fsdd/recordings")) is not None:
        manifest = open_corpus(recordings, CorpusSettings(pattern="{label}_{group}_{take}"))
        split = SplitSettings(test_groups=("theo", "lucas"), validation_groups=("yweweler",))
    else:
        write_corpus(folder / "clips", SyntheticSettings(clips_per_class=100))
        manifest, split = open_corpus(folder / "clips"), SplitSettings()
    manifest = assign_splits(manifest, split)
    if train_clips is None:
        return manifest
    order = np.random.default_rng(0).permutation(len(manifest.in_split("train").clips))
    kept = {manifest.in_split("train").clips[i] for i in order[:train_clips]}
    clips = tuple(c for c in manifest.clips if c.split != "train" or c in kept)
    return replace(manifest, clips=clips)


def objective_for(manifest: Manifest, folder: Path, epochs: int) -> TrainingObjective:
    """Return what a search's workers call, the clips decoded into `folder`."""
    from audio.examples import resolve
    from audio.waveform import open_store
    from scripts.clips_in import sound_examples

    store = open_store(manifest, sample_rate_hz=_RATE_HZ, folder=folder)
    settings = Settings().with_values({"epochs": epochs, "threads": 1, "device": "cpu"})
    settings = resolve(settings, sound_examples(manifest, store, manifest.labels)["train"])
    return TrainingObjective(manifest, manifest.labels, folder.resolve(), settings, "macro-f1")


def _start(objective: TrainingObjective) -> None:
    global _worker
    import torch

    objective.prepare()
    torch.set_num_threads(1)
    _worker = objective


class _Unhindered:
    """Lets a training go on to its end, and wants what a search without a pruner wants."""

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs, self.epoch = n_epochs, 0

    def wants(self) -> bool:
        return is_on_curve(self.epoch + 1, self.n_epochs)

    def __call__(self, score: float) -> bool:
        self.epoch += 1
        return False


def _trial(values: dict[str, Any], seed: int) -> tuple[float, float]:
    """Return the score of a trial, and the seconds of a core that it took."""
    assert _worker is not None
    before = time.process_time()
    score = _worker(values, seed, lambda: False, _Unhindered(_worker.epochs)).score
    return score, time.process_time() - before


def alone(task: Path) -> None:
    """Body of the naive way's process: decode everything, train once, print the score."""
    import librosa

    from audio.examples import SoundExamples
    from audio.train import fine_tune

    given = json.loads(task.read_text(encoding="utf-8"))
    index = {label: i for i, label in enumerate(given["labels"])}
    examples = {}
    for split in ("train", "validation", "test"):
        rows = [row for row in given["clips"] if row["split"] == split]
        waveforms = [librosa.load(row["path"], sr=_RATE_HZ)[0] for row in rows]
        targets = np.array([index[row["label"]] for row in rows], np.int64)
        examples[split] = SoundExamples(waveforms, targets)
    settings = Settings.from_json(given["settings"])
    fit = fine_tune(
        examples["train"],
        examples["validation"],
        settings,
        given["labels"],
        wants_scores=lambda: False,  # scored once, at its end
    )
    print(fit.history[-1]["validation_macro_f1"])


def naive(
    objective: TrainingObjective, values: dict[str, Any], seed: int, folder: Path, *, threads: int
) -> tuple[float, float]:
    """Return what `_trial` does, of a process of its own."""
    settings = settings_of(objective.settings, {**values, "seed": seed, "threads": threads})
    clips = [
        {"path": str(clip.path), "label": clip.label, "split": clip.split}
        for clip in objective.manifest.clips
    ]
    task = {"settings": settings.to_json(), "labels": objective.labels, "clips": clips}
    path = folder / "task.json"
    path.write_text(json.dumps(task), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.trials", "--alone", str(path)]
    before = _children_s()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1]), _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contest(
    *, train_clips: int | None, epochs: int, rounds: int, workers: int = 2, threads: int = 0
) -> None:
    """Print trials per hour: in each round as many trials as there are workers, both ways.

    threads: of the naive way; 0 is every core.
    """
    from rl.spaces import QUICK

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        manifest = corpus(folder, train_clips)
        objective = objective_for(manifest, folder / "waveforms", epochs)
        decode_s = time.perf_counter() - started
        drawn = QUICK.draw(np.random.default_rng(0), rounds * workers)
        trials = [(QUICK.decode(codes), 2 * i) for i, codes in enumerate(drawn)]
        taken: dict[str, list[float]] = {"ours": [], "naive": []}
        made: dict[str, list[tuple[float, float]]] = {"ours": [], "naive": []}
        started = time.perf_counter()
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(objective,)
        ) as pool:
            list(pool.map(time.sleep, [2.0] * workers))  # each of them has started then
            start_s = time.perf_counter() - started - 2.0
            for k in range(rounds):
                part = trials[k * workers : (k + 1) * workers]
                started = time.perf_counter()
                made["ours"] += pool.map(_trial, *zip(*part, strict=True))
                taken["ours"].append((time.perf_counter() - started) / workers)
                started = time.perf_counter()
                made["naive"] += [
                    naive(objective, *trial, folder, threads=threads) for trial in part
                ]
                taken["naive"].append((time.perf_counter() - started) / workers)
    wall = {way: statistics.median(seconds) for way, seconds in taken.items()}
    core = {way: statistics.median(s for _, s in results) for way, results in made.items()}
    n = len(manifest.in_split("train").clips)
    print(f"\nTrials per hour, quick space, {n} training clips, {epochs} epochs, 2 cores")
    for way, value in wall.items():
        print(f"  {way:<6} {3600 / value:8,.0f} an hour   {core[way]:6.1f} s of a core a trial")
    print(f"  ratio of medians {wall['naive'] / wall['ours']:.2f} by the clock, "
          f"{core['naive'] / core['ours']:.2f} in seconds of a core")  # fmt: skip
    print(f"  paid once: {decode_s:.1f} s to decode, {start_s:.1f} s to start the workers")
    scores = {way: [score for score, _ in results] for way, results in made.items()}
    apart = np.abs(np.subtract(scores["ours"], scores["naive"])).max()
    print(f"  validation macro-F1 of the same trial differs by at most {apart:.3f}")


def main() -> None:
    """Print the tables: a small corpus, where start-up weighs most, and a larger one."""
    contest(train_clips=300, epochs=8, rounds=2)
    contest(train_clips=None, epochs=8, rounds=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train-clips", type=int, help="all if not given")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=0, help="0 is both default tables")
    parser.add_argument("--threads", type=int, default=0, help="of the naive way; 0 is all cores")
    given = parser.parse_args()
    if given.alone is not None:
        alone(given.alone)
    elif given.rounds:
        contest(
            train_clips=given.train_clips,
            epochs=given.epochs,
            rounds=given.rounds,
            threads=given.threads,
        )
    else:
        main()
