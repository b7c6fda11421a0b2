"""The sections of a search's report: its trials, what was learnt, and what is recommended.

Like `audio.report`, from plain JSON-ready data.
"""

from __future__ import annotations

from collections.abc import Sequence

from audio.markup import DASH, duration, el, finite, number, plain, text
from audio.page import Section
from audio.pieces import (
    Row,
    chips,
    choice,
    figure,
    fold_away,
    how_many,
    legend_of,
    table_of,
)
from audio.plots import IntervalRow, around, empty, interval_chart
from audio.search_plots import best_so_far, curves_chart, trial_chart


def reward_curve(
    trials: Sequence[Row], *, path: Sequence[Row] = (), lowest: bool = False,
    notes: Sequence[str] = (), title: str = "The search",
) -> Section:  # fmt: skip
    """Return every trial's score, the best so far and the default's level; and the best ten.

    trials: {"number", "score", "state", "values", "seconds", "phase"}; state is complete,
    failed or pruned, phase is default, random, agent or replicate (a setting tried before).
    path: what the best setting so far is expected to score, {"after", "mean", "low", "high"}.
    lowest: low scores are good. notes: sentences to stand below the chart.
    """
    trials = sorted(trials, key=lambda t: finite(t.get("number")) or 0.0)
    if not trials:
        return Section(title, empty("No trial was run."))
    states = [t.get("state", "complete") for t in trials]
    counted = [f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states]
    best = best_so_far(trials, lowest=lowest)[-1]
    seconds = sum(finite(t.get("seconds")) or 0.0 for t in trials)
    lead = (
        f"{how_many(len(trials), 'trial')} ({', '.join(counted)}), {duration(seconds)} of training."
    )
    marks = [
        ("diamond", "default", any(t.get("phase") == "default" for t in trials)),
        ("ring", "random", any(t.get("phase") == "random" for t in trials)),
        ("disc", "agent", any(t.get("phase") == "agent" for t in trials)),
        ("disc", "trial", any(t.get("phase") == "trial" for t in trials)),
        ("blue-ring", "tried again", any(t.get("phase") == "replicate" for t in trials)),
        ("faint", "pruned", "pruned" in states),
        ("cross", "failed", "failed" in states),
        ("stroke", "best so far, expected" if path else "best so far", True),
        ("band", "its 95 % interval", bool(path)),
    ]
    legend = legend_of(*((kind, words) for kind, words, there in marks if there))
    chart = trial_chart(
        trials, path=path, lowest=lowest,
        alt=f"Score of {len(trials)} trials in order; the best is {number(best)}.",
    )  # fmt: skip
    default = next((t.get("values") or {} for t in trials if t.get("phase") == "default"), {})
    done = [
        t for t, s in zip(trials, states, strict=True)
        if s == "complete" and finite(t.get("score")) is not None
    ]  # fmt: skip
    top = sorted(done, key=lambda t: finite(t["score"]) or 0.0, reverse=not lowest)[:10]
    rows = [
        [number(t.get("number")), text(plain(t.get("phase"))),
         chips(t.get("values") or {}, default),
         number(t["score"], 4), duration(t.get("seconds"))]
        for t in top
    ]  # fmt: skip
    heads = ["trial", "", "differs from the default in", "score", "time"]
    table = table_of("The best trials", heads, rows, words=3)
    fold = fold_away(f"The best {how_many(len(top), 'trial')}", table)
    if path:
        lead += (
            " The line is what the best setting tried so far is expected to score on a fresh "
            "training: a lucky trial does not raise it by all of its luck."
        )
    said = "".join(el("p", text(note), class_="soft") for note in notes)
    return Section(title, legend + figure(chart) + said + fold, lead)


def trial_curves(curves: Sequence[Row], *, title: str = "How the trials learnt") -> Section:
    """Return the score of every trial epoch by epoch.

    curves: {"number", "kind", "points"}; kind is best, default, pruned or other, points are
    (step, score).
    """
    kinds = [c["kind"] for c in curves]
    marks = [
        ("blue-stroke", "the best setting", "best" in kinds),
        ("ink-stroke", "the default setting", "default" in kinds),
        ("soft-stroke", "other trials", "other" in kinds),
        ("cross", "pruned", "pruned" in kinds),
    ]
    legend = legend_of(*((kind, words) for kind, words, there in marks if there))
    chart = curves_chart(curves, alt=f"Score over the epochs of {how_many(len(curves), 'trial')}.")
    lead = (
        "A line a trial. Lines that still rise at their end say that more epochs would help; lines "
        "that cross say that early scores mislead."
    )
    return Section(title, legend + figure(chart), lead)


