"""`melbandit landscape`: every setting of a space, really trained, several seeds each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audio.clips import Manifest
from audio.markup import finite
from audio.settings import (
    AugmentationSettings,
    Settings,
    SettingsError,
    SpectrogramSettings,
    TrainingSettings,
)
from audio.splits import SplitSettings, assign_splits
from data.corpus import CorpusSettings
from scripts.command import DONE, PARTLY, check_least, parse, print_result, progress, run, say
from scripts.corpus_in import read_corpus
from scripts.finetune import with_base
from scripts.run_folder import RunFolder, open_run
from scripts.spaces import space_for

if TYPE_CHECKING:
    from rl.space import SearchSpace, Setting

_CPU_STACK = 16
_GPU_STACK = 1296  # 20 GiB on a GPU with 1 s clips and 600 of them


@dataclass(frozen=True)
class Landscape:
    """Train with every setting of a space and keep every score, to compare tuners on.

    Networks of one shape are trained side by side (whisper-scratch only), which suits a GPU. The
    same command again goes on where it was stopped. OUT/landscape.npz is the table.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder with a subfolder of clips for each class, a CSV manifest, or the name of a published
    corpus (esc50, urbansound8k, ...), which lies in --root."""
    out: Path
    """Folder for the table."""
    space: str = "quick"
    """quick, or a TOML file of [[knob]] tables; all its settings are trained."""
    name: str | None = None
    """Name of the landscape; by default that of the folder."""
    seeds: int = 3
    """Trainings of each setting."""
    train_clips: int | None = None
    """Clips to train on, drawn class by class; all if not given."""
    validation_clips: int | None = None
    """Clips to validate on, drawn class by class; all if not given."""
    test_clips: int | None = None
    """Clips to test on, drawn class by class; all if not given."""
    stack: int = 0
    """Trainings side by side; 0 is 1296 on a GPU, 16 without."""
    settings: Path | None = None
    """Settings to start from: a settings.json of an earlier run, or a search's recommended.json."""
    preset: Literal["auto", "melbandit"] = "auto"
    """Whose spectrogram settings to start from."""
    overwrite: bool = False
    """Start over in a folder that holds another run."""
    corpus: CorpusSettings = CorpusSettings()
    split: SplitSettings = SplitSettings()
    spectrogram: SpectrogramSettings = SpectrogramSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings = TrainingSettings()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(
        lambda: landscape(parse(Landscape, "landscape", arguments, base=with_base), arguments)
    )


def landscape(command: Landscape, argv: Sequence[str]) -> int:
    """Measure, write the table; returns an exit code."""
    for value, least, flag in (
        (command.seeds, 1, "--seeds"),
        (command.stack, 0, "--stack"),
        (command.train_clips, 1, "--train-clips"),
        (command.validation_clips, 1, "--validation-clips"),
        (command.test_clips, 1, "--test-clips"),
    ):
        check_least(flag, value, least)
    settings = Settings(command.spectrogram, command.augmentation, command.training)
    space, dropped = space_for(command.space, settings)
    for line in dropped:
        say(f"note: {line}")
    if "epochs" in space:
        raise SettingsError(
            f"space {command.space}: epochs cannot be a knob of a landscape, which keeps the score "
            "after every epoch; leave it out and set --epochs."
        )
    manifest = assign_splits(read_corpus(command.clips, command.corpus), command.split)
    wanted = {
        "train": command.train_clips,
        "validation": command.validation_clips,
        "test": command.test_clips,
    }
    manifest = thinned(manifest, wanted, seed=command.split.split_seed)
    if not len(manifest.in_split("test")):
        raise SettingsError("a landscape needs test clips; name test groups or raise test_percent.")
    with open_run(command.out, overwrite=command.overwrite) as folder:
        identity = {
            "settings": settings.to_json(),
            "corpus": manifest.fingerprint(),
            "space": space.to_json(),
            "seeds": command.seeds,
        }
        folder.begin("landscape", identity, argv)
        if folder.is_done:
            say(f"{command.out}: already done; --overwrite starts over.")
            print_result(folder.results())
            return DONE
        results, n_failed = _measure(command, folder, settings, space, manifest, argv)
        print_result(results)
    return PARTLY if n_failed else DONE


def thinned(manifest: Manifest, wanted: dict[str, int | None], *, seed: int) -> Manifest:
    """Return the manifest with at most so many clips in each split, classes kept in proportion.

    Each class's clips are drawn at random, then taken in turns until the number is reached.
    """
    import numpy as np

    kept = set()
    for split, n in wanted.items():
        part = manifest.in_split(split).clips
        if n is None or n >= len(part):
            kept |= {clip.key for clip in part}
            continue
        rng = np.random.default_rng(seed)
        by_label: dict[str, list[str]] = {}
        for i in rng.permutation(len(part)):
            by_label.setdefault(part[i].label, []).append(part[i].key)
        # the k-th clip of every class before the k+1-th of any, larger shares for larger classes
        place = sorted(
            ((k + 0.5) / len(keys), label, key)
            for label, keys in sorted(by_label.items())
            for k, key in enumerate(keys)
        )
        kept |= {key for _, _, key in place[:n]}
    return replace(manifest, clips=tuple(clip for clip in manifest.clips if clip.key in kept))


