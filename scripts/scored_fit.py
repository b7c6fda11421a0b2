"""A fitted model, scored on its clips once, saved with all that is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.command import read_json, say
from scripts.run_folder import RunFolder
from scripts.schedule import FILE, schedule_text
from scripts.tables import SHOWN_SCORES, scores_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audio.classifier import SpectrogramClassifier
    from audio.schedule import Schedule
    from audio.train import Fit
    from scripts.clips_in import ClipsIn

    Probabilities = NDArray[np.float32]

_SHOWN_MISTAKES = 25
_HEADER = ("split", "path", "label", "predicted", "probability", "probability_of_label")


@dataclass(frozen=True)
class Heard:
    """What a model says of the clips of each split that has any: (n_clips, n_labels).

    uncalibrated: before its temperature; empty for a model of several labels, which has none.
    """

    probabilities: dict[str, Probabilities]
    uncalibrated: dict[str, Probabilities]
    temperature: float = 1.0


def settle_and_hear(model: SpectrogramClassifier, clips: ClipsIn) -> Heard:
    """Fit temperature or thresholds on the validation clips, and return what the model says.

    Each window of validation and test goes through the network once.
    """
    import numpy as np

    from audio.multi_label import tune_thresholds
    from audio.temperature import calibrate

    scored = {s: clips.examples[s] for s in ("validation", "test")}
    scored = {split: examples for split, examples in scored.items() if len(examples.targets)}
    outputs = {split: examples.window_logits(model) for split, examples in scored.items()}
    chances = {split: model.clip_probabilities(*found) for split, found in outputs.items()}
    if model.is_multi_label:
        if model.settings.training.tune_thresholds and "validation" in scored:
            tuned = tune_thresholds(chances["validation"], scored["validation"].targets)
            model.config.thresholds = list(tuned)
        return Heard(chances, {})
    temperature = 1.0
    if "validation" in scored:
        targets = scored["validation"].targets.astype(np.int64)
        temperature = calibrate(model, *outputs["validation"], targets)
    calibrated = {
        split: model.clip_probabilities(logits / np.float32(temperature), owner)
        for split, (logits, owner) in outputs.items()
    }
    return Heard(calibrated, chances, temperature)


def scores_of_clips(
    probabilities: Probabilities,
    targets: NDArray[Any],
    labels: Sequence[str],
    *,
    thresholds: Any = None,
    groups: Sequence[str | None] = (),
) -> dict[str, Any]:
    """Return the scores with intervals: `metrics.evaluate`'s, or `evaluate_several`'s for targets
    (n_clips, n_labels)."""
    if targets.ndim == 2:
        from audio.multi_label import evaluate_several

        return evaluate_several(
            probabilities, targets, labels, thresholds=thresholds, groups=groups
        )
    from audio.metrics import evaluate

    return evaluate(probabilities, targets, labels, groups=groups)


def save_scored(
    folder: RunFolder, fit: Fit, clips: ClipsIn, heard: Heard, schedule: Schedule | None = None
) -> dict[str, Any]:
    """Save the model with its scores, predictions, report and card; return the results."""
    from audio.clips import write_csv
    from audio.model_card import write_model_card
    from scripts.explained import explained_clips
    from scripts.pages import write_model_page

    model = fit.model
    if fit.epoch < len(fit.history):
        say(
            f"stopped after epoch {len(fit.history)}; the weights are those of epoch {fit.epoch}, "
            "which validated best, so its validation scores are flattered by the choice."
        )
    if clips.leakage is not None:  # whoever is handed the model shall know
        model.config.leakage = clips.leakage
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
    if clips.leakage is not None:
        results["leakage"] = clips.leakage
    if schedule is not None:
        results["schedule"] = schedule.record()
        folder.write_json(FILE, results["schedule"])
    results |= _scores(model, clips, heard)
    rows = _prediction_rows(model, clips, heard.probabilities)
    folder.write_table("predictions.csv", _HEADER, rows)
    last = "test" if "test" in heard.probabilities else "validation"
    results["mistakes"] = _surest_mistakes([row for row in rows if row[0] == last])
    results["corpus"] = clips.manifest.counts()
    results["pictures"] = _example_pictures(folder, model, clips)
    results["explained"] = explained_clips(
        folder.path, model, clips, last, heard.probabilities.get(last)
    )
    record = read_json(folder.path / "settings.json")
    write_model_page(folder.path, results, record)
    write_model_card(folder.path, results, record, corpus=clips.manifest.root.name or "clips")
    return results


def _scores(model: SpectrogramClassifier, clips: ClipsIn, heard: Heard) -> dict[str, Any]:
    """Return the scores by split, and under "calibration" what they were before it."""
    found: dict[str, Any] = {}
    calibration: dict[str, Any] = {"temperature": heard.temperature}
    for split, probabilities in heard.probabilities.items():
        targets, groups = clips.examples[split].targets, clips.groups(split)
        found[split] = scores_of_clips(
            probabilities, targets, clips.labels, thresholds=model.thresholds, groups=groups
        )
        if split in heard.uncalibrated:
            before = scores_of_clips(
                heard.uncalibrated[split], targets, clips.labels, groups=groups
            )
            names = ("calibration_error", "log_loss", "reliability")
            calibration[split] = {name: before[name] for name in names}
    return found | ({"calibration": calibration} if heard.uncalibrated else {})


def _prediction_rows(
    model: SpectrogramClassifier, clips: ClipsIn, heard: Mapping[str, Probabilities]
) -> list[list[str]]:
    """Return a row of predictions.csv for each clip."""
    rows = []
    for split, probabilities in heard.items():
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
    return rows


def _surest_mistakes(rows: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return the wrong predictions among rows of predictions.csv, the surest first."""
    wrong = sorted((row for row in rows if row[2] != row[3]), key=lambda row: -float(row[4]))
    return [
        {"path": row[1], "label": row[2], "predicted": row[3], "probability": float(row[4])}
        for row in wrong[:_SHOWN_MISTAKES]
    ]


