"""The report page of a run, from the JSON that the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audio import report
from audio.images import read_picture
from audio.page import Section, write_report
from audio.plots import percent
from audio.settings import Settings


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
    split = "test" if "test" in results else "validation"
    scores = results[split]
    accuracy = scores["accuracy"]
    return report.headline(
        f"{percent(accuracy['value'])} of {scores['n']} {split} clips right",
        f"95 % interval {percent(accuracy['low'])} to {percent(accuracy['high'])} over "
        f"{scores['interval_over']}; macro-F1 {scores['macro_f1']['value']:.3f}; "
        f"{len(results['labels'])} classes; {results['parameters']:,} parameters.",
    )


def model_sections(folder: Path, results: dict[str, Any]) -> list[Section]:
    """Return what there is to see of one fitted model."""
    spectrogram = Settings.from_json(results["settings"]).spectrogram
    sections: list[Section] = []
    for split, title in (("test", "On the test clips"), ("validation", "On the validation clips")):
        if split in results:
            sections.append(report.metrics_table({"split": split} | results[split], title=title))
            sections.append(
                report.confusion_heatmap(
                    results[split]["confusion"], title=f"What is taken for what ({split})"
                )
            )
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
    history = results["history"]
    sections.append(report.learning_curves(history, chosen_epoch=int(history[-1]["epoch"])))
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
