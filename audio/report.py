"""One self-contained HTML page for a run: what came out, how sure that is, and with what.

The builders take plain JSON-ready data and return sections; `write_report` puts
them on a page that needs no network, no script and no other file.

>>> section = headline("91.3 % of 240 held-out clips right", "test split, scored once")
>>> write_report(Path("report.html"), title="Dogs and cats", sections=[section])  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

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


@dataclass(frozen=True)
class Section:
    """One part of the page: a title (none for the headline), a lead sentence, and markup."""

    title: str
    body: str
    lead: str = ""


# The page


def write_report(path: Path, *, title: str, sections: Sequence[Section]) -> None:
    """Write the page to `path`, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page(title, sections), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the whole page as HTML; sections without a title go to the head of it."""
    named = [s for s in sections if s.title]
    anchors = _anchors([s.title for s in named])
    links = [el("a", text(s.title), href=f"#{a}") for s, a in zip(named, anchors, strict=True)]
    parts = [
        el(
            "section",
            el("div", el("h2", text(s.title)), el("p", text(s.lead)) if s.lead else "",
               class_="lead"),
            el("div", s.body, class_="content"),
            id=anchor,
        )
        for s, anchor in zip(named, anchors, strict=True)
    ]  # fmt: skip
    head = "".join(s.body for s in sections if not s.title)
    nav = el("nav", *links, aria_label="Sections") if links else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # the browser itself then refuses anything that would leave the page
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + el("header", el("p", "melbandit", class_="mark"), el("h1", text(title)), head, nav)
        + "\n"
        + el("main", "\n".join(parts))
        + "\n"
        + el("footer", el("p", "Written by melbandit. This page is one file and needs no network."))
        + "\n</body>\n</html>\n"
    )


def _anchors(titles: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for title in titles:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        seen[slug] = seen.get(slug, 0) + 1
        out.append(slug if seen[slug] == 1 else f"{slug}-{seen[slug]}")
    return out


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


# Blue and orange are told apart by every kind of colour vision (Okabe & Ito 2008); each is
# darkened or lightened until text in it reaches a contrast of 4.5 on its ground.
STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfaf6; --card: #ffffff; --ink: #1c2230; --soft: #5c6374; --line: #e1ded4;
  --blue: #1d5fa9; --orange: #b4500b; --wash: #dfe9f5; --over: #ffffff; --accent: #7a2a80; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #13161c; --card: #1a1e26; --ink: #e9e6df; --soft: #a2a8b6; --line: #303642;
  --blue: #7db4f0; --orange: #f2a35e; --wash: #24344a; --over: #10141b; --accent: #e59be0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans",
  sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
body::before { content: ""; display: block; height: 6px; background: linear-gradient(to right,
  #1f114b, #57147d, #8c2980, #c33b74, #f0605d, #fd9f6c, #fddd9f); }
header, main, footer { max-width: 70rem; margin: 0 auto; padding: 0 2rem; }
header { padding-top: 2.75rem; padding-bottom: 1.5rem; }
h1, h2, .headline { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L",
  P052, Georgia, "Liberation Serif", serif; font-weight: 500; line-height: 1.2; margin: 0; }
.mark { margin: 0 0 .25rem; color: var(--accent); font-size: .8rem; font-weight: 600;
  letter-spacing: .14em; text-transform: uppercase; }
h1 { font-size: 1.5rem; }
.headline { font-size: clamp(1.35rem, 3.2vw, 2.1rem); margin: 2rem 0 .75rem; max-width: 46rem;
  text-wrap: balance; }
.headline strong { font-size: clamp(3.4rem, 9vw, 5.75rem); font-weight: 500; line-height: 1;
  letter-spacing: -.02em; display: block; margin-bottom: .35rem; white-space: nowrap; }
.detail { color: var(--soft); margin: 0; max-width: 46rem; }
nav { display: flex; flex-wrap: wrap; gap: .35rem 1.4rem; margin-top: 2.25rem; font-size: .9rem; }
nav a { color: var(--blue); text-decoration: none; border-bottom: 1px solid var(--line); }
nav a:hover { border-color: currentColor; }
section { display: grid; grid-template-columns: 13.5rem minmax(0, 1fr); gap: 1rem 2.5rem;
  padding: 2.25rem 0 2.5rem; border-top: 1px solid var(--line); }
h2 { font-size: 1.4rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .4rem; display: flex; align-items: baseline;
  justify-content: space-between; flex-wrap: wrap; gap: 0 1rem; }
.lead p { color: var(--soft); font-size: .9rem; margin: .5rem 0 0; }
.content > * + * { margin-top: 1.25rem; }
.content > :first-child { margin-top: 0; }
figure { margin: 0; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
.soft, .empty { color: var(--soft); }
p.soft { font-size: .85rem; margin-block: 0; }
code, pre { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas,
  "Liberation Mono", monospace; font-size: .875em; }
td code, .chip code { overflow-wrap: anywhere; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  margin: .35rem 0 0; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }

table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding-bottom: .4rem; }
tbody th { min-width: 5.5rem; }
th, td { text-align: left; vertical-align: baseline; font-weight: 400;
  padding: .38rem 1rem .38rem 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-size: .82rem; vertical-align: bottom;
  border-bottom-color: var(--soft); }
th:last-child, td:last-child { padding-right: .3rem; }
.n { text-align: right; white-space: nowrap; }
td.bar { background: linear-gradient(to right, var(--wash) var(--share), transparent 0)
  right .3rem top .42rem / 5.5rem 1.35em no-repeat; min-width: 6.2rem; padding-right: .6rem; }
mark { background: var(--wash); color: inherit; font-weight: 600; padding: .1rem .4rem;
  margin-left: -.4rem; border-radius: 4px; }
.chip { display: inline-block; background: var(--wash); border-radius: 999px; margin: .1rem .3rem
  .1rem 0; padding: .05rem .65rem; font-size: .82rem; }
details { border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
summary { cursor: pointer; padding: .6rem 1rem; font-size: .9rem; color: var(--blue); }
details[open] > summary { border-bottom: 1px solid var(--line); }
details > :not(summary) { margin: 1rem; }

.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
.whole { white-space: nowrap; }
.tile, .card, .callout { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 1rem 1.15rem; }
.tile p { margin: 0; }
.tile .name { font-size: .85rem; color: var(--soft); }
.tile .name::first-letter { text-transform: uppercase; }
.tile .value { font-size: 1.9rem; line-height: 1.3; }
.callout { border-left: 4px solid var(--blue); padding: 1.35rem 1.5rem; }
.callout > * + *, .callout > * + p.soft { margin-top: 1.1rem; }
.callout table { width: auto; min-width: min(100%, 30rem); }
.words { font-size: 1.08rem; margin: 0; max-width: 42rem; }
.pair, .cards, .columns, .gallery { display: grid; gap: 1.25rem; }
.pair, .cards { grid-template-columns: repeat(auto-fit, minmax(min(100%, 20.5rem), 1fr)); }
.cards { align-items: start; }
.columns { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.75rem; }
.whisker { min-width: 0 !important; margin: .2rem 0 .3rem; }
.seeds { min-width: 8.5rem; text-align: right; color: var(--soft); }
.weight { font-weight: 400; font-size: .8rem; color: var(--soft); padding-left: 3.6rem;
  background: linear-gradient(to right, var(--accent) var(--share), var(--line) 0)
  left center / 3rem 4px no-repeat; white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; font-size: .85rem;
  color: var(--soft); }
.legend span { display: inline-flex; align-items: center; gap: .45rem; }
.legend i { width: .8rem; height: .8rem; border-radius: 50%; flex: none; }
.legend .blue { background: var(--blue); border-radius: 3px; }
.legend .orange { background: var(--orange); border-radius: 3px; }
.legend .disc { background: var(--blue); }
.legend .grey { background: var(--soft); }
.legend .seed { background: var(--soft); opacity: .5; width: .55rem; height: .55rem; }
.legend .ring { border: 2px solid var(--ink); }
.legend .hollow { border: 1.5px solid var(--soft); }
.legend .faint { background: var(--soft); opacity: .45; }
.legend .diamond { background: var(--ink); border-radius: 0; transform: rotate(45deg) scale(.8); }
.legend .stroke { height: 2px; width: 1.4rem; background: var(--orange); border-radius: 0; }
.legend .cross { border-radius: 0; clip-path: polygon(0 15%, 15% 0, 50% 35%, 85% 0, 100% 15%,
  65% 50%, 100% 85%, 85% 100%, 50% 65%, 15% 100%, 0 85%, 35% 50%); background: var(--orange); }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30%, 14rem), 1fr));
  gap: .9rem; }
.shots figcaption { font-size: .78rem; color: var(--soft); line-height: 1.35; }
.picture { position: relative; }
.picture img { display: block; width: 100%; height: auto; aspect-ratio: 5 / 2; border-radius: 5px;
  object-fit: fill; }
.picture span { position: absolute; left: .3rem; font-size: .65rem; line-height: 1; color: #fff;
  text-shadow: 0 0 3px #000, 0 0 3px #000, 0 0 2px #000; }
.shots figure + figure .picture span { display: none; }
.picture .high { top: .3rem; }
.picture .low { bottom: .3rem; }
.times { display: flex; justify-content: space-between; font-size: .7rem; color: var(--soft);
  line-height: 1.5; }

svg text { font-size: 12px; fill: var(--ink); }
svg text.soft { fill: var(--soft); font-size: 11.5px; }
svg text.tiny { font-size: 10px; }
svg .end { text-anchor: end; }
svg .mid { text-anchor: middle; }
svg .strong { font-weight: 700; }
svg .over { fill: var(--over); }
.grid, .axis, .mark-line, .rail { stroke: var(--line); fill: none; }
.axis { stroke: var(--soft); }
.rail { stroke-width: 2; stroke-linecap: round; }
path.mark { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s1 { stroke: var(--blue); } .t1 { fill: var(--blue) !important; }
.s2 { stroke: var(--orange); } .t2 { fill: var(--orange) !important; }
.hit { fill: transparent; }
.hit:hover { fill: var(--ink); }
.trial.agent { fill: var(--blue); fill-opacity: .75; }
.trial.random { fill: var(--paper); fill-opacity: .5; stroke: var(--soft); stroke-width: 1.4; }
.trial.default { fill: var(--ink); }
.trial.pruned { fill: var(--soft); fill-opacity: .4; }
.trial.failed { stroke: var(--orange); stroke-width: 1.6; fill: none; }
.trial:hover { stroke: var(--ink); stroke-width: 2; }
path.bar { stroke: var(--soft); stroke-width: 2; stroke-linecap: round; }
path.bar.recommended, path.bar.both { stroke: var(--blue); stroke-width: 2.5; }
.dot { fill: var(--soft); }
.dot.recommended { fill: var(--blue); }
.dot.default { fill: var(--card); stroke: var(--ink); stroke-width: 2; }
.dot.both { fill: var(--blue); stroke: var(--ink); stroke-width: 2; }
.seed { fill: var(--soft); fill-opacity: .5; }
.ground { fill: var(--card); stroke: var(--line); }
.hit-cell { fill: var(--blue); } .miss-cell { fill: var(--orange); }
.best { stroke: var(--ink); stroke-width: 2; }

footer p { color: var(--soft); font-size: .8rem; margin: 0; padding: 1.5rem 0 3rem;
  border-top: 1px solid var(--line); }
@media (max-width: 60rem) {
  header, main, footer { padding-left: 1.1rem; padding-right: 1.1rem; }
  section { grid-template-columns: minmax(0, 1fr); padding: 1.75rem 0 2rem; }
  .callout { padding: 1rem; }
}
@media (max-width: 40rem) {
  th, td { padding-right: .6rem; }
  table { font-size: .84rem; }
  td.bar { background: none; min-width: 0; }
  tbody th { min-width: 4rem; }
  .tiles { gap: .7rem; }
  svg.wide text, svg.wide text.soft { font-size: 14px; }
  svg.wide text.tiny { font-size: 12px; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #111; --soft: #555;
    --line: #ccc; --blue: #1d5fa9; --orange: #b4500b; --wash: #dfe9f5; --over: #fff;
    --accent: #7a2a80; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10pt; }
  nav, summary { display: none; }
  section { display: block; padding: 1.25rem 0; }
  .lead { margin-bottom: .75rem; break-after: avoid; }
  details { border: 0; } details > :not(summary) { margin: 0; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  .scroll { overflow: visible; } svg { min-width: 0 !important; }
  figure, .tile, .card, tr, .gallery > div { break-inside: avoid; }
}
"""
