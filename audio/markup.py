"""Markup written by hand, and numbers as people write them; None and NaN as an en dash."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Mapping

import numpy as np

DASH = "–"
NBSP = "\N{NO-BREAK SPACE}"


def text(value: object) -> str:
    """Return `value` as markup that shows it letter by letter.

    Characters that no HTML or XML page may hold (controls, lone surrogates from
    undecodable file names) become U+FFFD.

    >>> text("<b>&")
    '&lt;b&gt;&amp;'
    """
    raw = str(value)
    bad = {"Cc", "Cs"}
    if any(unicodedata.category(c) in bad or c in "\ufffe\uffff" for c in raw):
        raw = "".join(
            "\ufffd" if (unicodedata.category(c) in bad and c not in "\t\n") or c in "\ufffe\uffff"
            else c
            for c in raw
        )  # fmt: skip
    return html.escape(raw)


def el(name: str, *children: str, **attributes: object) -> str:
    """Return one element; children are markup, attribute values are escaped here.

    An attribute that is None is left out; `class_` is written `class`, `x_y` is `x-y`.

    >>> el("td", text("a < b"), class_="n")
    '<td class="n">a &lt; b</td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-") if key != "viewBox" else key}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name == "img":
        return f"<img{written} />"
    return f"<{name}{written}>{''.join(children)}</{name}>"


def _attribute(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else text(value)


def finite(value: object) -> float | None:
    """Return `value` as a float, or None where it is missing, NaN, infinite or no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: object, digits: int = 3) -> str:
    """Return a number to `digits` decimals, whole numbers as they are, gaps as an en dash.

    >>> number(0.91254), number(12), number(float("nan")), number(-0.5, 1)
    ('0.913', '12', '–', '−0.5')
    """
    known = finite(value)
    if known is None:
        return DASH
    written = f"{known:.0f}" if isinstance(value, int | np.integer) else f"{known:.{digits}f}"
    return written.replace("-", "−")


def percent(value: object) -> str:
    """Return a share as a percentage to one decimal.

    >>> percent(0.9125), percent(None)
    ('91.2\\xa0%', '–')
    """
    known = finite(value)
    return DASH if known is None else number(100 * known, 1) + NBSP + "%"


def plain(value: object) -> str:
    """Return any JSON value as a person would type it: a setting, a version, a list."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain(inner)}" for key, inner in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or DASH
    return str(value)


def duration(seconds: object) -> str:
    """Return a length of time in its two largest units.

    >>> duration(41.2), duration(3725)
    ('41 s', '1 h 2 min')
    """
    known = finite(seconds)
    if known is None:
        return DASH
    if known < 10:
        return f"{known:.1f} s"
    if known < 60:
        return f"{known:.0f} s"
    minutes = round(known / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shorten(label: object, columns: int) -> str:
    """Return `label` cut to `columns` letters with an ellipsis; wide letters count twice."""
    whole, kept = str(label), ""
    if width_of(whole) <= columns:
        return whole
    for letter in whole:
        if width_of(kept + letter) > columns - 1:
            break
        kept += letter
    return kept + "…"


def width_of(label: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label)