def evidence(
    seeds: Sequence[Row], difference: Row | None, *, names: tuple[str, str],
    title: str = "The evidence",
) -> Section:  # fmt: skip
    """Return the scores of the recommended and the default setting seed by seed.

    seeds: {"seed", "recommended", "default"}; difference: {"mean", "low", "high"} of recommended
    minus default, or None. names: what the two are called.
    """
    rows, gaps = [], []
    for row in seeds:
        one, other = finite(row.get("recommended")), finite(row.get("default"))
        gap = None if one is None or other is None else one - other
        if gap is not None:
            gaps.append(gap)
        rows.append([text(plain(row.get("seed"))), number(one, 4), number(other, 4),
                     _signed(gap)])  # fmt: skip
    heads = ["seed", *names, "difference"]
    table = table_of("The same fresh seeds for both", heads, rows)
    if difference is None or not gaps:
        return Section(title, table)
    mean, low, high = (finite(difference.get(k)) for k in ("mean", "low", "high"))
    ends = [0.0, *gaps, *(v for v in (mean, low, high) if v is not None)]
    room = 0.06 * (max(ends) - min(ends)) or 0.01
    known = low is not None and high is not None and low < high
    note = f"{_signed(mean)} ({_signed(low)} to {_signed(high)})" if known else _signed(mean)
    chart = interval_chart(
        [IntervalRow("difference", mean, low, high, "recommended", note, f"mean {note}", gaps)],
        (min(ends) - room, max(ends) + room), zero=True, width=800, name_columns=20,
        x_label="mean, 95 % interval", alt=f"Recommended minus default: {note}.",
    )  # fmt: skip
    lead = (
        "A dot is one seed: both settings trained from the same start. Right of the upright line "
        "the recommended setting is better, and an interval that crosses it leaves that open."
    )
    return Section(title, figure(chart) + table, lead)


def _signed(value: float | None) -> str:
    return ("+" if value is not None and value > 0 else "") + number(value)


def costs(
    tiles: Sequence[tuple[str, str]], knobs: Sequence[Row], *, words: str = "",
    title: str = "What it cost",
) -> Section:  # fmt: skip
    """Return figures on time, and for each setting how much longer its values take.

    tiles: (name, value). knobs: {"name", "values": [{"value", "mean", "low", "high", "seconds",
    "n"}]}; mean is a factor on the mean over the setting's values.
    """
    boxes = [
        el("div", el("p", text(name), class_="name"), el("p", text(value), class_="value"),
           class_="tile")
        for name, value in tiles
    ]  # fmt: skip
    body = el("div", *boxes, class_="tiles") if boxes else empty("No trial was timed.")
    body += el("p", text(words), class_="soft") if words else ""
    ends = [e for k in knobs for v in k["values"] for e in (finite(v["low"]), finite(v["high"]))]
    known = [1.0, *(e for e in ends if e is not None)]
    span = (max(0.0, min(known) - 0.05), min(max(known) + 0.05, 10.0))
    cards = []
    for knob in knobs:
        rows = []
        for v in knob["values"]:
            mean, low, high = (finite(v[k]) for k in ("mean", "low", "high"))
            note = f"{number(mean, 2)}× · {duration(v['seconds'])}"
            about = f"{knob['name']}={choice(v['value'])}: {note}, {number(v['n'])} trials"
            rows.append(IntervalRow(choice(v["value"]), mean, low, high, "other", note, about))
        alt = f"Time by {knob['name']}: " + ", ".join(f"{r.name} {r.note}" for r in rows)
        chart = interval_chart(rows, span, alt=alt, x_label="factor · mean time")
        head = el("h3", el("code", text(knob["name"])))
        cards.append(el("div", head, figure(chart), class_="card"))
    lead = "Training time of the trials that ran to their end."
    if cards:
        body += el("div", *cards, class_="cards")
        lead += (
            " The factor compares a value with the others of its setting, what the other settings "
            "cost taken out; the time is the plain mean of its trials."
        )
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
        low, high = around(mean, error)
        ends += scores + [v for v in (mean, low, high) if v is not None]
        is_default = f.get("name") == "default"
        kind = "default" if is_default else "recommended" if mean == best else "other"
        written = f"{number(mean)} ± {number(error)}"
        about = f"{f.get('name')}: {written}; seeds {', '.join(number(s, 4) for s in scores)}"
        name = plain(f.get("name"))
        rows.append(IntervalRow(name, mean, low, high, kind, written, about, scores))
        gain = None if mean is None or base is None or is_default else mean - base
        body.append([
            text(plain(f.get("name"))), chips(f.get("values") or {}, default.get("values") or {}),
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
    legend = legend_of(("disc", "best mean, ± standard error"), ("ring", "default"),
                     ("seed", "one seed"))  # fmt: skip
    heads = ["name", "differs from the default in", "mean score", "gain", "seeds"]
    lead = "Trained again on fresh seeds, so that no lucky trial wins."
    table = table_of("Finalists against the default", heads, body, words=2)
    return Section(title, legend + figure(chart) + table, lead)


def recommendation(
    words: str, changes: Sequence[Row], command: str, *, title: str = "Recommendation"
) -> Section:
    """Return what the search recommends and why, and the command that uses it.

    changes: {"setting", "default", "recommended"}; without default where it has no such setting.
    """
    compared = any("default" in c for c in changes)
    rows = []
    for c in changes:
        was = text(choice(c["default"])) if "default" in c else DASH
        rows.append([
            el("code", text(c.get("setting", ""))),
            *([el("span", was, class_="soft")] if compared else []),
            el("b", text(choice(c.get("recommended")))),
        ])  # fmt: skip
    heads = ["setting", "default", "recommended"] if compared else ["setting", "value"]
    table = table_of("What changes" if compared else "The setting", heads, rows, words=1)
    body = el("p", text(words), class_="words") + (table if rows else "")
    if command:
        body += el("p", "Use it:", class_="soft") + el("pre", el("code", text(command)))
    return Section(title, el("div", body, class_="callout"))
