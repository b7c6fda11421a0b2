"""The report's section on a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audio.markup import duration, el, finite, number, percent, text
from audio.page import Section
from audio.plots import IntervalRow, interval_chart

Row = Mapping[str, Any]


def folds_table(
    folds: Sequence[Row], scores: Mapping[str, Row], *, title: str = "Fold by fold"
) -> Section:
    """Return each fold's test accuracy as a point, and the folds' scores with mean and spread.

    folds: {"fold", "n", "accuracy", "seconds"} and what else `scores` names. scores: by name
    {"mean", "deviation", ...}.
    """
    rows = [
        IntervalRow(
            f"fold {fold['fold']}",
            finite(fold["accuracy"]),
            None,
            None,
            "other",
            percent(fold["accuracy"]),
            f"fold {fold['fold']}: {percent(fold['accuracy'])} of {fold['n']} clips right",
            [],
        )
        for fold in folds
    ]
    mean, deviation = scores["accuracy"]["mean"], scores["accuracy"]["deviation"]
    written = f"{percent(mean)} ± {percent(deviation)}"
    rows.append(
        IntervalRow(
            "mean",
            mean,
            mean - deviation,
            mean + deviation,
            "recommended",
            written,
            f"mean over folds: {written}",
            [],
        )
    )
    ends = [fold["accuracy"] for fold in folds] + [mean - deviation, mean + deviation]
    room = 0.06 * (max(ends) - min(ends)) or 0.01
    chart = interval_chart(
        rows,
        (max(0.0, min(ends) - room), min(1.0, max(ends) + room)),
        alt="Test accuracy of each fold: " + "; ".join(row.title for row in rows),
        x_label="test accuracy; mean ± standard deviation over the folds",
        width=800,
        name_columns=20,
    )
    heads = ["fold", "clips", *(name.replace("_", " ").replace("f1", "F1") for name in scores)]
    heads.append("time")
    body = [
        [
            f"fold {fold['fold']}",
            number(fold["n"]),
            *(percent(fold[k]) if "accuracy" in k else number(fold[k]) for k in scores),
            duration(fold["seconds"]),
        ]
        for fold in folds
    ]
    for what, name in (("mean", "mean"), ("deviation", "standard deviation")):
        values = [scores[k][what] for k in scores]
        cells = [
            percent(v) if "accuracy" in k else number(v)
            for k, v in zip(scores, values, strict=True)
        ]
        body.append([name, "", *cells, ""])
    lead = (
        "Each fold is the test once; its network was trained on clips of the other folds alone. "
        "Its own page is in its folder."
    )
    return Section(
        title, el("figure", el("div", chart, class_="scroll")) + _table(heads, body), lead
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = [el("th", text(h), scope="col", class_="n" if i else None) for i, h in enumerate(heads)]
    body = [
        el(
            "tr",
            el("th", text(row[0]), scope="row"),
            *(el("td", text(cell), class_="n") for cell in row[1:]),
        )
        for row in rows
    ]
    caption = el("caption", text("Scores on the test clips of each fold"))
    table = el("table", caption, el("thead", el("tr", *top)), el("tbody", *body))
    return el("div", table, class_="scroll")
