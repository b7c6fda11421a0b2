"""`melbandit finetune --folds`: each fold the test once, and what all of them say together."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from audio.arms import ScheduleSettings
from audio.clips import Manifest
from audio.folds import (
    SCORES,
    SCORES_OF_SEVERAL,
    assign_fold,
    draw_folds,
    official_folds,
    over_folds,
)
from audio.leakage import with_known
from audio.settings import Settings, SettingsError
from audio.splits import untrained_labels
from scripts.command import DONE, PARTLY, print_result, progress, read_json, say
from scripts.corpus_in import backgrounds_of, read_corpus
from scripts.origin import heard_before, known_to
from scripts.run_folder import RunFolder, open_run
from scripts.schedule import make_schedule, schedule_identity, schedule_text
from scripts.scored_fit import save_scored, scores_of_clips, settle_and_hear
from scripts.tables import folds_text, scores_text

if TYPE_CHECKING:
    from audio.classifier import SpectrogramClassifier
    from scripts.clips_in import ClipsIn
    from scripts.finetune import Finetune

_OUT_OF_FOLD = "out_of_fold.csv"
_SHOWN_MISTAKES = 25


def cross_validate(command: Finetune, argv: Sequence[str]) -> int:
    """Fit and score once a fold, pool the predictions, report; returns an exit code.

    A fold that is done is not done again, one that was stopped goes on from its checkpoint.
    """
    from audio.devices import use_threads
    from audio.images import is_images_folder
    from audio.shards import is_shards_folder
    from audio.team import processes
    from scripts.clips_in import decode_clips

    if processes() > 1:
        raise SettingsError(
            f"{processes()} processes: --folds fits its folds by one process; start it without "
            "accelerate launch, or name --test-folds."
        )
    settings = Settings(command.spectrogram, command.augmentation, command.training)
    scheduled = schedule_identity(command.scheduling)
    is_pictures = is_images_folder(command.clips) or is_shards_folder(command.clips)
    manifest, turns = _turns(command, is_pictures=is_pictures)
    with open_run(command.out, overwrite=command.overwrite) as folder:
        identity: dict[str, Any] = {
            "settings": settings.to_json(),
            "corpus": manifest.fingerprint(),
            **backgrounds_of(settings),
            "folds": list(turns),
            "validation_percent": command.split.validation_percent,
            "split_seed": command.split.split_seed,
            "schedule": scheduled,
        }
        folder.begin("finetune", identity, argv)
        if folder.is_done:
            say(f"{command.out}: already done; --overwrite fits it again.")
            _print(folder.results())
            return DONE
        use_threads(settings.training.threads)
        decoded = decode_clips(
            manifest,
            sample_rate_hz=settings.spectrogram.sample_rate_hz,
            folder=folder.work / "waveforms",
            workers=command.workers or 2,
        )
        folder.write_failures(decoded.failures)
        # all of them before the first training, so that a leak is told at once
        allow = command.split.allow_leakage
        told = {}
        backbone = settings.training.backbone
        known = known_to(backbone, decoded.manifest)
        for fold, turn in turns.items():
            usable, told[fold] = decoded.check(turn, allow_leakage=allow, fold=fold)
            if never := untrained_labels(usable):
                say(
                    f"note: all clips of {', '.join(never)} are in fold {fold}, so none is trained "
                    "when they are tested; they count as wrong."
                )
            if n := heard_before(backbone, known, usable, allow_leakage=allow):
                told[fold] = with_known(told[fold], n)
        leakage = {fold: found for fold, found in told.items() if found is not None}
        if allow:
            folder.amend({"allow_leakage": True, "leakage": leakage or None})
        names = _folder_names(list(turns))
        folds = []
        for number, (fold, turn) in enumerate(turns.items(), start=1):
            mine = decoded.split_as(turn, allow_leakage=allow, fold=fold)
            mine = replace(mine, leakage=told[fold])
            say(f"fold {fold} ({number} of {len(turns)}): {mine.manifest.describe()}")
            home = RunFolder(folder.path / names[fold])
            found = _fit_fold(home, settings, mine, command.scheduling, argv)
            folds.append({"fold": fold, "folder": names[fold]} | found)
            say(f"fold {fold}: test accuracy {found['test']['accuracy']['value']:.1%}")
        results = _pooled(folder, folds, decoded.manifest)
        results["settings"] = settings.to_json()
        results["failures"] = len(decoded.failures)
        results["leakage"] = leakage or None
        from scripts.pages import write_folds_page

        write_folds_page(folder.path, results, read_json(folder.path / "settings.json"))
        folder.finish(results)
        _print(results)
    return PARTLY if decoded.failures else DONE


def _turns(command: Finetune, *, is_pictures: bool) -> tuple[Manifest, dict[str, Manifest]]:
    """Return the clips, and by fold the clips split for its turn."""
    if is_pictures:
        raise SettingsError(
            f"{command.clips}: pictures are split already; --folds needs the clips."
        )
    split = command.split
    named = {
        "--test-groups": split.test_groups,
        "--validation-groups": split.validation_groups,
        "--test-folds": split.test_folds,
        "--validation-folds": split.validation_folds,
    }
    for option, value in named.items():
        if value:
            raise SettingsError(
                f"{option} {' '.join(value)}: under --folds every fold is the test "
                "once; leave one of the two out."
            )
    manifest = read_corpus(command.clips, command.corpus)
    manifest = replace(manifest, clips=tuple(replace(c, split=None) for c in manifest.clips))
    if command.draw_folds:
        manifest = draw_folds(manifest, command.draw_folds, seed=split.split_seed)
    folds = official_folds(manifest)
    return manifest, {fold: assign_fold(manifest, fold, split) for fold in folds}


def _folder_names(folds: Sequence[str]) -> dict[str, str]:
    """Return a folder's name for each fold.

    >>> _folder_names(["1", "hall/left"])
    {'1': 'fold-1', 'hall/left': 'fold-hall_left'}
    """
    names = {fold: "fold-" + re.sub(r"[^\w.-]", "_", fold) for fold in folds}
    if len({name.casefold() for name in names.values()}) < len(names):
        return {fold: f"fold-{number}" for number, fold in enumerate(folds, start=1)}
    return names


def _fit_fold(
    home: RunFolder,
    settings: Settings,
    clips: ClipsIn,
    scheduling: ScheduleSettings,
    argv: Sequence[str],
) -> dict[str, Any]:
    """Return the results of one fold, fitted here or by an earlier command."""
    from audio.examples import resolve
    from audio.train import fine_tune
    from scripts.finetune import epoch_lines

    home.path.mkdir(exist_ok=True)
    home.begin(
        "finetune",
        {
            "settings": settings.to_json(),
            "corpus": clips.manifest.fingerprint(),
            "schedule": schedule_identity(scheduling),
        },
        argv,
    )
    if home.is_done:
        return home.results()
    train = clips.examples["train"]
    resolved = resolve(settings, train)
    schedule = make_schedule(scheduling, resolved, clips)
    with progress("fit", "epochs") as draw:
        fit = fine_tune(
            train,
            clips.examples["validation"],
            resolved,
            clips.labels,
            checkpoint=home.work / "checkpoint.safetensors",
            on_epoch=epoch_lines(draw, resolved.training.epochs),
            schedule=schedule,
        )
    heard = settle_and_hear(fit.model, clips)
    results = save_scored(home, fit, clips, heard, schedule)
    _write_predictions(home, fit.model, clips, heard.probabilities["test"])
    home.finish(results)
    return results


def _write_predictions(
    home: RunFolder, model: SpectrogramClassifier, clips: ClipsIn, probabilities: Any
) -> None:
    header = ["path", "start_s", "fold", "group", "label", "predicted", "probability"]
    rows = []
    for clip, row in zip(clips.manifest.in_split("test").clips, probabilities, strict=True):
        about = [clips.manifest.relative(clip.path), f"{clip.start_s:g}", clip.fold, clip.group]
        # nine digits give a float32 back exactly
        shares = [f"{p:.9g}" for p in row]
        rows.append(
            [*about, clip.label, ";".join(model.heard(row)), shares[int(row.argmax())], *shares]
        )
    home.write_table(_OUT_OF_FOLD, [*header, *clips.labels], rows)


def _pooled(
    folder: RunFolder, folds: Sequence[dict[str, Any]], manifest: Manifest
) -> dict[str, Any]:
    """Write the predictions of all folds as one table; return their scores and the folds'."""
    import numpy as np

    labels = folds[0]["labels"]
    rows: list[list[str]] = []
    header: list[str] = []
    for fold in folds:
        path = folder.path / fold["folder"] / _OUT_OF_FOLD
        with path.open(newline="", encoding="utf-8") as lines:
            header, *more = csv.reader(lines)
        rows += more
    folder.write_table(_OUT_OF_FOLD, header, rows)
    probabilities = np.array([row[len(header) - len(labels) :] for row in rows], np.float32)
    groups = [row[3] or None for row in rows]
    if manifest.is_multi_label:
        names: tuple[str, ...] = SCORES_OF_SEVERAL
        targets = np.array([[x in row[4].split(";") for x in labels] for row in rows], np.float32)
        # each fold's model has thresholds of its own
        limits = np.concatenate([[_thresholds(fold)] * fold["test"]["n"] for fold in folds])
        pooled = scores_of_clips(probabilities, targets, labels, thresholds=limits, groups=groups)
    else:
        names = SCORES
        targets = np.array([labels.index(row[4]) for row in rows], np.int64)
        pooled = scores_of_clips(probabilities, targets, labels, groups=groups)
    wrong = sorted((row for row in rows if row[4] != row[5]), key=lambda row: -float(row[6]))
    told = [
        {"fold": fold["fold"], "folder": fold["folder"], "n": fold["test"]["n"]}
        | {name: fold["test"][name]["value"] for name in names}
        | {f"validation_{name}": fold["validation"][name]["value"] for name in names}
        | {"seconds": fold["seconds"]}
        for fold in folds
    ]
    results = {
        "labels": labels,
        "folds": told,
        "scores": over_folds(told, names),
        "pooled": pooled,
        "parameters": folds[0]["parameters"],
        "seconds": sum(fold["seconds"] for fold in folds),
        "mistakes": [
            {"path": row[0], "label": row[4], "predicted": row[5], "probability": float(row[6])}
            for row in wrong[:_SHOWN_MISTAKES]
        ],
        "corpus": _counts(manifest),
    }
    return results | _calibration(folds) | _schedules(folds)


