"""The sections of a report on what was learnt of settings: each, pairs of them, what matters.

Like `audio.report`, from plain JSON-ready data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from audio.markup import DASH, el, finite, number, percent, text
from audio.page import Section
from audio.pieces import (
    ROWS_SHOWN,
    Row,
    bar_cell,
    choice,
    figure,
    fold_away,
    folded,
    legend_of,
    table_of,
)
from audio.plots import Cell, IntervalRow, around, empty, heat_map, interval_chart
from audio.search_plots import share_chart


def beliefs(
    knobs: Sequence[Row], *, own: bool = False, title: str = "What the agent believes"
) -> Section:
    """Return one chart per knob: the believed mean score of each value, with its deviation.

    knobs: {"name", "values": [{"value", "mean", "sd", "n"}], "importance"}, and optionally
    "default" and "recommended", which are marked. The most important knob comes first. own: the
    figures are an agent's own, plain averages, and importance is the range of them.
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
            name, mean = choice(v["value"]), finite(v.get("mean"))
            about = f"{knob['name']}={name}: {number(v.get('mean'), 4)} ± {number(v.get('sd'), 4)}"
            rows.append(
                IntervalRow(
                    name, mean, *around(mean, finite(v.get("sd"))),
                    kind if is_default or is_best else "other",
                    f"{number(v.get('mean'))} · {number(v.get('n'))}×",
                    f"{about} after {number(v.get('n'))} trials",
                )
            )  # fmt: skip
        importance = finite(knob.get("importance"))
        share = 100 * (importance or 0.0) / most
        head = el("h3", el("code", text(knob["name"])),
                  el("span", number(importance) if own else percent(importance), class_="weight",
                     style=f"--share:{share:.0f}%"))  # fmt: skip
        alt = f"Believed score of {knob['name']} at " + ", ".join(
            f"{r.name}: {number(r.mean)}" for r in rows
        )
        chart = interval_chart(rows, span, alt=alt, x_label="score, trials", name_columns=18)
        cards.append(el("div", head, figure(chart), class_="card"))
    marks = [("disc", "recommended"), ("ring", "default"), ("grey", "other values")]
    legend = legend_of(
        *((k, w) for k, w in marks if w == "other values" or any(w in x for x in knobs))
    )
    lead = (
        "The score expected of each value over all settings of the others, one standard deviation "
        "either side, and how often it was tried. The most important settings come first."
    )
    if own:
        lead = (
            "The average score of the trials with each value, its standard error where the agent "
            "keeps one, and how often it was tried. Nothing is taken out of what the other "
            "settings did in those trials."
        )
    return Section(title, legend + folded(cards, ROWS_SHOWN, "settings", "cards"), lead)


def pair_heatmaps(pairs: Sequence[Row], *, title: str = "Settings in pairs"
) -> Section:  # fmt: skip
    """Return the believed mean score of every pair of values.

    pairs: {"a", "b", "a_values", "b_values", "mean"}; mean[i][j] belongs to a_values[i]
    and b_values[j]. Optionally "sd" and "interaction" (what `mean` has beyond the two settings'
    own effects) of the same shape, "share" of the variance, and "lowest" where low is good.
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
        best = low if pair.get("lowest") else high
        cells = {
            (i, j): Cell(
                abs(mean - (high if pair.get("lowest") else low)) / (high - low)
                if high > low
                else 0.5,
                number(mean),
                title=f"{a}={a_names[i]}, {b}={b_names[j]}: {number(mean, 4)}" + _doubt(pair, i, j),
                kind="hit-cell best" if mean == best else "hit-cell",
            )
            for (i, j), mean in means.items()
        }
        for at in itertools.product(range(len(a_names)), range(len(b_names))):
            cells.setdefault(at, Cell(0.0, DASH, kind="ground"))
        chart = heat_map(
            a_names, b_names, cells, row_label=a, column_label=b, cell_px=46,
            alt=f"Believed score of {a} against {b}, from {number(low)} to {number(high)}.",
        )  # fmt: skip
        head = ""
        if finite(pair.get("share")) is not None:
            names = el(
                "span",
                el("code", text(a)),
                el("span", " with ", class_="soft with"),
                el("code", text(b)),
            )
            head = el("h3", names, el("span", percent(pair["share"]), class_="soft share-note"))
        cards.append(el("div", head, figure(chart), _interplay(pair, a_names, b_names)))
    lead = (
        "The expected score of two settings together, over all settings of the others; the best "
        "cell is outlined. Strongest first: the percentage is what the pair adds to its two "
        "settings, of all differences between settings."
    )
    body = el("div", *cards, class_="cards") if cards else empty("No pair was looked at.")
    return Section(title, body, lead)


def _doubt(pair: Row, i: int, j: int) -> str:
    sd = finite(pair["sd"][i][j]) if pair.get("sd") else None
    return "" if sd is None else f" ± {number(sd, 4)}"


def _interplay(pair: Row, a_names: Sequence[str], b_names: Sequence[str]) -> str:
    """Return a sentence on the cell that the two settings' own effects explain least."""
    known = [
        (abs(value), value, i, j)
        for i, row in enumerate(pair.get("interaction") or [])
        for j, cell in enumerate(row)
        if (value := finite(cell)) is not None
    ]
    if not known:
        return ""
    _, value, i, j = max(known)
    sd = finite(pair["interaction_sd"][i][j]) if pair.get("interaction_sd") else None
    if sd is not None and abs(value) < sd:
        return el("p", "No cell stands out from what the two do on their own.", class_="soft")
    spread = "" if sd is None else f" ± {number(sd)}"
    return el(
        "p",
        text(f"{a_names[i]} with {b_names[j]}: {'+' if value > 0 else ''}{number(value)}{spread} "
             "beyond what each does on its own."),
        class_="soft",
    )  # fmt: skip


def importance(
    knobs: Sequence[Row], pairs: Sequence[Row] = (), *, foretells: float | None = None,
    words: Sequence[str] = (), title: str = "What matters",
) -> Section:  # fmt: skip
    """Return a bar for each setting and for the strongest pairs: shares of the differences.

    knobs: {"name", "alone", "together"}; pairs: {"a", "b", "share"}; foretells: how much of the
    variance of unseen trials the model explains.
    """
    if not knobs:
        return Section(title, empty("There are too few scores to tell."))
    ranked = sorted(knobs, key=lambda k: -(finite(k["together"]) or 0.0))

    def bars(rows: Sequence[Row]) -> str:
        alt = "Importance: " + ", ".join(f"{r['name']} {percent(r['alone'])}" for r in rows)
        return figure(share_chart(rows, alt=alt))

    body = "".join(el("p", text(sentence), class_="say") for sentence in words)
    body += legend_of(("blue", "on its own"), ("light", "together with others"))
    body += bars(ranked[:ROWS_SHOWN])
    if len(ranked) > ROWS_SHOWN:
        body += fold_away(f"{len(ranked) - ROWS_SHOWN} more settings", bars(ranked[ROWS_SHOWN:]))
    rows = [
        [el("code", text(p["a"])), el("code", text(p["b"])), bar_cell(percent(p["share"]), 5 * s)]
        for p in pairs
        if (s := finite(p["share"])) is not None
    ]
    if rows:
        heads = ["setting", "with", "adds"]
        body += fold_away("The strongest pairs", table_of("Pairs", heads, rows, words=2))
    lead = (
        "Shares of the variance of the expected score over the whole search space (functional "
        "analysis of variance of the reward model)."
    )
    if foretells is not None:
        lead += f" Foretold of trials kept from the model: {percent(max(0.0, foretells))}."
    return Section(title, body, lead)
