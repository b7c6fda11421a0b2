"""One self-contained HTML page for a run: what came out, how sure that is, and with what.

The builders take plain JSON-ready data and return sections; `audio.page` puts them on a page that
needs no network, no script and no other file.

>>> headline("91.3 % of 240 held-out clips right", "test split, scored once").title
''
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from audio.page import Section
from audio.plots import (
    DASH,
    NBSP,
    Cell,
    IntervalRow,
    best_so_far,
    duration,
    el,
    empty,
    finite,
    heat_map,
    interval_chart,
    line_chart,
    number,
    percent,
    picture_uri,
    plain,
    svg,
    text,
    trial_chart,
)

Row = Mapping[str, Any]

ROWS_SHOWN = 12  # of a long list; the rest is folded
ROWS_AT_MOST = 200  # of a very long list; the rest is left to the run's files


# Pieces of a section


def _table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> str:
    """Return a table; cells are markup, the first `words` columns text, the others numbers.

    A cell that already is a `<td>` keeps its own style.
    """
    kinds = [None if i < words else "n" for i in range(len(heads))]
    top = [el("th", text(h), scope="col", class_=k) for h, k in zip(heads, kinds, strict=True)]
    body = []
    for row in rows:
        cells = [
            cell if cell.startswith("<td")
            else el("th", cell, scope="row") if i == 0
            else el("td", cell, class_=kinds[i])
            for i, cell in enumerate(row)
        ]  # fmt: skip
        body.append(el("tr", *cells))
    if not body:
        return empty(f"{caption}: nothing to list.")
    table = el(
        "table", el("caption", text(caption)), el("thead", el("tr", *top)), el("tbody", *body)
    )
    return el("div", table, class_="scroll")


def _bar(content: str, share: object) -> str:
    """Return a table cell with a bar of `share` of its width behind the number."""
    known = min(1.0, max(0.0, finite(share) or 0.0))
    return el("td", content, class_="n bar", style=f"--share:{100 * known:.1f}%")


def _fold(summary: str, *body: str) -> str:
    return el("details", el("summary", text(summary)), *body)


def _folded(items: Sequence[str], shown: int, what: str, kind: str) -> str:
    """Return the items in a box of class `kind`, those after the first `shown` folded away."""
    box = el("div", *items[:shown], class_=kind)
    if len(items) > shown:
        rest = items[shown:]
        box += _fold(f"{len(rest)} more {what}", el("div", *rest, class_=kind))
    return box


def _figure(chart: str, caption: str = "", kind: str | None = None) -> str:
    below = el("figcaption", text(caption)) if caption else ""
    return el("figure", el("div", chart, class_="scroll"), below, class_=kind)


def _choice(value: object) -> str:
    """Return a setting's value in words; None is a choice there and not a gap."""
    return "none" if value is None else plain(value)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _legend(*entries: tuple[str, str]) -> str:
    """Return swatches with their meaning: (class of the swatch, words)."""
    return el("p", *(el("span", el("i", class_=k), text(w)) for k, w in entries), class_="legend")


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key by which `class 2` comes before `class 10`."""
    return tuple(
        (int(part), "") if part.isdecimal() else (-1, part.casefold())
        for part in re.split(r"([0-9]+)", str(name))
    )


def _chips(values: Row, default: Row) -> str:
    """Return the settings that differ from the default as chips `name default → value`."""
    chips = [
        el(
            "span",
            el("code", text(name)),
            el("span", text(f" {_choice(default[name])} → "), class_="soft")
            if name in default
            else " ",
            el("b", text(_choice(value))),
            class_="chip",
        )
        for name, value in values.items()
        if name not in default or default[name] != value
    ]
    return "".join(chips) or el("span", "as the default", class_="soft")


def _interval(estimate: object, write: Any = number) -> tuple[str, str]:
    """Return the value and its interval in words, of `{"value", "low", "high"}` or a number."""
    if not isinstance(estimate, Mapping):
        return write(estimate), ""
    low, high = estimate.get("low"), estimate.get("high")
    if finite(low) is None and finite(high) is None:
        return write(estimate.get("value")), ""
    return write(estimate.get("value")), f"{write(low).removesuffix(f'{NBSP}%')} to {write(high)}"


# Sections


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
        sorted(pictures, key=lambda p: _natural(p[0])), lambda p: p[0]
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
    body = _folded(rows, ROWS_SHOWN, "classes", "gallery") if rows else empty("No pictures.")
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
    labels = sorted({str(r["label"]) for r in rows}, key=_natural)
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
            row.append(_bar(number(cell.get("clips")), (clips or 0.0) / most))
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
    table = _table(caption, heads, body)
    if len(labels) > 2 * ROWS_SHOWN:
        table = _fold(caption, table)
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
    pair = el("div", _figure(loss), _figure(right), class_="pair")
    lead = f"{_count(len(history), 'epoch')} in {duration(seconds)}{kept}."
    return Section(title, pair + _fold("The numbers", _table("Epochs", heads, rows)), lead)


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
        value, interval = _interval(estimate, write)
        tiles.append(
            el(
                "div",
                el("p", text(name.replace("_", " ").replace("f1", "F1")), class_="name"),
                el("p", value, class_="value"),
                _whisker(name, estimate),
                el("p", "95 % interval ", el("span", text(interval), class_="whole"), class_="soft")
                if interval
                else "",
                class_="tile",
            )
        )
    per_class = metrics.get("per_class") or {}
    body = [
        [text(name), *(_bar(number(row.get(k)), row.get(k)) for k in ("precision", "recall", "f1")),
         number(row.get("support"))]
        for name, row in sorted(per_class.items(), key=lambda item: _natural(item[0]))
    ]  # fmt: skip
    table = _table("By class", ["class", "precision", "recall", "F1", "clips"], body)
    if len(body) > 2 * ROWS_SHOWN:
        table = _fold(f"Precision, recall and F1 of {len(body)} classes", table)
    lead = f"Measured on {number(metrics.get('n'))} clips of the {metrics.get('split', '')} split."
    return Section(title, el("div", *tiles, class_="tiles") + (table if body else ""), lead)


def _whisker(name: str, estimate: object) -> str:
    """Return the interval on a scale from 0 to 1, where both ends are on it."""
    if not isinstance(estimate, Mapping):
        return ""
    value, low, high = (finite(estimate.get(k)) for k in ("value", "low", "high"))
    if value is None or low is None or high is None or not 0 <= low <= value <= high <= 1:
        return ""
    at = [2 + 196 * v for v in (low, value, high)]
    return svg(
        200, 14,
        el("path", d="M2 7h196", class_="rail"),
        el("path", d=f"M{at[0]:.1f} 7H{at[2]:.1f}", class_="bar recommended"),
        el("circle", cx=at[1], cy=7, r=4.5, class_="dot recommended"),
        alt=f"{name} {number(value)}, interval {number(low)} to {number(high)}, between 0 and 1.",
        kind="whisker",
    )  # fmt: skip


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
    order = sorted(range(len(given)), key=lambda i: _natural(given[i]))
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
    body = _legend(("blue", "recognised"), ("orange", "mistaken")) + _figure(chart)
    mistakes.sort(key=lambda m: (-m[0], -m[1]))
    rows = [[text(a), text(b), f"{c:g}", _bar(percent(s), s)] for c, s, a, b in mistakes]
    table = _table(
        "The most confused pairs", ["true class", "taken for", "clips", "share"],
        rows[:ROWS_SHOWN], words=2,
    )  # fmt: skip
    if len(labels) > 20:
        body += table
    elif rows:
        body += _fold("The most confused pairs", table)
    lead = "A row per true class. Colour is the share of the row, numbers are clips."
    return Section(title, body, lead)


def worst_mistakes(rows: Sequence[Row], *, title: str = "The surest mistakes") -> Section:
    """Return the clips that the model was most sure of and wrong about.

    rows: {"path", "label", "predicted", "probability"}.
    """
    body = [
        [el("code", text(r.get("path", ""))), text(plain(r.get("label"))),
         text(plain(r.get("predicted"))), _bar(percent(r.get("probability")), r.get("probability"))]
        for r in rows[:ROWS_AT_MOST]
    ]  # fmt: skip
    heads = ["clip", "label", "predicted", "probability"]
    table = _table("Wrong, and sure of it", heads, body, words=3)
    lead = "Worth a listen: some are hard, and some carry the wrong label."
    return Section(title, table if body else empty("No clip was mistaken."), lead)


def reward_curve(trials: Sequence[Row], *, title: str = "The search") -> Section:
    """Return every trial's score, the best so far and the default's level; and the best ten.

    trials: {"number", "score", "state", "values", "seconds", "phase"}; state is complete,
    failed or pruned, phase is default, random or agent.
    """
    trials = sorted(trials, key=lambda t: finite(t.get("number")) or 0.0)
    if not trials:
        return Section(title, empty("No trial was run."))
    states = [t.get("state", "complete") for t in trials]
    counted = [f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states]
    best = best_so_far(trials)[-1]
    seconds = sum(finite(t.get("seconds")) or 0.0 for t in trials)
    lead = (
        f"{_count(len(trials), 'trial')} ({', '.join(counted)}), {duration(seconds)} of training."
    )
    marks = [
        ("diamond", "default", any(t.get("phase") == "default" for t in trials)),
        ("ring", "random", any(t.get("phase") == "random" for t in trials)),
        ("disc", "agent", any(t.get("phase") == "agent" for t in trials)),
        ("faint", "pruned", "pruned" in states),
        ("cross", "failed", "failed" in states),
        ("stroke", "best so far", True),
    ]
    legend = _legend(*((kind, words) for kind, words, there in marks if there))
    chart = trial_chart(
        trials, alt=f"Score of {len(trials)} trials in order; the best is {number(best)}."
    )
    default = next((t.get("values") or {} for t in trials if t.get("phase") == "default"), {})
    done = [
        t for t, s in zip(trials, states, strict=True)
        if s == "complete" and finite(t.get("score")) is not None
    ]  # fmt: skip
    top = sorted(done, key=lambda t: -(finite(t["score"]) or 0.0))[:10]
    rows = [
        [number(t.get("number")), text(plain(t.get("phase"))),
         _chips(t.get("values") or {}, default),
         number(t["score"], 4), duration(t.get("seconds"))]
        for t in top
    ]  # fmt: skip
    heads = ["trial", "phase", "differs from the default in", "score", "time"]
    table = _table("The best trials", heads, rows, words=3)
    fold = _fold(f"The best {_count(len(top), 'trial')}", table)
    return Section(title, legend + _figure(chart) + fold, lead)


def beliefs(knobs: Sequence[Row], *, title: str = "What the agent believes") -> Section:
    """Return one chart per knob: the believed mean score of each value, with its deviation.

    knobs: {"name", "values": [{"value", "mean", "sd", "n"}], "importance"}, and optionally
    "default" and "recommended", which are marked. The most important knob comes first.
    """
    ends = [
        end
        for knob in knobs
        for v in knob["values"]
        if (mean := finite(v.get("mean"))) is not None
        for sd in [finite(v.get("sd")) or 0.0]
        for end in (mean - sd, mean + sd)
    ]
    if not ends:
        return Section(title, empty("The agent has not learned anything yet."))
    room = 0.04 * (max(ends) - min(ends)) or 0.01
    span = (min(ends) - room, max(ends) + room)
    ranked = sorted(knobs, key=lambda k: -(finite(k.get("importance")) or 0.0))
    most = max((finite(k.get("importance")) or 0.0 for k in knobs), default=0.0) or 1.0
    cards = []
    for knob in ranked:
        rows = []
        for v in knob["values"]:
            is_default = "default" in knob and v["value"] == knob["default"]
            is_best = "recommended" in knob and v["value"] == knob["recommended"]
            kind = "both" if is_default and is_best else "default" if is_default else "recommended"
            name = _choice(v["value"])
            about = f"{knob['name']}={name}: {number(v.get('mean'), 4)} ± {number(v.get('sd'), 4)}"
            rows.append(
                IntervalRow(
                    name, finite(v.get("mean")), finite(v.get("sd")),
                    kind if is_default or is_best else "other",
                    f"{number(v.get('mean'))} · {number(v.get('n'))}×",
                    f"{about} after {number(v.get('n'))} trials",
                )
            )  # fmt: skip
        importance = finite(knob.get("importance"))
        share = 100 * (importance or 0.0) / most
        head = el("h3", el("code", text(knob["name"])),
                  el("span", f"importance {number(importance)}", class_="weight",
                     style=f"--share:{share:.0f}%"))  # fmt: skip
        alt = f"Believed score of {knob['name']} at " + ", ".join(
            f"{r.name}: {number(r.mean)}" for r in rows
        )
        cards.append(
            el("div", head, _figure(interval_chart(rows, span, alt=alt, x_label="score, trials")),
               class_="card")
        )  # fmt: skip
    legend = _legend(("disc", "recommended"), ("ring", "default"), ("grey", "other values"))
    lead = (
        "The score the agent expects of each value, one standard deviation either side, "
        "and how often it tried it. The most important settings come first."
    )
    return Section(title, legend + _folded(cards, ROWS_SHOWN, "settings", "cards"), lead)


def pair_heatmaps(pairs: Sequence[Row], *, title: str = "Settings that depend on each other"
) -> Section:  # fmt: skip
    """Return the believed mean score of every pair of values.

    pairs: {"a", "b", "a_values", "b_values", "mean"}; mean[i][j] belongs to a_values[i]
    and b_values[j].
    """
    cards = []
    for pair in pairs:
        a, b = str(pair["a"]), str(pair["b"])
        a_names, b_names = (
            [_choice(v) for v in pair["a_values"]],
            [_choice(v) for v in pair["b_values"]],
        )
        means = {
            (i, j): mean
            for i, row in enumerate(pair["mean"])
            for j, value in enumerate(row)
            if (mean := finite(value)) is not None
        }
        low, high = min(means.values(), default=0.0), max(means.values(), default=0.0)
        cells = {
            (i, j): Cell(
                (mean - low) / (high - low) if high > low else 0.5,
                number(mean),
                title=f"{a}={a_names[i]}, {b}={b_names[j]}: {number(mean, 4)}",
                kind="hit-cell best" if mean == high else "hit-cell",
            )
            for (i, j), mean in means.items()
        }
        for at in itertools.product(range(len(a_names)), range(len(b_names))):
            cells.setdefault(at, Cell(0.0, DASH, kind="ground"))
        chart = heat_map(
            a_names, b_names, cells, row_label=a, column_label=b, cell_px=46,
            alt=f"Believed score of {a} against {b}, from {number(low)} to {number(high)}.",
        )  # fmt: skip
        cards.append(_figure(chart))
    lead = "The expected score of two settings together; the best cell is outlined."
    body = el("div", *cards, class_="cards") if cards else empty("No pair was looked at.")
    return Section(title, body, lead)


def finalists_table(finalists: Sequence[Row], *, title: str = "The final round") -> Section:
    """Return the finalists' scores on fresh seeds, and what sets each apart from the default.

    finalists: {"values", "name", "scores", "mean", "standard_error"}; the one called
    "default" is what the others are compared with.
    """
    if not finalists:
        return Section(title, empty("No final round was held."))
    default = next((f for f in finalists if f.get("name") == "default"), {})
    base = finite(default.get("mean"))
    means = [finite(f.get("mean")) for f in finalists]
    best = max((m for m in means if m is not None), default=None)
    rows, body, ends = [], [], []
    for f, mean in zip(finalists, means, strict=True):
        error = finite(f.get("standard_error"))
        scores = [s for s in map(finite, f.get("scores") or []) if s is not None]
        ends += scores + ([] if mean is None else [mean - (error or 0.0), mean + (error or 0.0)])
        is_default = f.get("name") == "default"
        kind = "default" if is_default else "recommended" if mean == best else "other"
        written = f"{number(mean)} ± {number(error)}"
        about = f"{f.get('name')}: {written}; seeds {', '.join(number(s, 4) for s in scores)}"
        rows.append(IntervalRow(plain(f.get("name")), mean, error, kind, written, about, scores))
        gain = None if mean is None or base is None or is_default else mean - base
        body.append([
            text(plain(f.get("name"))), _chips(f.get("values") or {}, default.get("values") or {}),
            el("td", f"<b>{written}</b>" if mean == best else written, class_="n"),
            ("+" if gain is not None and gain > 0 else "") + number(gain),
            el("td", ", ".join(number(s) for s in scores) or DASH, class_="seeds"),
        ])  # fmt: skip
    room = 0.06 * (max(ends) - min(ends)) or 0.01 if ends else 0.5
    span = (min(ends) - room, max(ends) + room) if ends else (0.0, 1.0)
    chart = interval_chart(
        rows, span, alt="Scores of the finalists: " + "; ".join(r.title for r in rows),
        x_label="mean ± s.e.", width=800, name_columns=20,
    )  # fmt: skip
    legend = _legend(("disc", "best mean, ± standard error"), ("ring", "default"),
                     ("seed", "one seed"))  # fmt: skip
    heads = ["name", "differs from the default in", "mean score", "gain", "seeds"]
    lead = "Trained again on fresh seeds, so that no lucky trial wins."
    table = _table("Finalists against the default", heads, body, words=2)
    return Section(title, legend + _figure(chart) + table, lead)


def recommendation(
    words: str, changes: Sequence[Row], command: str, *, title: str = "Recommendation"
) -> Section:
    """Return what the search recommends and why, and the command that uses it.

    changes: {"setting", "default", "recommended"}.
    """
    rows = [
        [el("code", text(c.get("setting", ""))),
         el("span", text(_choice(c.get("default"))), class_="soft"),
         el("b", text(_choice(c.get("recommended"))))]
        for c in changes
    ]  # fmt: skip
    table = _table("What changes", ["setting", "default", "recommended"], rows, words=1)
    body = el("p", text(words), class_="words") + (table if rows else "")
    if command:
        body += el("p", "Use it:", class_="soft") + el("pre", el("code", text(command)))
    return Section(title, el("div", body, class_="callout"))


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
            shown = text(_choice(value))
            was = text(_choice(usual[name])) if name in usual else DASH
            rows.append([
                el("code", text(name)), el("mark", shown) if differs else shown,
                *([] if default is None else [was]),
            ])  # fmt: skip
        heads = ["setting", "value", "default"][: 2 if default is None else 3]
        tables.append(_table(group, heads, rows))
    differ = "" if default is None else f"; {changed} differ from the default"
    summary = f"{total} settings{differ}"
    return Section(title, _fold(summary, el("div", *tables, class_="columns")))


def provenance(record: Row, *, title: str = "Where this comes from") -> Section:
    """Return the command line, versions, seed, machine and date as they were recorded."""
    rows: list[list[str]] = []
    for name, value in record.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, leaf in inner:
            words = f"{name} {key}".replace("_", " ").strip()
            rows.append([text(words), el("td", el("code", text(plain(leaf))))])
    table = _table("Record of the run", ["what", "value"], rows, words=2)
    return Section(title, _fold("Command line, versions and machine", table))
