"""Real sounds to try settings on: 400 clips of ten classes, out of the data of free games.

`python -m benchmarks.real_sounds PACKAGES --out DIR [--clip-s 2]` reads what Debian 12's packages
bucklespring-data, freedroidrpg-data, lincity-ng-data, megaglest-data, minetest-data,
openarena-data, tuxpaint-stamps-default, ufoai-sound, unknown-horizons, wesnoth-1.16-data and
widelands-data hold (`apt-get download`, `dpkg-deb -x` into a folder of the package's name, `unzip`
for the .pk3 files in them), takes at most 40 sounds of a class by their names, and writes DIR/clips
and DIR/clips.csv with five folds. Variants of one sound are in one fold. Then

    melbandit finetune DIR/clips.csv --folds --threads 1
    python -m benchmarks.real_sounds --compare RUN [RUN ...]

the second of which prints accuracy and log loss over the test clips of all folds, and each run's
differences to the first, paired by clip. Labels are guesses from file names: a corpus to compare
settings on, not to publish. Nothing of it is part of melbandit.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
from pathlib import Path

import numpy as np

RATE_HZ = 44100
_CLIPS, _VARIANTS, _FOLDS = 40, 8, 5
_HUMAN = "archer|archmage|battlemage|guard|horseman|initiate|princess|spearman|summoner|swordman"
_HUMAN += "|technician|warrior|worker"
_MONSTER = "behemoth|daemon|dragon|evil_dragon|ghost_armor|golem|mummy"
_NOT = r"_desc|music|voices|tuxpaint.*(symbols|_)"

#: Classes by the name of the file below the folder of packages; the first that fits.
CLASSES = {
    "footstep": r"footstep|footsteps?/|_walk\d?\.",
    "keyboard": r"bucklespring",
    "speech": rf"({_HUMAN})_(ack|select)",
    "sword": r"(swordman|guard|horseman|spearman|warrior|axe_thrower)_attack|knife|"
    r"wesnoth.*/(sword|axe|spear|dagger|mace|hatchet|staff|blade|club)[^/]*$",
    "human_pain": rf"({_HUMAN}|valkyrie|axe_thrower|genie)_die|ufoai.*(male|female)(hurt|death)|"
    r"wesnoth.*human[^/]*(hit|die)|sarge/(pain|death|fall|gasp)",
    "monster": rf"({_MONSTER})_(attack|die|hit|select|ack)|growl|moan|"
    r"wesnoth.*/(orc|ogre|troll|goblin|zombie|naga|drake|yeti|lich|ghoul)[^/]*(hit|die)",
    "bird": r"widelands.*bird|wesnoth.*bird|eagle|hawk|owl|rooster|chicken|duck|gryphon|goose|"
    r"turkey|crow|raven|gull|parrot|penguin|peacock|loon|heron",
    "mammal": r"wolf|sheep|cow|pig|bull_|horse[^m]|goat|dog|cat\.|cats/|stag|moose|ox|boar|donkey|"
    r"coyote|bear|lion|tiger|elephant|/ele\d|bovines|equines|apes|deer",
    "gun": r"openarena.*weapons/.*(f1|f2|f3|f4|fire|x1|expl)|wesnoth.*thunderstick|"
    r"ufoai.*weapons.*(fire|shot|shoot|expl|pistol|rifle|shotgun|sniper|smg|machinegun)",
    "tool": r"(worker|technician|shaman|initiate)_(build|mine|harvest|prod|work)|anvil|hammer|"
    r"woodcut|smith|stonecut|saw|stonegrind|ironping|lumberjack|stonemason|"
    r"dig_cracky|dig_choppy|dig_metal|break",
}


def gather(packages: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Return (family, samples) of each class's sounds: float32 (n,) at RATE_HZ, none twice.

    family: what variants of one sound share.
    """
    import soundfile
    import soxr

    found: dict[str, list[tuple[str, np.ndarray]]] = {name: [] for name in CLASSES}
    seen = set()
    for path in sorted(packages.rglob("*")):
        name = str(path.relative_to(packages)).lower()
        if path.suffix.lower() not in (".ogg", ".wav") or re.search(_NOT, name):
            continue
        label = next((label for label, rule in CLASSES.items() if re.search(rule, name)), None)
        if label is None:
            continue
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            continue
        mono = samples.mean(1)
        digest = hashlib.md5(mono.tobytes()).hexdigest()
        if len(mono) < 0.05 * rate or np.abs(mono).max() < 1e-3 or digest in seen:
            continue
        seen.add(digest)
        family = name.split("/")[0] + ":" + re.sub(r"[-_]?\d*[a-z]?$", "", path.stem.lower())
        found[label].append((family, soxr.resample(mono, rate, RATE_HZ)))
    return found


