"""One self-contained HTML page for a run: what came out, how sure that is, and with what.

The builders take plain JSON-ready data and return sections; `audio.page` puts them on a page that
needs no network, no script and no other file.

>>> headline("91.3 % of 240 held-out clips right", "test split, scored once").title
''
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy.typing as npt

from audio.markup import DASH, duration, el, finite, number, percent, plain, text
from audio.page import Section
from audio.pieces import (
    ROWS_AT_MOST,
    ROWS_SHOWN,
    Row,
    bar_cell,
    choice,
    figure,
    fold_away,
    folded,
    how_many,
    interval_words,
    legend_of,
    natural,
    table_of,
    whisker,
)
from audio.plots import Cell, empty, heat_map, line_chart, picture_uri


def headline(headline_text: str, detail: str = "") -> Section:
    """Return the run's result in large type; a number it begins with is set larger still."""
    found = re.match(r"\s*([−+-]?[\d.,]*\d(?:\s?%)?)(?=\s)(.*)", headline_text, re.DOTALL)
    if found:
        words = el("strong", text(found[1])) + el("span", text(found[2]))
    else:
        words = el("span", text(headline_text))
    below = el("p", text(detail), class_="detail") if detail else ""
    return Section("", el("p", words, class_="headline") + below)


def spectrogram_gallery(
    pictures: Sequence[tuple[str, str, npt.ArrayLike]],
    *,
    duration_s: float | None = None,
    f_min_hz: float = 0.0,
    f_max_hz: float | None = None,
    title: str = "What the model sees",
) -> Section:
    """Return the pictures class by class, low frequencies at the bottom.

    pictures: (label, caption, uint8 (n_mels, n_frames), row 0 the lowest band).
    duration_s, f_min_hz, f_max_hz: what a picture spans, written at its edges.
    """
    low = f"{f_min_hz / 1000:g}"
    high = "" if f_max_hz is None else f"{f_max_hz / 1000:g} kHz"
    end = "" if duration_s is None else f"{duration_s:.3g} s"
    rows = []
    for name, group in itertools.groupby(
        sorted(pictures, key=lambda p: natural(p[0])), lambda p: p[0]
    ):
        shots = []
        for _, caption, levels in group:
            about = f"Mel-spectrogram of {name}: {caption}"
            image = el("img", src=picture_uri(levels), alt=about)
            marks = ""
            if high:
                marks += el("span", text(high), class_="high") + el("span", low, class_="low")
            times = el("span", "0") + el("span", text(end)) if end else ""
            shots.append(
                el("figure", el("div", image, marks, class_="picture"),
                   el("div", times, class_="times"),
                   el("figcaption", text(caption)))
            )  # fmt: skip
        rows.append(el("div", el("h3", text(name)), el("div", *shots, class_="shots")))
    body = folded(rows, ROWS_SHOWN, "classes", "gallery") if rows else empty("No pictures.")
    lead = (
        "Time runs to the right, pitch upwards on the mel scale, and brighter is louder: "
        "a few clips of every class, as pictures."
    )
    return Section(title, body, lead)


def corpus_table(rows: Sequence[Row], *, title: str = "The clips") -> Section:
    """Return the counts of clips and groups, a row per class and a column per split.

    rows: {"split", "label", "clips", "groups"}.
    """
    order = {"train": 0, "validation": 1, "test": 2}
    splits = sorted({str(r["split"]) for r in rows}, key=lambda s: (order.get(s, 3), s))
    labels = sorted({str(r["label"]) for r in rows}, key=natural)
    cells = {(str(r["label"]), str(r["split"])): r for r in rows}
    most = max((finite(r.get("clips")) or 0.0 for r in rows), default=0.0) or 1.0
    total = sum(int(finite(r.get("clips")) or 0) for r in rows)
    grouped = any(finite(r.get("groups")) is not None for r in rows)
    heads = ["class"]
    for split in splits:
        heads += [split, "groups"] if grouped else [split]
    body = []
    for name in labels:
        row = [text(name)]
        for split in splits:
            cell = cells.get((name, split), {})
            clips = finite(cell.get("clips"))
            row.append(bar_cell(number(cell.get("clips")), (clips or 0.0) / most))
            row += [number(cell.get("groups"))] if grouped else []
        body.append(row)
    sums = ["all"]
    for split in splits:
        known = [finite(r.get("clips")) for r in rows if str(r["split"]) == split]
        sums.append(number(int(sum(k for k in known if k is not None))))
        sums += [""] if grouped else []  # a group may hold several classes: sums would mislead
    if body:
        body.append([el("b", s) if s else "" for s in sums])
    caption = f"Clips per class and split: {total} clips of {len(labels)} classes"
    table = table_of(caption, heads, body)
    if len(labels) > 2 * ROWS_SHOWN:
        table = fold_away(caption, table)
    lead = (
        "Clips of one group (a speaker, a recording) stay on one side, "
        "so that the test measures new ones."
    )
    return Section(title, table, lead)


