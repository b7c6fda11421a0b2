"""`melbandit finetune`: clips or pictures to a fitted, scored, saved classifier."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audio.arms import ScheduleSettings
from audio.clips import SplitSettings, assign_splits
from audio.settings import (
    AugmentationSettings,
    Settings,
    SpectrogramSettings,
    TrainingSettings,
)
from data.corpus import CorpusSettings, open_corpus
from scripts.command import DONE, PARTLY, parse, print_result, progress, read_json, run, say
from scripts.run_folder import RunFolder, open_run
from scripts.schedule import FILE, make_schedule, schedule_identity, schedule_text
from scripts.tables import SHOWN_SCORES, scores_text

if TYPE_CHECKING:
    from audio.schedule import Schedule
    from audio.team import Team
    from audio.train import Fit
    from scripts.clips_in import ClipsIn

_SHOWN_MISTAKES = 25

#: Defaults for a checkpoint: its weights are to be kept, not learned anew. Between AST's recipe
#: for ESC-50 (1e-5, 25 epochs) and that for Speech Commands (2.5e-4, 30 epochs).
CHECKPOINT_TRAINING = {"learning_rate": 3e-5, "epochs": 15}


@dataclass(frozen=True)
class Finetune:
    """Fit a classifier to labelled clips, or to what `melbandit convert` made of them.

    The split keeps groups whole. Validation scores are shown epoch by epoch; the test is scored
    once, at the end. The same command again goes on where it was stopped.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder with a subfolder of clips for each class, a CSV manifest, a folder of pictures or
    shards, or the name of a published corpus (esc50, urbansound8k, ...), which lies in --root."""
    out: Path
    """Folder for the model, its scores and its report."""
    settings: Path | None = None
    """Settings to start from: a settings.json of an earlier run, or a search's recommended.json."""
    preset: Literal["auto", "melbandit", "ast", "whisper"] = "auto"
    """Whose spectrogram settings to start from; auto takes what the backbone was trained on."""
    workers: int = 0
    """Threads that decode; 0 is one a core."""
    folds: bool = False
    """Cross-validate by the corpus's folds: each is the test once, with validation clips drawn from
    the rest."""
    draw_folds: int = 0
    """Cross-validate by this many folds drawn from whole groups, where the corpus has none."""
    overwrite: bool = False
    """Start over in a folder that holds another run."""
    corpus: CorpusSettings = CorpusSettings()
    split: SplitSettings = SplitSettings()
    spectrogram: SpectrogramSettings = SpectrogramSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings = TrainingSettings()
    scheduling: ScheduleSettings = ScheduleSettings()


def with_base(command: Any) -> Any:
    """Return a command (finetune's or search's) whose settings start from its file or preset."""
    if command.settings is not None:
        base = Settings.from_json(read_json(command.settings)["settings"])
    else:
        backbone = command.training.backbone
        base = Settings(spectrogram=_preset(command.preset, backbone))
        if not backbone.endswith("-scratch"):
            base = base.with_values(CHECKPOINT_TRAINING)
        if base == Settings():
            return command
    return replace(
        command,
        spectrogram=base.spectrogram,
        augmentation=base.augmentation,
        training=base.training,
    )


def _preset(name: str, backbone: str) -> SpectrogramSettings:
    from audio.settings import AST_PRESET, WHISPER_PRESET

    if name == "auto":
        if backbone.endswith("-scratch"):  # known without importing torch
            return SpectrogramSettings()
        from audio.backbones import preset_for

        return preset_for(backbone)
    table = {"melbandit": SpectrogramSettings(), "ast": AST_PRESET, "whisper": WHISPER_PRESET}
    return replace(table[name], clip_s=None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: finetune(parse(Finetune, "finetune", arguments, base=with_base), arguments))


def finetune(command: Finetune, argv: Sequence[str]) -> int:
    """Fit, score and save; returns an exit code."""
    if command.folds or command.draw_folds:
        from scripts.cross_validate import cross_validate

        return cross_validate(command, argv)
    from audio.team import open_team

    with open_team(command.training.device) as team:
        return _fit_first(command, argv, team) if team.is_first else _fit_along(command, team)