def _example_pictures(
    folder: RunFolder, model: SpectrogramClassifier, clips: ClipsIn
) -> list[dict[str, str]]:
    """Write up to three training clips of each class as the model sees them; return their names."""
    import numpy as np

    from audio.files import write_atomically
    from audio.images import encode_picture

    train, manifest = clips.examples["train"], clips.manifest.in_split("train")
    (folder.path / "examples").mkdir(exist_ok=True)
    shown: list[dict[str, str]] = []
    for label in clips.labels:
        mine = [i for i, clip in enumerate(manifest.clips) if label in clip.classes][:3]
        if not mine:  # a rare class that is all in the test
            continue
        levels, n_valid = train.levels(np.array(mine), model, None)
        for k, (i, level, n) in enumerate(zip(mine, levels.cpu(), n_valid.tolist(), strict=True)):
            name = f"examples/{clips.labels.index(label):03d}_{k}.png"
            data = encode_picture(level.numpy(), model.settings.spectrogram, n_valid=n)
            write_atomically(folder.path / name, data)
            caption = manifest.relative(manifest.clips[i].path)
            shown.append({"label": label, "caption": caption, "file": name})
    return shown


def print_scores(results: Mapping[str, Any]) -> None:
    """Write the scores of both splits to stdout, to be read, and what a schedule picked."""
    if "schedule" in results:
        print(schedule_text(results["schedule"]))
    for split in ("validation", "test"):
        if split in results:
            print(scores_text(split, results[split]))


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the few figures that the last line of stdout gives."""
    short: dict[str, Any] = {"parameters": results["parameters"], "seconds": results["seconds"]}
    for split in ("validation", "test"):
        if split in results:
            short[split] = {"n": results[split]["n"]} | {
                name: results[split][name] for name in SHOWN_SCORES if name in results[split]
            }
    return short
