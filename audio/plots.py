"""Figures for the report, as markup written by hand: SVG charts and PNG pictures.

Vector figures carry no colours of their own, only class names: the page's style
sheet colours them, so they follow its light and dark theme and its font. Every
function is pure: plain data in, a string out. None and NaN are drawn as gaps
and written as an en dash.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audio.markup import (
    el,
    finite,
    number,
    shorten,
    text,
    width_of,
)
from audio.svg import Scale, apart, axes, label, line, polyline, svg, tick_text, ticks, widened

#: Every 17th of the 256 colours of matplotlib's magma (CC0, van der Walt & Smith 2015).
MAGMA = (
    "0000030b08241f114b3b0f6f57147d711f818c2980a7317d"
    "c33b74dd4968f0605dfa7f5efd9f6cfebe83fddd9ffbfcbf"
)

TITLED = 300  # hover titles in one figure; the page of 5000 trials then stays under 1 MB
WIDEST_PICTURE = 480  # pixels; twice what a picture spans on a desktop page


# Figures


def line_chart(
    series: Sequence[tuple[str, Sequence[float | None]]],
    xs: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    mark: tuple[float, str] | None = None,
    size: tuple[float, float] = (400, 270),
) -> str:
    """Return one line per series over shared `xs`, named at its end, and a marked x."""
    known = [v for _, ys in series for v in map(finite, ys) if v is not None]
    if not known or not xs:
        return empty("Nothing was recorded.")
    names_px = 8 + 6.6 * max(width_of(name) for name, _ in series)
    x = Scale(min(xs), max(xs), 46, size[0] - names_px)
    y = Scale(*widened(known), size[1] - 46, 34)
    parts = axes(x, y, x_label, y_label)
    if mark is not None:
        at, name = mark
        parts.append(line(x(at), y.start, x(at), y.end, "mark"))
        right = x(at) < (x.start + x.end) / 2
        side = "ink" if right else "ink end"
        parts.append(label(x(at) + (5 if right else -5), y.end + 4, name, side))
    ends = []
    for i, (name, ys) in enumerate(series):
        points = [
            (x(at), None if v is None else y(v)) for at, v in zip(xs, map(finite, ys), strict=True)
        ]
        parts.append(el("path", d=polyline(points), class_=f"line s{i + 1}"))
        drawn = [p for p in points if p[1] is not None]
        if not drawn:
            continue
        ends.append((drawn[-1][1] or 0.0, name, i))
        step = max(1, math.ceil(len(points) / TITLED))
        for at, value, (px, py) in list(zip(xs, ys, points, strict=True))[::step]:
            if py is not None:
                if len(points) <= 12:
                    parts.append(el("circle", cx=px, cy=py, r=2.8, class_=f"t{i + 1}"))
                title = f"{x_label} {tick_text(at)}: {name} {number(value, 4)}"
                parts.append(
                    el("circle", el("title", text(title)), cx=px, cy=py, r=5, class_="hit")
                )
    for (_, name, i), at_y in zip(ends, apart([e[0] for e in ends], 15), strict=True):
        parts.append(label(x.end + 7, at_y + 4, name, f"t{i + 1}"))
    return svg(*size, *parts, alt=alt)


@dataclass(frozen=True)
class IntervalRow:
    """One row of an interval chart: a name, a dot with its interval (low to high), single points,
    a note."""

    name: str
    mean: float | None
    low: float | None
    high: float | None
    kind: str = "other"
    note: str = ""
    title: str = ""
    points: Sequence[float] = ()


def around(mean: float | None, half: float | None) -> tuple[float | None, float | None]:
    """Return the ends of `mean ± half`; None where one of the two is not known.

    >>> around(2.0, 0.5), around(2.0, None)
    ((1.5, 2.5), (None, None))
    """
    return (None, None) if mean is None or half is None else (mean - half, mean + half)


def interval_chart(
    rows: Sequence[IntervalRow],
    span: tuple[float, float],
    *,
    alt: str,
    x_label: str,
    width: float = 360,
    name_columns: int = 14,
    zero: bool = False,
) -> str:
    """Return one dot with error bar per row on a shared x axis, the note at its right.

    zero: draw an upright line at 0.
    """
    left = 12 + 7.1 * min(name_columns, max((width_of(r.name) for r in rows), default=1))
    right = width - 6.4 * max((width_of(r.note) for r in rows), default=0) - 14
    x = Scale(*span, max(left, 40) + 4, right)
    pitch = 25.0
    top = 20.0
    bottom = top + pitch * len(rows)
    parts = [label(width, 12, x_label, "soft end")]
    for tick in ticks(*span, 4):
        parts.append(line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(label(x(tick), bottom + 15, tick_text(tick), "soft mid"))
    if zero:
        parts.append(line(x(0.0), top - 6, x(0.0), bottom + 2, "axis"))
    for i, row in enumerate(rows):
        at = top + pitch * (i + 0.5)
        strong = "ink" if row.kind == "other" else "ink strong"
        pieces = [el("title", text(row.title))] if row.title else []
        pieces.append(label(x.start - 10, at + 4, shorten(row.name, name_columns), f"{strong} end"))
        pieces += [el("circle", cx=x(p), cy=at, r=3.2, class_="seed") for p in row.points]
        if row.mean is not None:
            if row.low is not None and row.high is not None:
                low, high = (min(max(v, span[0]), span[1]) for v in (row.low, row.high))
                pieces.append(line(x(low), at, x(high), at, f"bar {row.kind}"))
            pieces.append(el("circle", cx=x(row.mean), cy=at, r=4.8, class_=f"dot {row.kind}"))
        pieces.append(label(width, at + 4, row.note, "soft end"))
        parts.append(el("g", *pieces))
    return svg(width, bottom + 22, *parts, alt=alt)


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map: how strong in [0, 1], what it says, and its hover title."""

    strength: float
    big: str
    small: str = ""
    title: str = ""
    kind: str = "hit-cell"