def _fit_first(command: Finetune, argv: Sequence[str], team: Team) -> int:
    """Do all that one process alone does, and tell the others of a team when to fit along."""
    from audio.devices import use_threads
    from audio.examples import resolve
    from audio.train import fine_tune
    from scripts.clips_in import check_same_pictures, decode_sounds, reader_of

    settings = Settings(command.spectrogram, command.augmentation, command.training)
    scheduled = schedule_identity(command.scheduling)
    read = reader_of(command.clips)
    if read is None:
        manifest = assign_splits(open_corpus(command.clips, command.corpus), command.split)
    with open_run(command.out, overwrite=command.overwrite) as folder:
        if read is not None:
            clips, made = read(command.clips, allow_leakage=command.split.allow_leakage)
            check_same_pictures(settings.spectrogram, made)
            settings = replace(settings, spectrogram=made)
            manifest = clips.manifest
        identity = {
            "settings": settings.to_json(),
            "corpus": manifest.fingerprint(),
            "schedule": scheduled,
        }
        folder.begin("finetune", identity, argv)
        if folder.is_done:
            team.tell(None)
            say(f"{command.out}: already done; --overwrite fits it again.")
            print_scores(folder.results())
            print_result(summary(folder.results()))
            return DONE
        use_threads(settings.training.threads, processes=team.size)
        if read is not None:
            say("note: levels, no sound: what varies the sound is off; masks, warp and mixing act.")
        else:
            clips = decode_sounds(
                manifest,
                sample_rate_hz=settings.spectrogram.sample_rate_hz,
                folder=folder.work / "waveforms",
                workers=command.workers or 2,
                allow_leakage=command.split.allow_leakage,
            )
        if command.split.allow_leakage:
            folder.amend({"allow_leakage": True, "leakage": clips.leakage})
        folder.write_failures(clips.failures)
        say(clips.manifest.describe())
        train = clips.examples["train"]
        settings = resolve(settings, train)
        schedule = make_schedule(command.scheduling, settings, clips, levels=read is not None)
        team.tell(settings)
        with progress("fit", "epochs") as draw:
            fit = fine_tune(
                train,
                clips.examples["validation"],
                settings,
                clips.labels,
                checkpoint=folder.work / "checkpoint.safetensors",
                on_epoch=epoch_lines(draw, settings.training.epochs),
                team=team,
                schedule=schedule,
            )
        results = score_and_save(folder, fit, clips, schedule)
        folder.finish(results)
        print_scores(results)
        print_result(summary(results))
    return PARTLY if clips.failures else DONE


def _fit_along(command: Finetune, team: Team) -> int:
    """Fit with the first process of a team, which decodes, writes and speaks."""
    import contextlib
    import io

    from audio.train import fine_tune
    from scripts.clips_in import decode_sounds, reader_of

    settings: Settings | None = team.tell(None)  # what the first gives, once clips are decoded
    if settings is None:
        return DONE
    work = RunFolder(command.out).work
    with contextlib.redirect_stderr(io.StringIO()):  # the first has said it all
        read = reader_of(command.clips)
        if read is not None:
            clips, _ = read(command.clips, allow_leakage=command.split.allow_leakage)
        else:
            clips = decode_sounds(
                assign_splits(open_corpus(command.clips, command.corpus), command.split),
                sample_rate_hz=settings.spectrogram.sample_rate_hz,
                folder=work / "waveforms",
                workers=1,
                allow_leakage=command.split.allow_leakage,
            )
        schedule = make_schedule(command.scheduling, settings, clips)
    fine_tune(
        clips.examples["train"],
        clips.examples["validation"],
        settings,
        clips.labels,
        checkpoint=work / "checkpoint.safetensors",
        team=team,
        schedule=schedule,
    )
    return DONE


