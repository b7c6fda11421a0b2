"""Charts of a search, as SVG by hand: trials, the best so far, learning curves, shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from audio.markup import duration, el, finite, number, percent, plain, shorten, text
from audio.plots import TITLED, empty
from audio.svg import Scale, apart, axes, label, line, polyline, svg, widened

Row = Mapping[str, Any]

KINDS = ("default", "random", "replicate", "pruned", "failed")
CURVES_DRAWN = 300  # of the others; the default's and the best are always drawn


def best_so_far(trials: Sequence[Row], *, lowest: bool = False) -> list[float | None]:
    """Return, after each trial, the best score of the complete ones up to it.

    >>> best_so_far([{"score": s, "state": "complete"} for s in (None, 0.5, 0.4, 0.9)])
    [None, 0.5, 0.5, 0.9]
    """
    best: float | None = None
    better = min if lowest else max
    out = []
    for trial in trials:
        score = finite(trial.get("score"))
        if score is not None and trial.get("state", "complete") == "complete":
            best = score if best is None else better(best, score)
        out.append(best)
    return out


def _marker(kind: str, x: float, y: float) -> str:
    if kind == "failed":
        return f"M{x - 3:.1f} {y - 3:.1f}l6 6m-6 0l6-6"
    if kind == "default":
        return f"M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5-6.5z"
    r = 3.2
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"


def trial_chart(
    trials: Sequence[Row], *, alt: str, path: Sequence[Row] = (), lowest: bool = False
) -> str:
    """Return one mark per trial, the best so far as steps, and the default's level.

    path: what the best setting so far is expected to score, {"after", "mean", "low", "high"}, drawn
    with its interval as a band; without it, the best score seen is drawn.
    """
    scores = [finite(t.get("score")) for t in trials]
    known = [s for s in scores if s is not None]
    if not known:
        return empty("No trial has finished with a score yet.")
    width, height = 800.0, 350.0
    given = [finite(t.get("number")) for t in trials]
    numbers = [float(i) if n is None else n for i, n in enumerate(given)]
    # the band of the first few trials is as wide as the unknown: it may leave the chart
    settled = path[len(path) // 2 :]
    ends = [v for p in settled for k in ("low", "high") if (v := finite(p.get(k))) is not None]
    ends += [m for p in path if (m := finite(p.get("mean"))) is not None]
    x = Scale(min(numbers), max(numbers), 52, width - 128)
    base = height - 46
    y = Scale(*widened([*known, *ends]), base - 18, 34)
    parts = axes(x, y, "trial", "score", base)
    rank = [
        math.inf if t.get("phase") == "default" else s for t, s in zip(trials, scores, strict=True)
    ]
    order = sorted(range(len(trials)), key=lambda i: math.inf if (r := rank[i]) is None else -r)
    titled = set(order[:TITLED])
    crowd: dict[str, str] = {}
    single: list[str] = []
    for i, (trial, score) in enumerate(zip(trials, scores, strict=True)):
        state, phase = trial.get("state", "complete"), trial.get("phase", "agent")
        kind = phase if state == "complete" else "pruned" if state == "pruned" else "failed"
        if kind not in KINDS:
            kind = "agent"
        at_y = base - 9 if score is None or kind == "failed" else y(score)
        mark = _marker(kind, x(numbers[i]), at_y)
        if i not in titled:
            crowd[kind] = crowd.get(kind, "") + mark
            continue
        about = f"trial {numbers[i]:g}, {phase}, {state}: {number(score, 4)}"
        about += f" in {duration(trial.get('seconds'))}; {plain(trial.get('values') or {})}"
        single.append(el("path", el("title", text(about)), d=mark, class_=f"trial {kind}"))
    band, steps, end = _best_line(trials, numbers, path, x, y, lowest)
    parts += [*band, *(el("path", d=d, class_=f"trial {kind}") for kind, d in crowd.items())]
    notes: list[tuple[float, str, str]] = []
    of_default = [s for t, s in zip(trials, scores, strict=True) if t.get("phase") == "default"]
    defaults = [s for s in of_default if s is not None]
    if defaults:
        level = sum(defaults) / len(defaults)
        parts.append(line(x.start, y(level), x.end, y(level), "mark"))
        notes.append((y(level), f"default {number(level)}", "ink"))
    parts.append(el("path", d=polyline(steps), class_="line s2"))
    if end is not None:
        notes.append((y(end), f"{'expected' if path else 'best'} {number(end)}", "t2"))
    for (_, note, kind), at_y in zip(notes, apart([n[0] for n in notes], 15), strict=True):
        parts.append(label(x.end + 8, at_y + 4, note, kind))
    return svg(width, height, *parts, *single, alt=alt)


Steps = list[tuple[float, float | None]]


def _best_line(
    trials: Sequence[Row], numbers: Sequence[float], path: Sequence[Row], x: Scale, y: Scale,
    lowest: bool,
) -> tuple[list[str], Steps, float | None]:  # fmt: skip
    """Return the band, the steps of the line, and where it ends."""
    if not path:
        best = best_so_far(trials, lowest=lowest)
        return [], _stepped([x(n) for n in numbers], best, y), best[-1]
    at = [x(float(p["after"])) for p in path]
    means = [finite(p.get("mean")) for p in path]
    edge: list[tuple[float, float]] = []
    other: list[tuple[float, float]] = []
    for i, p in enumerate(path):
        low, high = finite(p.get("low")), finite(p.get("high"))
        if low is None or high is None:
            continue
        low, high = (min(max(v, y.low), y.high) for v in (low, high))
        until = at[i + 1] if i + 1 < len(at) else at[i]
        edge += [(at[i], y(low)), (until, y(low))]
        other += [(at[i], y(high)), (until, y(high))]
    outline = polyline([*edge, *reversed(other)])
    band = [el("path", d=outline + "z", class_="band")] if edge else []
    return band, _stepped(at, means, y), means[-1]


def _stepped(at: Sequence[float], values: Sequence[float | None], y: Scale) -> Steps:
    steps: Steps = []
    for px, before, after in zip(at, [None, *values], values, strict=False):
        if before is not None and after is not None and after != before:
            steps.append((px, y(before)))
        steps.append((px, None if after is None else y(after)))
    return steps


def curves_chart(curves: Sequence[Row], *, alt: str) -> str:
    """Return one line per trial over its steps; those pruned end in a cross.

    curves: {"number", "kind", "points": [(step, score)]}; kind is best, default, pruned or other.
    """
    drawn = [c for c in curves if len(c["points"]) > 1 or c["kind"] == "pruned"]
    every = [point for c in drawn for point in c["points"]]
    if not every or not any(len(c["points"]) > 1 for c in drawn):
        return empty("No trial was scored more than once on its way.")
    width, height = 800.0, 330.0
    x = Scale(min(p[0] for p in every), max(p[0] for p in every), 52, width - 110)
    y = Scale(*widened([p[1] for p in every]), height - 46, 34)
    parts = axes(x, y, "epoch", "score")
    order = {"other": 0, "pruned": 1, "default": 2, "best": 3}
    drawn.sort(key=lambda c: order.get(c["kind"], 0))
    plenty = max(0, sum(c["kind"] in ("other", "pruned") for c in drawn) - CURVES_DRAWN)
    notes: list[tuple[float, str, str]] = []
    for c in drawn[plenty:]:
        points = [(x(at), y(score)) for at, score in c["points"]]
        about = f"trial {c['number']}, {c['kind']}: " + ", ".join(
            number(score) for _, score in c["points"]
        )
        pieces = [el("title", text(about)), el("path", d=polyline(points))]
        if c["kind"] == "pruned":
            pieces.append(el("path", d=_marker("failed", *points[-1]), class_="end-cross"))
        parts.append(el("g", *pieces, class_=f"curve {c['kind']}"))
        if c["kind"] in ("best", "default"):
            name = "default" if c["kind"] == "default" else f"trial {c['number']}"
            notes.append((points[-1][1], name, "t1" if c["kind"] == "best" else "ink"))
    for (_, note, kind), at_y in zip(notes, apart([n[0] for n in notes], 15), strict=True):
        parts.append(label(x.end + 8, at_y + 4, note, kind))
    return svg(width, height, *parts, alt=alt)


def share_chart(rows: Sequence[Row], *, alt: str) -> str:
    """Return a bar per row: its share, and behind it what it has in common with others.

    rows: {"name", "alone", "together"}; shares of 1, together at least as large as alone.
    """
    if not rows:
        return empty("Nothing to weigh yet.")
    width, pitch, top = 800.0, 25.0, 6.0
    left = 20 + 8.0 * min(30, max(len(str(r["name"])) for r in rows))
    most = max((finite(r["together"]) or 0.0 for r in rows), default=0.0) or 1.0
    x = Scale(0.0, most, left, width - 150)
    parts = []
    for i, row in enumerate(rows):
        at = top + pitch * (i + 0.5)
        alone, together = finite(row["alone"]) or 0.0, finite(row["together"]) or 0.0
        beyond = max(0.0, together - alone)
        note = percent(alone) + (f" + {percent(beyond)}" if beyond >= 0.0005 else "")
        about = f"{row['name']}: {percent(alone)} alone, {percent(beyond)} more in pairs"
        parts.append(
            el(
                "g",
                el("title", text(about)),
                label(left - 10, at + 4, shorten(row["name"], 30), "ink end"),
                el("rect", x=left, y=at - 7, width=max(0.5, x(together) - left), height=14, rx=2,
                   class_="share together"),
                el("rect", x=left, y=at - 7, width=max(0.5, x(alone) - left), height=14, rx=2,
                   class_="share alone"),
                label(x(together) + 8, at + 4, note, "soft"),
            )
        )  # fmt: skip
    return svg(width, top + pitch * len(rows) + 4, *parts, alt=alt)
