"""Results as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SHOWN_SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "mean_average_precision")
_WIDEST_CONFUSION = 20  # classes; a larger one is for the report page

_SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro f1",
    "micro_f1": "micro f1",
    "mean_average_precision": "mAP",
    "roc_auc": "ROC AUC",
    "calibration_error": "calibration error",
}


def scores_text(split: str, scores: dict[str, Any]) -> str:
    """Return accuracy and macro-F1 with intervals, the per-class report and the confusion."""
    lines = [f"{split}: {scores['n']} clips, 95 % intervals over {scores['interval_over']}"]
    for name, words in _SCORES.items():
        if name not in scores:
            continue
        s = scores[name]
        lines.append(f"  {words:<18} {s['value']:.3f}  ({s['low']:.3f} to {s['high']:.3f})")
    rows = [["class", "precision", "recall", "F1", "clips"]]
    for label, row in scores["per_class"].items():
        figures = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append([label, *figures, str(row["support"])])
    lines += ["", *aligned(rows)]
    if "confusion" not in scores:  # of clips with several labels there is none
        return "\n".join(lines) + "\n"
    labels, counts = scores["confusion"]["labels"], scores["confusion"]["counts"]
    if len(labels) <= _WIDEST_CONFUSION:
        short = [label[:8] for label in labels]
        cells = [[str(n) if n else "." for n in row] for row in counts]
        table = [[label, *row] for label, row in zip(labels, cells, strict=True)]
        lines += ["", "  rows: the true class; columns: what it was taken for"]
        lines += aligned([["", *short], *table])
    return "\n".join(lines) + "\n"


def folds_text(results: dict[str, Any]) -> str:
    """Return the test scores of each fold, and their mean and spread."""
    scores = results["scores"]
    rows = [["fold", *(name.replace("_", " ") for name in scores), "clips"]]
    for fold in results["folds"]:
        rows.append([fold["fold"], *(f"{fold[name]:.3f}" for name in scores), str(fold["n"])])
    for what in ("mean", "deviation"):
        rows.append([what, *(f"{scores[name][what]:.3f}" for name in scores), ""])
    return "\n".join(["test scores by fold", *aligned(rows)]) + "\n"


def survey_text(found: dict[str, Any], title: str) -> str:
    """Return what a survey of a corpus found, for people."""
    lengths = found["duration_s"]
    lines = [f"{title}: {found['clips']:,} clips of {len(found['classes'])} classes"]
    if found["clips"]:
        lines[0] += f", {found['hours']:.2f} hours"
        lines.append(
            f"  lengths {lengths['least']:.2f} to {lengths['most']:.2f} s, median "
            f"{lengths['median']:.2f} s; {len(found['far_from_median'])} clips are 3 times longer "
            "or shorter"
        )
        lines.append(
            f"  largest class {found['imbalance']:.1f} times the smallest; always guessing it is "
            f"right {found['largest_class_share']:.1%} of the time"
        )
    for name, what in (
        ("folds", "folds"),
        ("splits", "splits"),
        ("rates_hz", "Hz"),
        ("channels", "channels"),
        ("formats", "formats"),
    ):
        if found[name]:
            told = ", ".join(f"{value} ({n:,})" for value, n in list(found[name].items())[:12])
            lines.append(f"  {what}: {told}")
    lines.append(f"  groups: {found['groups']:,}" if found["groups"] else "  groups: none named")
    for name, what in (
        ("silent", "are silent throughout (nothing above -60 dBFS)"),
        ("mostly_silent", "are silent for more than half their length"),
        ("clipped", "are clipped (flat tops)"),
    ):
        first = f", the first {found[name][0]}" if found[name] else ""
        lines.append(f"  {len(found[name]):,} clips {what}{first}")
    copies = found["same_content"]
    first = f", the first {' and '.join(copies[0][:2])}" if copies else ""
    lines.append(f"  {len(copies):,} sounds are there more than once, sample for sample{first}")
    if found["unusable"]:
        lines.append(f"  {found['unusable']:,} clips cannot be used and are not in the manifest")
    rows = [["class", "clips", "hours", "groups"]]
    for label, row in found["classes"].items():
        rows.append([label, f"{row['clips']:,}", f"{row['hours']:.3f}", str(row["groups"] or "-")])
    lines += ["", *aligned(rows), ""]
    lines += [f"note: {note}." for note in found["notes"]]
    return "\n".join(lines)


def finals_text(results: dict[str, Any]) -> str:
    """Return a search's finalists, best first, and what it recommends."""
    base = results["default"]["values"]
    rows = [["finalist", "mean", "s.e.", "seeds", "differs from the default in"]]
    for i, finalist in enumerate(results["finalists"]):
        name = "default" if finalist["is_default"] else str(i + 1)
        changed = [f"{k}={v}" for k, v in finalist["values"].items() if v != base.get(k)]
        figures = [_figure(finalist["mean"]), _figure(finalist["standard_error"])]
        rows.append([name, *figures, str(len(finalist["seeds"])), ", ".join(changed) or "nothing"])
    return "\n".join([f"finals: validation {results['reward']}", *aligned(rows, words=(0, 4))])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def aligned(rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> list[str]:
    """Return lines with the cells of a table in columns; those of `words` flush left.

    >>> aligned([["a", "1"], ["bc", "10"]])
    ['  a    1', '  bc  10']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
