"""What balanced training does for a heavily imbalanced corpus.

`python -m benchmarks.imbalance ../shared/data/fsdd/recordings [--seeds 3] [--out FILE]`
takes the spoken digits of three speakers, 100, 50, 25, 12 and 6 clips of 0 to 4 and of 5 to 9;
another speaker validates, the last two are the test, every digit alike. It trains by every rule of
`--balance`, plain and with more augmentation, seed by seed, and prints the test's balanced accuracy
and macro-F1: means, and paired differences to `none` with 95 % intervals by Student's t over seeds.
The choice is by validation. FILE keeps a JSON line a training; what is in it is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from audio.clips import Manifest
from audio.folds import fold_scores
from audio.settings import Settings
from data.corpus import CorpusSettings, open_corpus

SIDES = {"theo": "test", "lucas": "test", "yweweler": "validation"}
#: Clips of the digits 0 to 9 that train.
COUNTS = (100, 50, 25, 12, 6) * 2
RULES = ("none", "weights", "root-weights", "sampling", "root-sampling", "logits")
#: A rare class's few clips, seen often, are soon known by heart; these are varied more.
MORE = {"speed_percent": 10.0, "filter_db": 6.0, "noise_percent": 50.0}
SHOWN = ("balanced_accuracy", "macro_f1", "rare_recall")


def imbalanced(recordings: Path) -> Manifest:
    """Return the digits split by speaker, the training side thinned to `COUNTS`."""
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


def trained(manifest: Manifest, values: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a training with these values, on validation and test."""
    from audio.examples import SoundExamples
    from audio.metrics import confusion_matrix, scores_of
    from audio.train import fine_tune
    from audio.waveform import read_clip

    settings = Settings().with_values(values)
    sides = {}
    for side in ("train", "validation", "test"):
        clips = manifest.in_split(side).clips
        targets = np.array([manifest.labels.index(clip.label) for clip in clips])
        rate = settings.spectrogram.sample_rate_hz
        sides[side] = SoundExamples([read_clip(clip, rate) for clip in clips], targets)
    started = time.perf_counter()
    fit = fine_tune(sides["train"], sides["validation"], settings, manifest.labels)
    row: dict[str, Any] = {"seconds": round(time.perf_counter() - started, 1)}
    rare = [i for i, n in enumerate(COUNTS) if n <= 12]
    for side in ("validation", "test"):
        predicted = sides[side].probabilities(fit.model).argmax(1)
        confusion = confusion_matrix(sides[side].targets, predicted, len(manifest.labels))
        row[side] = {name: float(value) for name, value in scores_of(confusion).items()}
        row[side]["rare_recall"] = float((np.diagonal(confusion) / confusion.sum(1))[rare].mean())
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/imbalance.jsonl"))
    options = parser.parse_args()
    manifest = imbalanced(options.recordings.resolve())
    print(f"training clips of the digits 0 to 9: {', '.join(map(str, COUNTS))}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}
    contenders = [(rule, False) for rule in RULES]
    contenders += [(rule, True) for rule in ("none", "sampling", "logits")]
    for seed in range(options.seeds):
        for rule, more in contenders:
            values: dict[str, Any] = {"balance": rule, "seed": seed, "epochs": options.epochs}
            values |= {"threads": 1, "hop_length": 320} | (MORE if more else {})
            key = json.dumps(values, sort_keys=True)
            if key not in done:
                row = {"key": key, "rule": rule, "more": more, "seed": seed}
                done[key] = row | trained(manifest, values)
                with options.out.open("a") as file:
                    file.write(json.dumps(done[key]) + "\n")
                print(seed, rule, more, done[key]["seconds"], done[key]["test"], flush=True)
    rows = list(done.values())
    for side in ("validation", "test"):
        for rule, more in contenders:
            told = []
            for name in SHOWN:
                mine, plain = (
                    np.array([r[side][name] for r in sorted(rows, key=lambda r: r["seed"])
                              if (r["rule"], r["more"]) == (which, more)])
                    for which in (rule, "none")
                )  # fmt: skip
                gain = fold_scores((mine - plain).tolist())
                told.append(
                    f"{name} {mine.mean():.3f} ({gain['mean']:+.3f}, {gain['low']:+.3f} to "
                    f"{gain['high']:+.3f})"
                )
            print(f"{side:<11}{'more' if more else 'plain':<6}{rule:<14}{'  '.join(told)}")


if __name__ == "__main__":
    main()
