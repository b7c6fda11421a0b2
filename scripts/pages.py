"""The report page of a run, from the JSON that the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audio import fold_report, report, schedule_report
from audio.calibration_report import reliability_section
from audio.explain_report import explained_section
from audio.images import read_picture
from audio.markup import percent
from audio.page import Section, write_report
from audio.settings import Settings

_LEAKY = (
    "Leakage was allowed: groups or sounds are on two sides of the split, or the model that this "
    "one starts from was trained on clips of the test; these figures are too good."
)
_SEVERAL = ", with all their labels"


def write_model_page(
    folder: Path, results: dict[str, Any], record: dict[str, Any], *, path: Path | None = None
) -> None:
    """Write the page of a fitted model; path: None is report.html in its folder."""
    sections = [model_headline(results), *model_sections(folder, results)]
    sections += closing_sections(results["settings"], record)
    path = path or folder / "report.html"
    write_report(path, title="A fitted classifier", sections=sections)


def model_headline(results: dict[str, Any]) -> Section:
    """Return the headline: the test's accuracy with its interval, else validation's."""
    title, interval, caveat = accuracy_words(results)
    scores = results["test" if "test" in results else "validation"]
    return report.headline(
        title,
        f"{interval}; macro-F1 {scores['macro_f1']['value']:.3f}; "
        f"{len(results['labels'])} classes; {results['parameters']:,} parameters.{caveat}",
    )


def accuracy_words(results: dict[str, Any]) -> tuple[str, str, str]:
    """Return how much of the test, else of the validation clips, a fitted model has right, the
    interval, and what to say where leakage was allowed."""
    split = "test" if "test" in results else "validation"
    scores = results[split]
    accuracy = scores["accuracy"]
    several = _SEVERAL if "micro_f1" in scores else ""
    return (
        f"{percent(accuracy['value'])} of {scores['n']} {split} clips right{several}",
        f"95 % interval {percent(accuracy['low'])} to {percent(accuracy['high'])} over "
        f"{scores['interval_over']}",
        f" {_LEAKY}" if results.get("leakage") else "",
    )


def write_folds_page(
    folder: Path, results: dict[str, Any], record: dict[str, Any], *, path: Path | None = None
) -> None:
    """Write the page of a cross-validation; path: None is report.html in its folder."""
    accuracy, pooled = results["scores"]["accuracy"], results["pooled"]
    macro_f1 = pooled["macro_f1"]
    leaky = f" {_LEAKY}" if results.get("leakage") else ""
    several = _SEVERAL if "micro_f1" in pooled else ""
    sections = [
        report.headline(
            f"{percent(accuracy['mean'])} of the clips right{several}, mean over "
            f"{len(results['folds'])} folds",
            f"± {percent(accuracy['deviation'])} from fold to fold, {percent(accuracy['least'])} "
            f"to {percent(accuracy['most'])}; all {pooled['n']} predictions pooled: macro-F1 "
            f"{macro_f1['value']:.3f} (95 % interval {macro_f1['low']:.3f} to "
            f"{macro_f1['high']:.3f} over {pooled['interval_over']}).{leaky}",
        ),
        fold_report.folds_table(results["folds"], results["scores"]),
        report.metrics_table(
            {"split": "pooled out-of-fold"} | pooled, title="All folds' predictions together"
        ),
    ]
    if "confusion" in pooled:
        title = "What is taken for what (all folds)"
        sections.append(report.confusion_heatmap(pooled["confusion"], title=title))
    if calibration := results.get("calibration"):  # not in a run of an earlier version
        sections.append(
            reliability_section(
                calibration["pooled"],
                pooled,
                temperatures=calibration["temperatures"],
                split="pooled out-of-fold",
            )
        )
    if results["mistakes"]:
        sections.append(report.worst_mistakes(results["mistakes"]))
    for fold in results.get("schedules", []):
        title = f"What was picked when: fold {fold['fold']}"
        sections.append(schedule_report.schedule_section(fold["schedule"], title=title))
    sections.append(report.corpus_table(results["corpus"]))
    sections += closing_sections(results["settings"], record)
    write_report(path or folder / "report.html", title="A cross-validation", sections=sections)


def model_sections(folder: Path, results: dict[str, Any]) -> list[Section]:
    """Return what there is to see of one fitted model."""
    spectrogram = Settings.from_json(results["settings"]).spectrogram
    sections: list[Section] = []
    for split, title in (("test", "On the test clips"), ("validation", "On the validation clips")):
        if split in results:
            sections.append(report.metrics_table({"split": split} | results[split], title=title))
            if "confusion" in results[split]:
                sections.append(
                    report.confusion_heatmap(
                        results[split]["confusion"], title=f"What is taken for what ({split})"
                    )
                )
    calibration = results.get("calibration", {})
    for split in ("test", "validation"):
        if split in calibration:
            sections.append(
                reliability_section(
                    calibration[split],
                    results[split],
                    temperatures=[calibration["temperature"]],
                    split=split,
                )
            )
            break  # validation's is what the temperature was fitted to
    if results["mistakes"]:
        sections.append(report.worst_mistakes(results["mistakes"]))
    pictures = [
        (shown["label"], shown["caption"], read_picture(folder / shown["file"]).pixels)
        for shown in results["pictures"]
    ]
    sections.append(
        report.spectrogram_gallery(
            pictures,
            duration_s=spectrogram.clip_s,
            f_min_hz=spectrogram.f_min_hz,
            f_max_hz=spectrogram.f_max,
        )
    )
    if results.get("explained"):
        rows = [
            row
            | {"pictures": {k: (folder / name).read_bytes() for k, name in row["files"].items()}}
            for row in results["explained"]
        ]
        sections.append(
            explained_section(rows, duration_s=spectrogram.clip_s, f_max_hz=spectrogram.f_max)
        )
    history = results["history"]
    sections.append(
        report.learning_curves(history, chosen_epoch=int(results.get("epoch", len(history))))
    )
    if "schedule" in results:
        sections.append(schedule_report.schedule_section(results["schedule"]))
    sections.append(report.corpus_table(results["corpus"]))
    return sections


def closing_sections(settings: dict[str, Any], record: dict[str, Any]) -> list[Section]:
    """Return the settings and where the run comes from."""
    known = {name: record[name] for name in ("argv", "versions", "machine", "started")}
    known["command line"] = " ".join(known.pop("argv"))
    return [
        report.settings_table(settings, Settings().to_json()),
        report.provenance(known),
    ]
