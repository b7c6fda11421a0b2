"""The report's section on calibration: whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audio.markup import el, number, text
from audio.page import Section
from audio.pieces import figure, interval_words, legend_of, table_of
from audio.svg import Scale, axes, label, line, polyline, svg

Row = Mapping[str, Any]


def reliability_section(
    before: Row, after: Row, *, temperatures: Sequence[float], split: str
) -> Section:
    """Return the reliability diagram and the calibration error, before and after the temperature.

    before, after: {"calibration_error", "reliability"} of `audio.metrics.evaluate`. temperatures:
    the model's, or of a cross-validation each fold's.
    """
    chart = reliability_diagram(before["reliability"], after["reliability"], split=split)
    body = legend_of(
        ("blue", "with the temperature"), ("orange", "without"), ("soft-stroke", "as it should be")
    ) + figure(chart)
    rows = []
    for name, scores in (("without temperature", before), ("with temperature", after)):
        value, interval = interval_words(scores["calibration_error"])
        rows.append([text(name), value, text(interval)])
    body += table_of(
        "Expected calibration error, 15 bins", ["", "error", "95 % interval"], rows
    )  # fmt: skip
    body += table_of(
        "By probability of the first choice, with the temperature",
        ["from", "to", "clips", "mean probability", "accuracy"],
        [
            [number(b["low"], 2), number(b["high"], 2), number(b["n"]), number(b["confidence"]),
             number(b["accuracy"])]
            for b in after["reliability"]
        ],
    )  # fmt: skip
    fitted = "was fitted on the validation clips alone and is part of the model."
    which = f"The temperature {temperatures[0]:.3g} {fitted}"
    if len(temperatures) > 1:
        ends = f"{min(temperatures):.3g} to {max(temperatures):.3g}"
        which = f"Each fold's temperature ({ends}) {fitted}"
    lead = f"Of the clips whose first choice gets 80 %, 80 % should be right. {which}"
    return Section(f"Whether its probabilities can be trusted ({split})", body, lead)


def reliability_diagram(before: Sequence[Row], after: Sequence[Row], *, split: str) -> str:
    """Return accuracy over the probability of the first choice; a dot a bin, larger for more
    clips."""
    width, height = 400, 330
    x, y = Scale(0, 1, 46, width - 16), Scale(0, 1, height - 46, 34)
    parts = axes(x, y, "probability of the first choice", "accuracy")
    parts += [label(x(v), y.start + 18, f"{v:g}", "soft mid") for v in (0.2, 0.4, 0.6, 0.8)]
    parts.append(line(x(0), y(0), x(1), y(1), "mark"))
    for rows, kind in ((before, 2), (after, 1)):
        total = sum(row["n"] for row in rows) or 1
        points = [(x(row["confidence"]), y(row["accuracy"])) for row in rows]
        parts.append(el("path", d=polyline(points), class_=f"line s{kind}"))
        for row, (px, py) in zip(rows, points, strict=True):
            about = (
                f"{row['n']} clips from {row['low']:.2f} to {row['high']:.2f}: mean probability "
                f"{row['confidence']:.3f}, accuracy {row['accuracy']:.3f}"
            )
            radius = 3 + 7 * (row["n"] / total) ** 0.5
            parts.append(
                el("circle", el("title", text(about)), cx=px, cy=py, r=radius, class_=f"t{kind}")
            )
    alt = f"Reliability of the {split} split in {len(after)} bins: " + "; ".join(
        f"{b['confidence']:.2f} said, {b['accuracy']:.2f} right" for b in after
    )
    return svg(width, height, *parts, alt=alt)
