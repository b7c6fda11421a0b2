"""The report page of a run, from the JSON that the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audio import fold_report, report
from audio.images import read_picture
from audio.page import Section, write_report
from audio.plots import percent
from audio.settings import Settings

_LEAKY = (
    "Leakage was allowed: groups or sounds are on two sides of the split, and these figures are "
    "too good."
)


def write_model_page(folder: Path, results: dict[str, Any], record: dict[str, Any]) -> None:
    """Write report.html of a fitted model."""
    sections = [model_headline(results), *model_sections(folder, results)]
    sections += closing_sections(results["settings"], record)
    write_report(folder / "report.html", title="A fitted classifier", sections=sections)


def model_headline(results: dict[str, Any]) -> Section:
    """Return the headline: the test's accuracy with its interval, else validation's."""
    split = "test" if "test" in results else "validation"
    scores = results[split]
    accuracy = scores["accuracy"]
    leaky = f" {_LEAKY}" if results.get("leakage") else ""
    return report.headline(
        f"{percent(accuracy['value'])} of {scores['n']} {split} clips right",
        f"95 % interval {percent(accuracy['low'])} to {percent(accuracy['high'])} over "
        f"{scores['interval_over']}; macro-F1 {scores['macro_f1']['value']:.3f}; "
        f"{len(results['labels'])} classes; {results['parameters']:,} parameters.{leaky}",
    )


def write_folds_page(folder: Path, results: dict[str, Any], record: dict[str, Any]) -> None:
    """Write report.html of a cross-validation."""
    accuracy, pooled = results["scores"]["accuracy"], results["pooled"]
    macro_f1 = pooled["macro_f1"]
    leaky = f" {_LEAKY}" if results.get("leakage") else ""
    sections = [
        report.headline(
            f"{percent(accuracy['mean'])} of the clips right, mean over "
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
        report.confusion_heatmap(pooled["confusion"], title="What is taken for what (all folds)"),
    ]
    if results["mistakes"]:
        sections.append(report.worst_mistakes(results["mistakes"]))
    sections.append(report.corpus_table(results["corpus"]))
    sections += closing_sections(results["settings"], record)
    write_report(folder / "report.html", title="A cross-validation", sections=sections)


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


def write_search_page(folder: Path, results: dict[str, Any], record: dict[str, Any]) -> None:
    """Write report.html of a search; the winner's model is under `folder`/model."""
    model, found = results["model"], results["recommendation"]
    accuracy = model["test" if "test" in model else "validation"]
    scored = accuracy["accuracy"]
    default = results["default"]["values"]
    sections = [
        report.headline(
            f"{percent(scored['value'])} of {accuracy['n']} held-out clips right",
            f"with the setting that {results['settings']['agent']} recommends after "
            f"{len(results['trials'])} trials; 95 % interval {percent(scored['low'])} to "
            f"{percent(scored['high'])} over {accuracy['interval_over']}. Scored once, at the end.",
        ),
        report.recommendation(found["words"], found["changes"], found["command"]),
        report.reward_curve(trial_rows(results)),
        report.beliefs(belief_rows(results)),
        report.finalists_table(finalist_rows(results)),
        *model_sections(folder / "model", model),
        report.settings_table(model["settings"], _with_default(model["settings"], default)),
        closing_sections(model["settings"], record)[-1],
    ]
    write_report(folder / "report.html", title="A search for settings", sections=sections)


def _with_default(settings: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the default's values in place of the winner's choices."""
    return {
        group: {name: default.get(name, value) for name, value in fields.items()}
        for group, fields in settings.items()
    }


def trial_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials as the reward curve takes them."""
    states = {"complete": "complete", "pruned": "pruned"}
    return [
        {
            "number": trial["number"],
            "score": trial["score"],
            "state": states.get(trial["state"], "failed"),
            "values": trial["values"],
            "seconds": trial.get("seconds"),
            "phase": "default" if trial.get("default") else "agent",
        }
        for trial in results["trials"]
    ]


def belief_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the agent believes of each knob; importance is the span of its estimates."""
    default, best = results["default"]["values"], results["best"]["values"]
    knobs = []
    for name, rows in results["beliefs"].items():
        known = [row["estimate"] for row in rows if row["estimate"] is not None]
        values = [
            {
                "value": row["value"],
                "mean": row["estimate"],
                "sd": row["sd"],
                "n": row["count"],
            }
            for row in rows
        ]
        knob = {"name": name, "values": values}
        knob["importance"] = max(known) - min(known) if known else 0.0
        if name in default:
            knob["default"] = default[name]
        if name in best:
            knob["recommended"] = best[name]
        knobs.append(knob)
    return knobs


def finalist_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the finalists by name, best first."""
    rows = []
    for i, finalist in enumerate(results["finalists"]):
        name = "default" if finalist["is_default"] else f"finalist {i + 1}"
        rows.append({"name": name} | {k: finalist[k] for k in ("values", "scores", "mean")})
        rows[-1]["standard_error"] = finalist["standard_error"]
    return rows