def heat_map(
    row_names: Sequence[str],
    column_names: Sequence[str],
    cells: Mapping[tuple[int, int], Cell],
    *,
    row_label: str,
    column_label: str,
    alt: str,
    cell_px: float | None = None,
) -> str:
    """Return the cells as a grid, names thinned and turned where there are many."""
    n = max(len(row_names), len(column_names), 1)
    side = cell_px or min(62.0, max(11.0, 540 / n))
    columns = 18 if n <= 20 else 12
    shown = [shorten(name, columns) for name in (*row_names, *column_names)]
    longest = max(map(width_of, shown), default=1)
    turned = max((width_of(shorten(c, columns)) for c in column_names), default=1) * 6.8 > side - 6
    left = 30 + 6.8 * longest
    top = 30 + (4.9 * longest if turned else 14)
    every = math.ceil(13 / side)
    width = left + side * len(column_names) + (26 if turned else 8)
    width = max(width, left + 24 + 6.6 * width_of(column_label))
    height = top + side * len(row_names) + 4
    parts = [
        label(left, 12, f"{column_label} →", "soft"),
        label(12, top + 2, f"← {row_label}", "soft end", transform=f"rotate(-90 12 {top + 2:g})"),
        el("rect", x=left, y=top, width=side * len(column_names), height=side * len(row_names),
           class_="ground"),
    ]  # fmt: skip
    for i, name in enumerate(row_names):
        if i % every == 0:
            word = el("title", text(name)) + text(shorten(name, columns))
            y = top + side * (i + 0.5) + 4
            parts.append(el("text", word, x=left - 8, y=y, class_="ink end"))
    for j, name in enumerate(column_names):
        if j % every == 0:
            word = el("title", text(name)) + text(shorten(name, columns))
            x, y = left + side * (j + 0.5), top - 8.0
            turn = f"rotate(-45 {x:.1f} {y:.1f})" if turned else None
            kind = "ink" if turned else "ink mid"
            parts.append(el("text", word, x=x, y=y, class_=kind, transform=turn))
    gap = 1.5 if side > 20 else 0.5
    faintest = 0.12 if side > 20 else 0.25  # one clip in a small cell is still seen
    for (i, j), cell in sorted(cells.items()):
        x, y = left + side * j, top + side * i
        pieces = [el("title", text(cell.title))] if cell.title else []
        pieces.append(
            el("rect", x=x + gap / 2, y=y + gap / 2, width=side - gap, height=side - gap,
               class_=cell.kind, fill_opacity=round(faintest + (1 - faintest) * cell.strength, 2))
        )  # fmt: skip
        ink = "over mid" if cell.strength > 0.68 else "ink mid"
        if side >= 20:
            lift = -2 if cell.small and side >= 44 else 4
            pieces.append(label(x + side / 2, y + side / 2 + lift, cell.big, ink))
        if cell.small and side >= 44:
            pieces.append(label(x + side / 2, y + side / 2 + 14, cell.small, f"{ink} tiny"))
        parts.append(el("g", *pieces))
    return svg(width, height, *parts, alt=alt)


def empty(why: str) -> str:
    """Return the sentence that stands where a figure has nothing to show."""
    return el("p", text(why), class_="empty")


# Pictures


def palette() -> npt.NDArray[np.uint8]:
    """Return magma as uint8 (256, 3), interpolated between its 16 stored colours."""
    stored = np.frombuffer(bytes.fromhex(MAGMA), dtype=np.uint8).reshape(-1, 3)
    at = np.linspace(0, len(stored) - 1, 256)
    channels = [np.interp(at, np.arange(len(stored)), stored[:, k]) for k in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def picture_uri(levels: npt.ArrayLike) -> str:
    """Return a PNG data URI of a spectrogram, the low frequencies at the bottom.

    levels: uint8 (n_mels, n_frames), row 0 is the lowest band. The PNG is indexed:
    its indices are the levels, so nothing is lost; only pictures wider than 480
    frames are averaged down.
    """
    from PIL import Image  # here, so that importing the report stays quick

    array = np.asarray(levels, dtype=np.uint8)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"a picture of shape {array.shape} is not (n_mels, n_frames).")
    upright = np.ascontiguousarray(array[::-1])
    image = Image.fromarray(upright)
    if image.width > WIDEST_PICTURE:
        image = image.resize((WIDEST_PICTURE, image.height), Image.Resampling.BOX)
    image.putpalette(palette().tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
