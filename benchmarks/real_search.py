"""Real searches, an agent beside random search at equal wall clock, and what they recommend.

`python -m benchmarks.real_search CLIPS --out DIR [--minutes 30] [--repeats 3] [--first 0] [--agents
dyna-q-ucb random] [--seeds 5] -- SEARCH ARGUMENTS` runs `melbandit search` for every repeat and
agent in turn, then trains the default and each recommendation on the same fresh seeds and scores
the test clips. What is done is kept in DIR, so the same command goes on where it was stopped;
`--first 1` does the repeats from the second on, where the first was done elsewhere.

Scoring the test so often is for this table; no choice is made by it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

import numpy as np

from audio.clips import read_csv
from audio.files import write_atomically
from audio.settings import Settings, fingerprint
from benchmarks.recommended import FIRST_SEED, interval, trained
from scripts.search import main as search


def scores_of(folder: Path, studies: dict[str, Path], seeds: list[int]) -> dict[str, np.ndarray]:
    """Return the test accuracy of the default and of what each study recommends, over seeds."""
    from audio.waveform import open_store

    first = next(iter(studies.values()))
    default = json.loads((first / "settings.json").read_text())["settings"]
    contenders = {"default": default}
    for name, study in studies.items():
        contenders[name] = json.loads((study / "recommended.json").read_text())["settings"]
    # clip_s None is the training clips' own in every one of them
    window = next(v["spectrogram"]["clip_s"] for k, v in contenders.items() if k != "default")
    contenders["default"] = Settings.from_json(default).with_values({"clip_s": window}).to_json()
    path = folder / "test_scores.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    table = first / "model" / "manifest.csv"
    keys = {
        (n, s): f"{fingerprint(_seedless(v))} {s}" for n, v in contenders.items() for s in seeds
    }
    todo = {keys[name, s]: (contenders[name], s) for name, s in keys if keys[name, s] not in known}
    with tempfile.TemporaryDirectory() as name:
        rate = default["spectrogram"]["sample_rate_hz"]
        open_store(read_csv(table), sample_rate_hz=rate, folder=Path(name))
        work = [(table, Path(name), values, seed) for values, seed in todo.values()]
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            for key, score in zip(todo, pool.imap(trained, work), strict=True):
                known[key] = score
                write_atomically(path, json.dumps(known, indent=1).encode())
    return {name: np.array([known[keys[name, s]] for s in seeds]) for name in contenders}


def _seedless(values: dict) -> dict:
    return Settings.from_json(values).with_values({"seed": 0, "threads": 0}).to_json()


def main() -> None:
    """Search, score, print the table."""
    given, _, extra = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--agents", nargs="+", default=["dyna-q-ucb", "random"])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(given.split())
    options.out.mkdir(parents=True, exist_ok=True)
    studies = {}
    repeats = range(options.first, options.repeats)
    for repeat in repeats:
        for agent in options.agents:
            out = options.out / f"{agent}-{repeat}"
            code = search([
                str(options.clips), "--out", str(out), "--agent", agent, "--seed", str(repeat),
                "--minutes", str(options.minutes), *extra.split(),
            ])  # fmt: skip
            if code not in (0, 3):
                sys.exit(code)
            studies[f"{agent} {repeat}"] = out
    seeds = [FIRST_SEED + k for k in range(options.seeds)]
    scores = scores_of(options.out, studies, seeds)
    print(f"\ntest accuracy over {len(seeds)} fresh seeds; differences are paired, +- is half a "
          "95 % interval (Student's t)")  # fmt: skip
    for name, values in scores.items():
        mean, half = interval(values)
        line = f"  {name:<18} {mean:.1%} +- {half:.1%}"
        if name != "default":
            n = len(json.loads((studies[name] / "results.json").read_text())["trials"])
            change, width = interval(values - scores["default"])
            line += f"   minus default {100 * change:+.1f} +- {100 * width:.1f} points, {n} trials"
        print(line)
    for agent in options.agents:
        mine = np.array([scores[f"{agent} {r}"] for r in repeats])
        change, width = interval((mine - scores["default"]).mean(0))
        print(f"  {agent}, mean over repeats, minus default: {100 * change:+.1f} +- "
              f"{100 * width:.1f} points over seeds")  # fmt: skip


if __name__ == "__main__":
    main()
