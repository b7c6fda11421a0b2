"""The parts that charts are drawn of: scales, ticks, labels, lines, axes, as SVG markup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from audio.markup import el, text


@dataclass(frozen=True)
class Scale:
    """A linear map from data in [low, high] to pixels from start to end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`."""
        if self.high == self.low:
            return (self.start + self.end) / 2
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Return round numbers in [low, high], 1, 2 or 5 times a power of ten apart.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(1, at_most - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 5, 10) if s * unit >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def widened(values: Sequence[float], least: float = 1e-6) -> tuple[float, float]:
    """Return the range of the values, widened by 6 % on either side."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.02 * abs(high) if high == low else 0.0, least)
    return low - room, high + room


def tick_text(value: float) -> str:
    return f"{value:g}".replace("-", "−")


# Pieces


def label(x: float, y: float, content: object, kind: str = "soft", **attributes: object) -> str:
    """Return a piece of SVG text; `content` is data, not markup."""
    return el("text", text(content), x=x, y=y, class_=kind, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight SVG line of style `kind`."""
    return el("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", class_=kind)


def svg(width: float, height: float, *children: str, alt: str, kind: str | None = None) -> str:
    """Return the figure; it shrinks with the page to 68 % or 280 pixels and is then scrolled."""
    return el(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=alt,
        class_=kind or ("wide" if width > 450 else "chart"),
        style=f"max-width:{width:g}px;min-width:{min(width, max(280, 0.68 * width)):g}px",
    )


def axes(x: Scale, y: Scale, x_label: str, y_label: str, base: float | None = None) -> list[str]:
    """Return grid, tick and axis labels; x is counted in whole numbers, and drawn at `base`."""
    base = y.start if base is None else base
    parts = []
    for tick in ticks(y.low, y.high, 6):
        parts.append(line(x.start, y(tick), x.end, y(tick), "grid"))
        parts.append(label(x.start - 8, y(tick) + 4, tick_text(tick), "soft end"))
    for tick in ticks(x.low, x.high, 7):
        if tick == int(tick):
            parts.append(label(x(tick), base + 18, tick_text(tick), "soft mid"))
    parts.append(line(x.start, base, x.end, base, "axis"))
    parts.append(label(x.end, base + 36, x_label, "soft end"))
    parts.append(label(max(0.0, x.start - 40), y.end - 10, y_label, "soft"))
    return parts


def polyline(points: Sequence[tuple[float, float | None]]) -> str:
    """Return the path through the points, lifted at the gaps."""
    path, down = "", False
    for x, y in points:
        if y is None:
            down = False
            continue
        path += f"{'L' if down else 'M'}{x:.1f} {y:.1f}"
        down = True
    return path


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Return the label positions moved apart until neighbours are `gap` from each other."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    excess = [max(0.0, placed[i] - wanted[i]) for i in order]
    shift = max(excess, default=0.0) / 2
    return [position - shift for position in placed]