def build(packages: Path, out: Path, *, clip_s: float) -> None:
    """Write the clips and their CSV."""
    import soundfile

    rng = np.random.default_rng(0)
    (out / "clips").mkdir(parents=True, exist_ok=True)
    n_samples = round(clip_s * RATE_HZ)
    with (out / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "fold"])
        for label, sounds in gather(packages).items():
            families: dict[str, list[np.ndarray]] = {}
            for i in rng.permutation(len(sounds)):
                families.setdefault(sounds[i][0], []).append(sounds[i][1])
            # one of each family, then a second of each, until there are enough
            turns = [(k, name) for name, some in families.items() for k in range(len(some))]
            chosen = sorted((t for t in turns if t[0] < _VARIANTS), key=lambda t: t[0])[:_CLIPS]
            count = np.zeros(_FOLDS, int)
            fold: dict[str, int] = {}
            for name in sorted(families, key=lambda name: -sum(n == name for _, n in chosen)):
                fold[name] = int(count.argmin())
                count[fold[name]] += sum(n == name for _, n in chosen)
            for i, (k, name) in enumerate(chosen):
                clip = np.zeros(n_samples, np.float32)
                part = families[name][k][:n_samples]
                clip[: len(part)] = part
                path = out / "clips" / f"{label}_{i}.wav"
                soundfile.write(path, clip.clip(-1, 1), RATE_HZ, subtype="PCM_16")
                table.writerow([f"clips/{path.name}", label, fold[name] + 1])
            print(f"{label:<12}{len(chosen):4} clips of {len(families)} families")


def by_clip(run: Path) -> dict[str, tuple[bool, float]]:
    """Return whether each test clip of a `finetune --folds` was right, and its log loss."""
    with (run / "out_of_fold.csv").open(newline="") as file:
        return {
            row["path"]: (
                row["predicted"] == row["label"],
                -float(np.log(max(float(row[row["label"]]), 1e-6))),
            )
            for row in csv.DictReader(file)
        }


def compare(runs: list[Path]) -> None:
    """Print each run's accuracy and log loss, and its differences to the first."""
    first = by_clip(runs[0])
    for run in runs:
        mine = by_clip(run)
        values = np.array([mine[key] for key in mine], float)
        both = np.array([np.subtract(mine[key], first[key], dtype=float) for key in mine])
        (right, loss), error = both.mean(0), both.std(0) / len(both) ** 0.5
        print(
            f"{run.name:<20}{100 * values[:, 0].mean():6.1f} %  {values[:, 1].mean():.3f}   "
            f"{100 * right:+.1f} +- {100 * error[0]:.1f} points, {loss:+.3f} +- {error[1]:.3f}"
        )


def main() -> None:
    """Build the corpus, or compare runs on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clip-s", type=float, default=2.0)
    parser.add_argument(
        "--compare", type=Path, nargs="+", help="run folders, the first to compare to"
    )
    given = parser.parse_args()
    if given.compare:
        compare(given.compare)
    elif given.packages is None or given.out is None:
        parser.error("give the folder of packages and --out, or --compare.")
    else:
        build(given.packages, given.out, clip_s=given.clip_s)


if __name__ == "__main__":
    main()
