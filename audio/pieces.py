"""Pieces that a report's sections are made of: tables, bars, folds, legends, settings in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from audio.markup import NBSP, el, finite, number, plain, text
from audio.plots import empty
from audio.svg import svg

Row = Mapping[str, Any]

ROWS_SHOWN = 12  # of a long list; the rest is folded
ROWS_AT_MOST = 200  # of a very long list; the rest is left to the run's files


def table_of(
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


def bar_cell(content: str, share: object) -> str:
    """Return a table cell with a bar of `share` of its width behind the number."""
    known = min(1.0, max(0.0, finite(share) or 0.0))
    return el("td", content, class_="n bar", style=f"--share:{100 * known:.1f}%")


def fold_away(summary: str, *body: str) -> str:
    return el("details", el("summary", text(summary)), *body)


def folded(items: Sequence[str], shown: int, what: str, kind: str) -> str:
    """Return the items in a box of class `kind`, those after the first `shown` folded away."""
    box = el("div", *items[:shown], class_=kind)
    if len(items) > shown:
        rest = items[shown:]
        box += fold_away(f"{len(rest)} more {what}", el("div", *rest, class_=kind))
    return box


def figure(chart: str, caption: str = "", kind: str | None = None) -> str:
    below = el("figcaption", text(caption)) if caption else ""
    return el("figure", el("div", chart, class_="scroll"), below, class_=kind)


def choice(value: object) -> str:
    """Return a setting's value in words; None is a choice there and not a gap."""
    return "none" if value is None else plain(value)


def how_many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def legend_of(*entries: tuple[str, str]) -> str:
    """Return swatches with their meaning: (class of the swatch, words)."""
    return el("p", *(el("span", el("i", class_=k), text(w)) for k, w in entries), class_="legend")


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key by which `class 2` comes before `class 10`."""
    return tuple(
        (int(part), "") if part.isdecimal() else (-1, part.casefold())
        for part in re.split(r"([0-9]+)", str(name))
    )


def chips(values: Row, default: Row) -> str:
    """Return the settings that differ from the default as chips `name default → value`."""
    chips = [
        el(
            "span",
            el("code", text(name)),
            el("span", text(f" {choice(default[name])} → "), class_="soft")
            if name in default
            else " ",
            el("b", text(choice(value))),
            class_="chip",
        )
        for name, value in values.items()
        if name not in default or default[name] != value
    ]
    return "".join(chips) or el("span", "as the default", class_="soft")


def interval_words(estimate: object, write: Any = number) -> tuple[str, str]:
    """Return the value and its interval in words, of `{"value", "low", "high"}` or a number."""
    if not isinstance(estimate, Mapping):
        return write(estimate), ""
    low, high = estimate.get("low"), estimate.get("high")
    if finite(low) is None and finite(high) is None:
        return write(estimate.get("value")), ""
    return write(estimate.get("value")), f"{write(low).removesuffix(f'{NBSP}%')} to {write(high)}"


def whisker(name: str, estimate: object) -> str:
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
