"""What searches recommend, on the test clips, over fresh seeds.

`python -m benchmarks.recommended STUDY [STUDY ...] [--seeds 5]` trains the default setting and each
study's recommendation on the same fresh seeds and prints test accuracy, mean and 95 % interval
(Student's t over seeds), and the paired difference to the default. Scoring the test so often is for
this table; no choice is made by it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from audio.clips import read_csv
from audio.settings import Settings
from rl.finals import T_QUANTILES

FIRST_SEED = 1_000_003
"""Far from what searches draw for their own trials and finals."""


def trained(work: tuple[Path, Path, dict[str, Any], int]) -> float:
    """Return the test accuracy of a setting on a seed."""
    from audio.train import fine_tune, score
    from audio.waveform import open_store
    from scripts.clips_in import sound_examples

    table, folder, values, seed = work
    manifest = read_csv(table)
    settings = Settings.from_json(values).with_values({"seed": seed, "threads": 1})
    rate = settings.spectrogram.sample_rate_hz
    store = open_store(manifest, sample_rate_hz=rate, folder=folder)
    examples = sound_examples(manifest, store, manifest.labels)
    fit = fine_tune(examples["train"], examples["validation"], settings, manifest.labels)
    return float(score(fit.model, examples["test"])["accuracy"])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return mean and half the 95 % interval."""
    half = T_QUANTILES[len(values) - 2] * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    first = options.studies[0]
    default = json.loads((first / "settings.json").read_text())["settings"]
    contenders = {"default setting": default}
    for study in options.studies:
        contenders[study.name] = json.loads((study / "recommended.json").read_text())["settings"]
    table = first / "model" / "manifest.csv"
    seeds = [FIRST_SEED + k for k in range(options.seeds)]
    with tempfile.TemporaryDirectory() as folder:
        manifest = read_csv(table)
        from audio.waveform import open_store

        rate = default["spectrogram"]["sample_rate_hz"]
        open_store(manifest, sample_rate_hz=rate, folder=Path(folder))
        work = [(table, Path(folder), v, seed) for seed in seeds for v in contenders.values()]
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            scores = np.array(pool.map(trained, work, chunksize=1)).reshape(len(seeds), -1)
    print(f"test accuracy over {len(seeds)} fresh seeds, 95 % intervals")
    for name, column in zip(contenders, scores.T, strict=True):
        mean, half = interval(column)
        change, change_half = interval(column - scores[:, 0])
        line = f"  {name:<24} {mean:.1%} +- {half:.1%}"
        if name != "default setting":
            line += f"   minus default {100 * change:+.1f} +- {100 * change_half:.1f} points"
        print(line, [round(float(v), 3) for v in column])


if __name__ == "__main__":
    main()
