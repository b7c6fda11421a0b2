"""What balanced training does for a heavily imbalanced corpus.

`python -m benchmarks.imbalance ../shared/data/fsdd/recordings [--seeds 3] [--epochs 40]` takes the
spoken digits of three speakers, 150 clips of 0 down to 5 of 9, another speaker validates, the last
two are the test, every digit alike. It trains with and without `--class-weights balanced`, seed by
seed, and prints the test's accuracy, balanced accuracy and macro-F1 (means, and paired differences
with 95 % intervals by Student's t over seeds).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np

from audio.clips import Manifest, write_csv
from audio.folds import SCORES, fold_scores
from data.corpus import CorpusSettings, open_corpus
from scripts import cli

SIDES = {"theo": "test", "lucas": "test", "yweweler": "validation"}
#: Clips of the digits 0 to 9 that train: a geometric fall from 150 to 5.
COUNTS = tuple(round(150 * (5 / 150) ** (digit / 9)) for digit in range(10))


def imbalanced(recordings: Path) -> Manifest:
    """Return the digits split by speaker, the training side thinned to `COUNTS`."""
    from dataclasses import replace

    manifest = open_corpus(Path("fsdd-speakers"), CorpusSettings(root=recordings))
    left = list(COUNTS)
    clips = []
    order = np.random.default_rng(0).permutation(len(manifest))
    for clip in (manifest.clips[i] for i in order):
        split = SIDES.get(str(clip.group), "train")
        if split == "train":
            left[int(clip.label)] -= 1
        if split != "train" or left[int(clip.label)] >= 0:
            clips.append(replace(clip, split=split, fold=None))
    return replace(manifest, clips=tuple(clips))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    contenders = {"none": [], "balanced": ["--class-weights", "balanced"]}
    scores: dict[str, list[list[float]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "imbalanced.csv"
        write_csv(imbalanced(options.recordings.resolve()), table)
        print(f"training clips of the digits 0 to 9: {', '.join(map(str, COUNTS))}")
        for seed in range(options.seeds):
            for name, flags in contenders.items():
                out = Path(folder) / f"{name}-{seed}"
                command = ["finetune", str(table), "--out", str(out), "--seed", str(seed), *flags]
                command += ["--epochs", str(options.epochs), "--threads", "1"]
                with contextlib.redirect_stdout(io.StringIO()):
                    if cli.main(command):
                        raise SystemExit(1)
                test = json.loads((out / "results.json").read_text())["test"]
                scores[name].append([test[score]["value"] for score in SCORES])
                print(seed, name, [round(value, 3) for value in scores[name][-1]], flush=True)
    values = {name: np.array(rows) for name, rows in scores.items()}
    for column, score in enumerate(SCORES):
        change = values["balanced"][:, column] - values["none"][:, column]
        told = fold_scores(change.tolist())
        print(
            f"  {score:<18} none {values['none'][:, column].mean():.3f}  balanced "
            f"{values['balanced'][:, column].mean():.3f}  difference {told['mean']:+.3f} "
            f"({told['low']:+.3f} to {told['high']:+.3f})"
        )


if __name__ == "__main__":
    main()