def _thresholds(fold: dict[str, Any]) -> list[float]:
    """Return from which probability on each label counted as heard in a fold."""
    return [row["threshold"] for row in fold["test"]["per_class"].values()]


def _calibration(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the folds' temperatures, and what their probabilities were worth without them."""
    if any("calibration" not in fold for fold in folds):  # of several labels
        return {}
    from audio.calibration import error_of_bins, pooled_reliability

    bins = pooled_reliability([fold["calibration"]["test"]["reliability"] for fold in folds])
    temperatures = [fold["calibration"]["temperature"] for fold in folds]
    pooled = {"calibration_error": error_of_bins(bins), "reliability": bins}
    return {"calibration": {"temperatures": temperatures, "pooled": pooled}}


def _schedules(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the folds' schedules picked, where they had any."""
    if "schedule" not in folds[0]:
        return {}
    return {"schedules": [{"fold": f["fold"], "schedule": f["schedule"]} for f in folds]}


def _counts(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the clips of each fold and class, as the report's table takes them."""
    clips = tuple(replace(c, split=f"fold {str(c.fold).zfill(2)}") for c in manifest.clips)
    rows = replace(manifest, clips=clips).counts()
    return [{key: row[key] for key in ("split", "label", "clips")} for row in rows]


def _print(results: dict[str, Any]) -> None:
    """Write the folds, their mean and the pooled scores to stdout, and the summary line."""
    for fold in results.get("schedules", []):
        print(f"fold {fold['fold']}, {schedule_text(fold['schedule'])}")
    print(folds_text(results))
    print(scores_text("pooled out-of-fold", results["pooled"]))
    short: dict[str, Any] = {"folds": len(results["folds"]), "seconds": results["seconds"]}
    short |= {name: results["scores"][name] for name in results["scores"]}
    short["pooled"] = {"n": results["pooled"]["n"]} | {
        name: results["pooled"][name] for name in results["scores"]
    }
    print_result(short)