def learning_curves(
    history: Sequence[Row], *, chosen_epoch: int | None = None, title: str = "Training"
) -> Section:
    """Return loss and accuracy over the epochs, the chosen epoch marked.

    history: {"epoch", "train_loss", "validation_loss", "validation_accuracy",
    "learning_rate", "seconds"}. chosen_epoch: whose weights were kept; None takes the
    first of greatest validation accuracy.
    """
    if not history:
        return Section(title, empty("No epoch was trained."))
    numbered = [finite(row.get("epoch")) for row in history]
    epochs = [float(i + 1) if e is None else e for i, e in enumerate(numbered)]
    accuracy = [finite(row.get("validation_accuracy")) for row in history]
    known = [a for a in accuracy if a is not None]
    if chosen_epoch is None and known:
        chosen_epoch = int(epochs[accuracy.index(max(known))])
    mark = None if chosen_epoch is None else (float(chosen_epoch), f"kept: {chosen_epoch}")
    kept = "" if chosen_epoch is None else f", epoch {chosen_epoch} was kept"

    def column(name: str) -> list[float | None]:
        return [finite(row.get(name)) for row in history]

    loss = line_chart(
        [("train", column("train_loss")), ("validation", column("validation_loss"))],
        epochs, x_label="epoch", y_label="loss", mark=mark,
        alt=f"Training and validation loss over {len(history)} epochs{kept}.",
    )  # fmt: skip
    right = line_chart(
        [("validation", [None if a is None else 100 * a for a in accuracy])],
        epochs, x_label="epoch", y_label="accuracy, %", mark=mark,
        alt=f"Validation accuracy over {len(history)} epochs{kept}.",
    )  # fmt: skip
    names = ("train_loss", "validation_loss", "validation_accuracy")
    step = -(-len(history) // ROWS_AT_MOST)
    listed = [row for i, row in enumerate(history) if i % step == 0 or epochs[i] == chosen_epoch]
    rows = [
        [
            text(plain(row.get("epoch"))) + (" (kept)" if row.get("epoch") == chosen_epoch else ""),
            *(number(row.get(name), 4) for name in names),
            text(plain(row.get("learning_rate"))),
            number(row.get("seconds"), 1),
        ]
        for row in listed
    ]
    heads = ["epoch", "train loss", "validation loss", "validation accuracy", "learning rate", "s"]
    seconds = sum(finite(row.get("seconds")) or 0.0 for row in history)
    pair = el("div", figure(loss), figure(right), class_="pair")
    lead = f"{how_many(len(history), 'epoch')} in {duration(seconds)}{kept}."
    return Section(title, pair + fold_away("The numbers", table_of("Epochs", heads, rows)), lead)


def metrics_table(metrics: Row, *, title: str = "How well it does") -> Section:
    """Return the estimates with their intervals, and precision, recall and F1 by class.

    metrics: {"split", "n", "accuracy", "macro_f1", "per_class", ...}; every further key
    whose value is a number or {"value", "low", "high"} is shown too.
    """
    tiles = []
    for name, estimate in metrics.items():
        whole = estimate.get("value") if isinstance(estimate, Mapping) else estimate
        is_estimate = isinstance(estimate, Mapping) and "value" in estimate
        if name == "n" or not (is_estimate or finite(whole) is not None):
            continue
        write = percent if "accuracy" in name else number
        value, interval = interval_words(estimate, write)
        tiles.append(
            el(
                "div",
                el("p", text(name.replace("_", " ").replace("f1", "F1")), class_="name"),
                el("p", value, class_="value"),
                whisker(name, estimate),
                el("p", "95 % interval ", el("span", text(interval), class_="whole"), class_="soft")
                if interval
                else "",
                class_="tile",
            )
        )
    per_class = metrics.get("per_class") or {}
    body = [
        [text(name),
         *(bar_cell(number(row.get(k)), row.get(k)) for k in ("precision", "recall", "f1")),
         number(row.get("support"))]
        for name, row in sorted(per_class.items(), key=lambda item: natural(item[0]))
    ]  # fmt: skip
    table = table_of("By class", ["class", "precision", "recall", "F1", "clips"], body)
    if len(body) > 2 * ROWS_SHOWN:
        table = fold_away(f"Precision, recall and F1 of {len(body)} classes", table)
    lead = f"Measured on {number(metrics.get('n'))} clips of the {metrics.get('split', '')} split."
    return Section(title, el("div", *tiles, class_="tiles") + (table if body else ""), lead)


def row_shares(counts: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return every count as a share of its row; a row without clips stays 0.

    >>> row_shares([[3, 1], [0, 0]])
    [[0.75, 0.25], [0.0, 0.0]]
    """
    return [[(c / sum(row) if sum(row) else 0.0) for c in row] for row in counts]


def confusion_heatmap(confusion: Row, *, title: str = "What is taken for what") -> Section:
    """Return counts and row shares, classes sorted; from 20 classes on also the worst pairs.

    confusion: {"labels", "counts"}; counts[i][j] clips of class i were taken for class j.
    """
    given = [str(name) for name in confusion.get("labels", [])]
    order = sorted(range(len(given)), key=lambda i: natural(given[i]))
    labels = [given[i] for i in order]
    counts = [[finite(confusion["counts"][i][j]) or 0.0 for j in order] for i in order]
    if not labels:
        return Section(title, empty("No clip was scored."))
    shares = row_shares(counts)
    cells = {}
    mistakes = []
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if not count:
                continue
            share, of = shares[i][j], f"of {sum(row):g} clips, {percent(shares[i][j])}"
            verb = "recognised" if i == j else f"taken for {labels[j]}"
            cells[i, j] = Cell(
                share, f"{count:g}", percent(share).replace("\xa0", ""),
                f"{labels[i]} {verb}: {count:g} {of}", "hit-cell" if i == j else "miss-cell",
            )  # fmt: skip
            if i != j:
                mistakes.append((count, share, labels[i], labels[j]))
    right = sum(counts[i][i] for i in range(len(labels)))
    chart = heat_map(
        labels, labels, cells, row_label="true class", column_label="predicted class",
        alt=f"Confusion matrix of {len(labels)} classes: {right:g} of "
        f"{sum(map(sum, counts)):g} clips on the diagonal.",
    )  # fmt: skip
    body = legend_of(("blue", "recognised"), ("orange", "mistaken")) + figure(chart)
    mistakes.sort(key=lambda m: (-m[0], -m[1]))
    rows = [[text(a), text(b), f"{c:g}", bar_cell(percent(s), s)] for c, s, a, b in mistakes]
    table = table_of(
        "The most confused pairs", ["true class", "taken for", "clips", "share"],
        rows[:ROWS_SHOWN], words=2,
    )  # fmt: skip
    if len(labels) > 20:
        body += table
    elif rows:
        body += fold_away("The most confused pairs", table)
    lead = "A row per true class. Colour is the share of the row, numbers are clips."
    return Section(title, body, lead)


def worst_mistakes(rows: Sequence[Row], *, title: str = "The surest mistakes") -> Section:
    """Return the clips that the model was most sure of and wrong about.

    rows: {"path", "label", "predicted", "probability"}.
    """
    body = [
        [el("code", text(r.get("path", ""))), text(plain(r.get("label"))),
         text(plain(r.get("predicted"))),
         bar_cell(percent(r.get("probability")), r.get("probability"))]
        for r in rows[:ROWS_AT_MOST]
    ]  # fmt: skip
    heads = ["clip", "label", "predicted", "probability"]
    table = table_of("Wrong, and sure of it", heads, body, words=3)
    lead = "Worth a listen: some are hard, and some carry the wrong label."
    return Section(title, table if body else empty("No clip was mistaken."), lead)


def settings_table(
    settings: Mapping[str, Row],
    default: Mapping[str, Row] | None = None,
    *,
    title: str = "All settings",
) -> Section:
    """Return every setting by group, those that differ from the default emphasised."""
    tables, changed, total = [], 0, 0
    for group, values in settings.items():
        usual = (default or {}).get(group, {})
        rows = []
        for name, value in values.items():
            total += 1
            differs = default is not None and (name not in usual or usual[name] != value)
            changed += differs
            shown = text(choice(value))
            was = text(choice(usual[name])) if name in usual else DASH
            rows.append([
                el("code", text(name)), el("mark", shown) if differs else shown,
                *([] if default is None else [was]),
            ])  # fmt: skip
        heads = ["setting", "value", "default"][: 2 if default is None else 3]
        tables.append(table_of(group, heads, rows))
    differ = "" if default is None else f"; {changed} differ from the default"
    summary = f"{total} settings{differ}"
    return Section(title, fold_away(summary, el("div", *tables, class_="columns")))


def provenance(record: Row, *, title: str = "Where this comes from") -> Section:
    """Return the command line, versions, seed, machine and date as they were recorded."""
    rows: list[list[str]] = []
    for name, value in record.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, leaf in inner:
            words = f"{name} {key}".replace("_", " ").strip()
            rows.append([text(words), el("td", el("code", text(plain(leaf))))])
    table = table_of("Record of the run", ["what", "value"], rows, words=2)
    return Section(title, fold_away("Command line, versions and machine", table))