def epoch_lines(
    draw: Callable[[int, int], None], n_epochs: int
) -> Callable[[dict[str, float]], None]:
    """Return what draws the bar after each epoch and tells every tenth one in a line."""

    def show(row: dict[str, float]) -> None:
        n = int(row["epoch"])
        draw(n, n_epochs)
        if n == n_epochs or n % max(1, n_epochs // 10) == 0:
            say(
                f"epoch {n}: loss {row['train_loss']:.3f}, validation loss "
                f"{row['validation_loss']:.3f}, accuracy {row['validation_accuracy']:.1%}"
            )

    return show


def score_and_save(
    folder: RunFolder, fit: Fit, clips: ClipsIn, schedule: Schedule | None = None
) -> dict[str, Any]:
    """Save the model, score it on validation and test, write the report; return the results."""
    import numpy as np

    from audio.clips import write_csv
    from audio.metrics import evaluate
    from audio.model_card import write_model_card
    from audio.multi_label import evaluate_several, tune_thresholds
    from audio.temperature import calibrate
    from scripts.explained import explained_clips
    from scripts.pages import write_model_page

    model = fit.model
    if fit.epoch < len(fit.history):
        say(
            f"stopped after epoch {len(fit.history)}; the weights are those of epoch {fit.epoch}, "
            "which validated best, so its validation scores are flattered by the choice."
        )
    scored = {
        s: clips.examples[s] for s in ("validation", "test") if len(clips.examples[s].targets)
    }
    outputs = {split: examples.window_logits(model) for split, examples in scored.items()}
    chances = {split: model.clip_probabilities(*found) for split, found in outputs.items()}
    before: dict[str, Any] = {}
    if not model.is_multi_label:  # a softmax's temperature
        before = chances
        temperature = 1.0
        if "validation" in scored:
            validation = scored["validation"].targets.astype(np.int64)
            temperature = calibrate(model, *outputs["validation"], validation)
        chances = {
            split: model.clip_probabilities(logits / np.float32(temperature), owner)
            for split, (logits, owner) in outputs.items()
        }
    if clips.leakage is not None:  # whoever is handed the model shall know
        model.config.leakage = clips.leakage
    tunes = model.is_multi_label and model.settings.training.tune_thresholds
    if tunes and "validation" in scored:
        tuned = tune_thresholds(chances["validation"], scored["validation"].targets)
        model.config.thresholds = list(tuned)
    model.save_pretrained(folder.path)
    write_csv(clips.manifest, folder.path / "manifest.csv")
    results: dict[str, Any] = {
        "labels": list(clips.labels),
        "settings": model.settings.to_json(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "history": list(fit.history),
        "epoch": fit.epoch,
        "seconds": sum(row["seconds"] for row in fit.history),
        "failures": len(clips.failures),
    }
    if before:
        results["calibration"] = {"temperature": temperature}
    if clips.leakage is not None:
        results["leakage"] = clips.leakage
    if schedule is not None:
        results["schedule"] = schedule.record()
        folder.write_json(FILE, results["schedule"])
    rows: list[list[Any]] = []
    for split, examples in scored.items():
        probabilities = chances[split]
        if model.is_multi_label:
            results[split] = evaluate_several(
                probabilities,
                examples.targets,
                clips.labels,
                thresholds=model.thresholds,
                groups=clips.groups(split),
            )
        else:
            results[split] = evaluate(
                probabilities, examples.targets, clips.labels, groups=clips.groups(split)
            )
            uncalibrated = evaluate(
                before[split], examples.targets, clips.labels, groups=clips.groups(split)
            )
            results["calibration"][split] = {
                name: uncalibrated[name]
                for name in ("calibration_error", "log_loss", "reliability")
            }
        for clip, p in zip(clips.manifest.in_split(split).clips, probabilities, strict=True):
            mine = [p[clips.labels.index(name)] for name in clip.classes]
            rows.append(
                [
                    split,
                    clips.manifest.relative(clip.path),
                    clip.label,
                    ";".join(model.heard(p)),
                    f"{p.max():.4f}",
                    f"{min(mine):.4f}" if mine else "",  # of several the least likely
                ]
            )
    header = ("split", "path", "label", "predicted", "probability", "probability_of_label")
    folder.write_table("predictions.csv", header, rows)
    last = "test" if "test" in results else "validation"
    wrong = [row for row in rows if row[0] == last and row[2] != row[3]]
    wrong.sort(key=lambda row: -float(row[4]))
    results["mistakes"] = [
        {"path": row[1], "label": row[2], "predicted": row[3], "probability": float(row[4])}
        for row in wrong[:_SHOWN_MISTAKES]
    ]
    results["corpus"] = clips.manifest.counts()
    results["pictures"] = example_pictures(folder, model, clips)
    results["explained"] = explained_clips(folder.path, model, clips, last, chances.get(last))
    record = read_json(folder.path / "settings.json")
    write_model_page(folder.path, results, record)
    write_model_card(folder.path, results, record, corpus=clips.manifest.root.name or "clips")
    return results


def example_pictures(folder: RunFolder, model: Any, clips: ClipsIn) -> list[dict[str, str]]:
    """Write up to three training clips of each class as the model sees them; return their names."""
    import numpy as np

    from audio.files import write_atomically
    from audio.images import encode_picture

    train, manifest = clips.examples["train"], clips.manifest.in_split("train")
    (folder.path / "examples").mkdir(exist_ok=True)
    shown: list[dict[str, str]] = []
    for label in clips.labels:
        mine = [i for i, clip in enumerate(manifest.clips) if label in clip.classes][:3]
        levels, n_valid = train.levels(np.array(mine), model, None)
        for k, (i, level, n) in enumerate(zip(mine, levels.cpu(), n_valid.tolist(), strict=True)):
            name = f"examples/{clips.labels.index(label):03d}_{k}.png"
            data = encode_picture(level.numpy(), model.settings.spectrogram, n_valid=n)
            write_atomically(folder.path / name, data)
            caption = manifest.relative(manifest.clips[i].path)
            shown.append({"label": label, "caption": caption, "file": name})
    return shown


def print_scores(results: dict[str, Any]) -> None:
    """Write the scores of both splits to stdout, to be read, and what a schedule picked."""
    if "schedule" in results:
        print(schedule_text(results["schedule"]))
    for split in ("validation", "test"):
        if split in results:
            print(scores_text(split, results[split]))


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Return the few figures that the last line of stdout gives."""
    short: dict[str, Any] = {"parameters": results["parameters"], "seconds": results["seconds"]}
    for split in ("validation", "test"):
        if split in results:
            short[split] = {"n": results[split]["n"]} | {
                name: results[split][name] for name in SHOWN_SCORES if name in results[split]
            }
    return short


if __name__ == "__main__":
    sys.exit(main())
