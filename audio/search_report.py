"""The sections of a search's report: its trials, what was learnt, and what is recommended.

Like `audio.report`, from plain JSON-ready data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from audio.page import Section
from audio.pieces import (
    ROWS_SHOWN,
    Row,
    chips,
    choice,
    figure,
    fold_away,
    folded,
    how_many,
    legend_of,
    table_of,
)
from audio.plots import (
    DASH,
    Cell,
    IntervalRow,
    duration,
    el,
    empty,
    finite,
    heat_map,
    interval_chart,
    number,
    plain,
    text,
)
from audio.search_plots import best_so_far, trial_chart


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
        f"{how_many(len(trials), 'trial')} ({', '.join(counted)}), {duration(seconds)} of training."
    )
    marks = [
        ("diamond", "default", any(t.get("phase") == "default" for t in trials)),
        ("ring", "random", any(t.get("phase") == "random" for t in trials)),
        ("disc", "agent", any(t.get("phase") == "agent" for t in trials)),
        ("faint", "pruned", "pruned" in states),
        ("cross", "failed", "failed" in states),
        ("stroke", "best so far", True),
    ]
    legend = legend_of(*((kind, words) for kind, words, there in marks if there))
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
         chips(t.get("values") or {}, default),
         number(t["score"], 4), duration(t.get("seconds"))]
        for t in top
    ]  # fmt: skip
    heads = ["trial", "phase", "differs from the default in", "score", "time"]
    table = table_of("The best trials", heads, rows, words=3)
    fold = fold_away(f"The best {how_many(len(top), 'trial')}", table)
    return Section(title, legend + figure(chart) + fold, lead)


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
            name = choice(v["value"])
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
            el("div", head, figure(interval_chart(rows, span, alt=alt, x_label="score, trials")),
               class_="card")
        )  # fmt: skip
    legend = legend_of(("disc", "recommended"), ("ring", "default"), ("grey", "other values"))
    lead = (
        "The score the agent expects of each value, one standard deviation either side, "
        "and how often it tried it. The most important settings come first."
    )
    return Section(title, legend + folded(cards, ROWS_SHOWN, "settings", "cards"), lead)


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
            [choice(v) for v in pair["a_values"]],
            [choice(v) for v in pair["b_values"]],
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
        cards.append(figure(chart))
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

    changes: {"setting", "default", "recommended"}.
    """
    rows = [
        [el("code", text(c.get("setting", ""))),
         el("span", text(choice(c.get("default"))), class_="soft"),
         el("b", text(choice(c.get("recommended"))))]
        for c in changes
    ]  # fmt: skip
    table = table_of("What changes", ["setting", "default", "recommended"], rows, words=1)
    body = el("p", text(words), class_="words") + (table if rows else "")
    if command:
        body += el("p", "Use it:", class_="soft") + el("pre", el("code", text(command)))
    return Section(title, el("div", body, class_="callout"))