def stacks(
    base: Settings, space: SearchSpace, n_seeds: int, size: int
) -> list[list[tuple[int, int, Settings]]]:
    """Return what to train side by side: (setting's number, seed, settings), shape by shape."""
    from audio.stack_training import alike
    from scripts.objective import settings_of

    shapes: dict[Any, list[tuple[int, int, Settings]]] = {}
    for number, setting in enumerate(space.settings()):
        for seed in range(n_seeds):
            one = settings_of(base, _with_seed(setting, base, seed))
            shapes.setdefault(tuple(alike(one).values()), []).append((number, seed, one))
    return [
        group[first : first + size]
        for group in shapes.values()
        for first in range(0, len(group), size)
    ]


def _with_seed(setting: Setting, base: Settings, seed: int) -> dict[str, Any]:
    return {**setting, "seed": base.training.seed + seed}


def _measure(
    command: Landscape, folder: RunFolder, settings: Settings, space: SearchSpace,
    manifest: Manifest, argv: Sequence[str],
) -> tuple[dict[str, Any], int]:  # fmt: skip
    """Train stack by stack, each kept in a file of its own; then write the table."""
    import os

    import numpy as np

    from audio.devices import choose_device, use_threads
    from audio.examples import SoundExamples, resolve
    from audio.files import write_atomically
    from audio.stack_training import fine_tune_many
    from rl.landscape import Landscape as Table
    from rl.landscape import additivity
    from scripts.clips_in import decode_sounds

    use_threads(settings.training.threads)
    device = choose_device(settings.training.device)
    size = command.stack or (_GPU_STACK if device.type == "cuda" else _CPU_STACK)
    clips = decode_sounds(
        manifest,
        sample_rate_hz=settings.spectrogram.sample_rate_hz,
        folder=folder.work / "clips",
        workers=os.cpu_count() or 1,
        allow_leakage=command.split.allow_leakage,
    )
    if command.split.allow_leakage:
        folder.amend({"allow_leakage": True, "leakage": clips.leakage})
    folder.write_failures(clips.failures)
    examples = clips.examples
    if not len(examples["test"].targets):
        raise SettingsError("no test clip can be used; mend them, or name other test groups.")
    train = examples["train"]
    assert isinstance(train, SoundExamples)
    clip_s = resolve(settings, train).spectrogram.clip_s
    settings = settings.with_values({"clip_s": clip_s})
    plan = stacks(settings, space, command.seeds, size)
    n_trainings = sum(map(len, plan))
    shape = (space.size(), command.seeds, settings.training.epochs)
    scores = {split: np.zeros(shape, np.float32) for split in ("validation", "test")}
    seconds = np.zeros(shape[:2], np.float32)
    scored = {split: examples[split] for split in scores}
    say(f"{space.size()} settings x {command.seeds} seeds in {len(plan)} stacks on {device}")
    with progress("train", "trainings") as draw:
        for k, part in enumerate(plan):
            path = folder.work / f"stack_{k:04d}_of_{len(plan):04d}_by_{size}.npz"
            if not path.exists():
                fits = fine_tune_many(
                    train, scored, [one for *_, one in part], clips.labels,  # type: ignore[arg-type]
                    device=device,
                    on_epoch=lambda rows, k=k, part=part: draw(  # type: ignore[misc]
                        sum(map(len, plan[:k])) + len(part) * int(rows[0]["epoch"]) // shape[2],
                        n_trainings,
                    ),
                )  # fmt: skip
                curves = {
                    split: np.array(
                        [[row[f"{split}_accuracy"] for row in curve] for curve in fits.curves]
                    )
                    for split in scores
                }
                _save(write_atomically, path, seconds=fits.seconds / len(part), **curves)
            with np.load(path, allow_pickle=False) as file:
                rows, columns = np.array([(n, seed) for n, seed, _ in part]).T
                for split, table in scores.items():
                    table[rows, columns] = file[split]
                seconds[rows, columns] = float(file["seconds"])
            draw(sum(map(len, plan[: k + 1])), n_trainings)
    about = {
        # of the clips that were scored: one that cannot be decoded is in the manifest all the same
        **{f"n_{split}": len(examples[split].targets) for split in ("train", *scores)},
        "n_labels": len(clips.labels),
        "settings": settings.to_json(),
        "command": ["melbandit", "landscape", *argv],
        "device": device.type,
    }
    name = command.name or command.out.name
    landscape = Table(name, space, scores["validation"], scores["test"], seconds, about)
    landscape.save(folder.path / "landscape.npz.part")
    (folder.path / "landscape.npz.part").replace(folder.path / "landscape.npz")
    means = landscape.mean()
    tests = landscape.mean("test")
    varied = means.std() > 0 and tests.std() > 0
    correlation = round(float(np.corrcoef(means, tests)[0, 1]), 3) if varied else None
    results = {
        "settings": len(landscape),
        "seeds": command.seeds,
        "epochs": landscape.n_epochs,
        "best": round(float(means.max()), 4),
        "mean": round(float(means.mean()), 4),
        "worst": round(float(means.min()), 4),
        "validation_test_correlation": correlation,
        "explained": {key: finite(round(value, 3)) for key, value in additivity(landscape).items()},
        "out": str(folder.path / "landscape.npz"),
    }
    folder.finish(results)
    return results, len(clips.failures)


def _save(write: Any, path: Path, **arrays: Any) -> None:
    import io

    import numpy as np

    out = io.BytesIO()
    np.savez(out, **arrays)
    write(path, out.getvalue())


if __name__ == "__main__":
    sys.exit(main())
