"""Charts of a search, as SVG by hand: trials, the best so far, learning curves, shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from audio.plots import (
    TITLED,
    Scale,
    apart,
    axes,
    duration,
    el,
    empty,
    finite,
    label,
    line,
    number,
    plain,
    polyline,
    svg,
    text,
    widened,
)


def best_so_far(trials: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Return, after each trial, the greatest score of the complete ones up to it.

    >>> best_so_far([{"score": s, "state": "complete"} for s in (None, 0.5, 0.4, 0.9)])
    [None, 0.5, 0.5, 0.9]
    """
    best: float | None = None
    out = []
    for trial in trials:
        score = finite(trial.get("score"))
        if score is not None and trial.get("state", "complete") == "complete":
            best = score if best is None else max(best, score)
        out.append(best)
    return out


def _marker(kind: str, x: float, y: float) -> str:
    if kind == "failed":
        return f"M{x - 3:.1f} {y - 3:.1f}l6 6m-6 0l6-6"
    if kind == "default":
        return f"M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5-6.5z"
    r = 3.2
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"


def trial_chart(trials: Sequence[Mapping[str, Any]], *, alt: str) -> str:
    """Return one mark per trial, the best so far as steps, and the default's level."""
    scores = [finite(t.get("score")) for t in trials]
    known = [s for s in scores if s is not None]
    if not known:
        return empty("No trial has finished with a score yet.")
    width, height = 800.0, 350.0
    given = [finite(t.get("number")) for t in trials]
    numbers = [float(i) if n is None else n for i, n in enumerate(given)]
    x = Scale(min(numbers), max(numbers), 52, width - 128)
    base = height - 46
    y = Scale(*widened(known), base - 18, 34)
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
        if kind not in {"default", "random", "pruned", "failed"}:
            kind = "agent"
        at_y = base - 9 if score is None or kind == "failed" else y(score)
        path = _marker(kind, x(numbers[i]), at_y)
        if i not in titled:
            crowd[kind] = crowd.get(kind, "") + path
            continue
        about = f"trial {numbers[i]:g}, {phase}, {state}: {number(score, 4)}"
        about += f" in {duration(trial.get('seconds'))}; {plain(trial.get('values') or {})}"
        single.append(el("path", el("title", text(about)), d=path, class_=f"trial {kind}"))
    best = best_so_far(trials)
    steps: list[tuple[float, float | None]] = []
    for at, before, after in zip(numbers, [None, *best], best, strict=False):
        if before is not None and after is not None and after > before:
            steps.append((x(at), y(before)))
        steps.append((x(at), None if after is None else y(after)))
    parts += [el("path", d=d, class_=f"trial {kind}") for kind, d in crowd.items()]
    notes: list[tuple[float, str, str]] = []
    of_default = [s for t, s in zip(trials, scores, strict=True) if t.get("phase") == "default"]
    level = _mean([s for s in of_default if s is not None])
    if level is not None:
        parts.append(line(x.start, y(level), x.end, y(level), "mark"))
        notes.append((y(level), f"default {number(level)}", "ink"))
    parts.append(el("path", d=polyline(steps), class_="line s2"))
    if best[-1] is not None:
        notes.append((y(best[-1]), f"best {number(best[-1])}", "t2"))
    for (_, note, kind), at_y in zip(notes, apart([n[0] for n in notes], 15), strict=True):
        parts.append(label(x.end + 8, at_y + 4, note, kind))
    return svg(width, height, *parts, *single, alt=alt)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
