"""`melbandit finetune`: clips or pictures to a fitted, scored, saved classifier."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audio.arms import ScheduleSettings
from audio.own_model import check_dropout, own_dropout, own_settings
from audio.settings import (
    AugmentationSettings,
    Settings,
    SettingsError,
    SpectrogramSettings,
    TrainingSettings,
    UserError,
    is_scratch,
)
from audio.splits import SplitSettings, assign_splits
from data.corpus import CorpusSettings
from scripts.command import (
    DONE,
    PARTLY,
    check_least,
    parse,
    print_result,
    progress,
    read_json,
    run,
    say,
)
from scripts.corpus_in import backgrounds_of, read_corpus
from scripts.origin import with_origin
from scripts.run_folder import RunFolder, open_run
from scripts.schedule import make_schedule, schedule_identity
from scripts.scored_fit import print_scores, save_scored, settle_and_hear, summary

if TYPE_CHECKING:
    from audio.team import Team

#: Defaults for a checkpoint: its weights are to be kept, not learned anew. Between AST's recipe
#: for ESC-50 (1e-5, 25 epochs) and that for Speech Commands (2.5e-4, 30 epochs).
CHECKPOINT_TRAINING = {"learning_rate": 3e-5, "epochs": 15}
_NORMALISATION = ("normalisation", "mean_db", "std_db")  # of levels, after the pictures


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
    """Threads that decode; 0 is two."""
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
        base = _settings_in(command.settings)
    else:
        backbone = command.training.backbone
        base = Settings(spectrogram=_preset(command.preset, backbone))
        if (own := own_settings(backbone)) is not None:
            as_it_was = {name: getattr(own.training, name) for name in CHECKPOINT_TRAINING}
            base = base.with_values(as_it_was | {"dropout": own_dropout(backbone)})
        elif not is_scratch(backbone):
            base = base.with_values(CHECKPOINT_TRAINING)
        if base == Settings():
            return command
    return replace(
        command,
        spectrogram=base.spectrogram,
        augmentation=base.augmentation,
        training=base.training,
    )


def _settings_in(path: Path) -> Settings:
    """Return the settings in a file that a run wrote.

    Raises:
        UserError: there are none, or they are not legal; names the file.
    """
    record: Any = read_json(path)
    groups = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(groups, dict) or not all(isinstance(g, dict) for g in groups.values()):
        raise UserError(
            f"{path}: no settings in it; give the settings.json of a run, or a search's "
            "recommended.json."
        )
    try:
        return Settings.from_json(groups)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _preset(name: str, backbone: str) -> SpectrogramSettings:
    from audio.settings import AST_PRESET, WHISPER_PRESET

    if name == "auto":
        if is_scratch(backbone):  # known without importing torch
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
    check_least("--workers", command.workers, 0)
    check_dropout(command.training)
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
    from scripts.clips_in import decode_sounds, reader_of

    settings = Settings(command.spectrogram, command.augmentation, command.training)
    scheduled = schedule_identity(command.scheduling)
    read = reader_of(command.clips)
    if read is None:
        manifest = assign_splits(read_corpus(command.clips, command.corpus), command.split)
    with open_run(command.out, overwrite=command.overwrite) as folder:
        if read is not None:
            clips, made = read(command.clips, allow_leakage=command.split.allow_leakage)
            settings = replace(settings, spectrogram=_of_pictures(command, made))
            manifest = clips.manifest
        identity = {
            "settings": settings.to_json(),
            "corpus": manifest.fingerprint(),
            **backgrounds_of(settings),
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
        clips = with_origin(
            settings.training.backbone, clips, allow_leakage=command.split.allow_leakage
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
        heard = settle_and_hear(fit.model, clips)
        results = save_scored(folder, fit, clips, heard, schedule)
        folder.finish(results)
        print_scores(results)
        print_result(summary(results))
    return PARTLY if clips.failures else DONE


def _of_pictures(command: Finetune, made: SpectrogramSettings) -> SpectrogramSettings:
    """Return what pictures are fitted with: what they were made with, but for how a checkpoint's
    levels are normalised, which is done after the pictures. Says in what else they differ from
    those that the checkpoint was trained on.

    Raises:
        SettingsError: an option was given that says something else than the pictures.
    """
    from scripts.clips_in import check_same_pictures

    backbone = command.training.backbone
    if command.settings is not None or is_scratch(backbone):
        check_same_pictures(command.spectrogram, made, SpectrogramSettings())
        return made
    base = _preset(command.preset, backbone)
    kept = {name: getattr(command.spectrogram, name) for name in _NORMALISATION}
    fitted = replace(made, **kept)
    if differs := check_same_pictures(command.spectrogram, fitted, base):
        own, have = base.to_json(), made.to_json()
        told = ", ".join(f"{name} {have[name]} ({own[name]})" for name in differs)
        say(
            f"note: the pictures are not of the kind that {backbone} was trained on, in brackets: "
            f"{told}. `melbandit convert --preset` makes those of AST and Whisper."
        )
    return fitted


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
                assign_splits(read_corpus(command.clips, command.corpus), command.split),
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


if __name__ == "__main__":
    sys.exit(main())
