"""The report's section on a schedule: what was picked when, and the belief over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audio.markup import el, finite, number, percent, shorten, text, width_of
from audio.page import Section
from audio.pieces import bar_cell, figure, fold_away, how_many, legend_of, table_of
from audio.plots import empty, line_chart
from audio.svg import Scale, label, svg, tick_text, ticks

Row = Mapping[str, Any]

_WIDTH, _PITCH, _TOP = 800.0, 24.0, 8.0
_FAINTEST = 0.06


def schedule_section(schedule: Row, *, title: str = "What was picked when") -> Section:
    """Return the arms segment by segment: the picks, the chances behind them, the worths believed.

    schedule: what `audio.schedule.Schedule.record` gives.
    """
    if schedule["schedule"] == "uniform":
        names = ", ".join(schedule["operations"])
        lead = (
            f"Each clip of each batch got one operation or none, all equally likely: {names}. "
            "Nothing was learnt, so there is no belief to show."
        )
        return Section(title, "", lead)
    segments = schedule["segments"]
    if not segments:
        return Section(title, empty("No segment was begun."))
    parts = []
    for at, factor in enumerate(schedule["factors"]):
        many = len(schedule["factors"]) > 1
        parts += [el("h3", text(factor["name"]))] if many else []
        parts.append(figure(_strip(schedule, factor, at, "chance"), "Picked, and the chance of it"))
        parts.append(figure(_strip(schedule, factor, at, "worth"), "Worth believed, in rewards"))
        parts.append(_sums(segments, factor, at))
    told = legend_of(
        ("blue", "picked; paler: the chance of being picked, or a worth above 0"),
        ("orange", "a worth below 0: less than was expected"),
    )
    again = ", replayed" if schedule.get("replayed") else ""
    epochs = schedule["segment_steps"] / schedule["steps_per_epoch"]
    probe = schedule["probe"]
    whole = "whole groups" if probe["by"] == "group" else "drawn clip by clip"
    lead = (
        f"{schedule['schedule']}{again}: {how_many(len(segments), 'segment')} of "
        f"{epochs:.3g} epochs. An arm's reward is how much further the loss of "
        f"{len(probe['scored'])} clips of the training side fell than was expected ("
        f"{len(probe['out'])} kept out of training, {whole}); rank 1 is the best of the last "
        f"segments, -1 the worst. Picking and scoring took {schedule['schedule_seconds']:.1f} s."
    )
    return Section(title, told + "".join(parts) + _probe(schedule), lead)


def _strip(schedule: Row, factor: Row, at: int, what: str) -> str:
    """Return a row per arm and a cell per segment, time to the right in epochs."""
    segments, names = schedule["segments"], factor["arms"]
    left = 24 + 6.8 * min(22, max(width_of(name) for name in names))
    per_epoch = schedule["steps_per_epoch"]
    end = schedule["n_steps"] / per_epoch
    x = Scale(0.0, end, left, _WIDTH - 12)
    bottom = _TOP + _PITCH * len(names)
    parts = [el("rect", x=left, y=_TOP, width=x.end - left, height=bottom - _TOP, class_="ground")]
    most = max((abs(finite(w) or 0.0) for s in segments for w in s["worth"][at]), default=0.0)
    for arm, name in enumerate(names):
        y = _TOP + _PITCH * arm
        parts.append(label(left - 8, y + _PITCH / 2 + 4, shorten(name, 22), "ink end"))
        for k, segment in enumerate(segments):
            first = segment["first_step"] / per_epoch
            last = segments[k + 1]["first_step"] / per_epoch if k + 1 < len(segments) else end
            parts.append(_cell(segment, at, arm, what, most, (x(first), x(last)), y, name, k))
    for tick in ticks(0.0, end, 8):
        parts.append(label(x(tick), bottom + 16, tick_text(tick), "soft mid"))
    parts.append(label(x.end, bottom + 32, "epoch", "soft end"))
    alt = f"{factor['name']}: {what} of {len(names)} arms over {len(segments)} segments."
    return svg(_WIDTH, bottom + 38, *parts, alt=alt)


def _cell(
    segment: Row, at: int, arm: int, what: str, most: float, span: tuple[float, float], y: float,
    name: str, k: int,
) -> str:  # fmt: skip
    picked = segment["arm"][at] == arm
    value = finite(segment[what][at][arm]) or 0.0
    if what == "chance":
        strength, kind = (1.0 if picked else 0.45 * value), "hit-cell"
        told = f"segment {k + 1}: {name}, chance {percent(value)}" + (", picked" if picked else "")
    else:
        strength, kind = abs(value) / (most or 1.0), "hit-cell" if value >= 0 else "miss-cell"
        told = f"segment {k + 1}: {name}, worth {value:+.2f}"
    gap = 1.0 if span[1] - span[0] > 5 else 0.0
    return el(
        "rect", el("title", text(told)), x=round(span[0], 2), y=y + 1.5,
        width=round(max(0.5, span[1] - span[0] - gap), 2), height=_PITCH - 3, class_=kind,
        fill_opacity=round(_FAINTEST + (1 - _FAINTEST) * strength, 2),
    )  # fmt: skip


def _sums(segments: Sequence[Row], factor: Row, at: int) -> str:
    """Return how often each arm was picked, what it brought, and what is believed at the end."""
    rows = []
    for arm, name in enumerate(factor["arms"]):
        mine = [s for s in segments if s["arm"][at] == arm]
        rewards = [s["reward"] for s in mine if "reward" in s]
        share = len(mine) / len(segments)
        rows.append([
            text(name), bar_cell(percent(share), share),
            number(sum(rewards) / len(rewards), 2) if rewards else "",
            number(segments[-1]["worth"][at][arm], 2),
        ])  # fmt: skip
    heads = [factor["name"], "segments", "mean reward", "worth believed at the end"]
    return table_of(f"Arms of {factor['name']}", heads, rows)


def _probe(schedule: Row) -> str:
    """Return the probe's loss and the rewards, segment by segment."""
    ended = [s for s in schedule["segments"] if "reward" in s]
    if not ended:
        return ""
    ends = [
        (s["first_step"] + schedule["segment_steps"]) / schedule["steps_per_epoch"] for s in ended
    ]
    loss = line_chart(
        [("probe", [s["loss"] for s in ended])], ends, x_label="epoch", y_label="loss",
        alt=f"Loss of the probe over {len(ended)} segments.",
    )  # fmt: skip
    reward = line_chart(
        [("reward", [s["reward"] for s in ended])], ends, x_label="epoch", y_label="reward",
        alt=f"Rewards of {len(ended)} segments.",
    )  # fmt: skip
    return fold_away(
        "The probe's loss and the rewards", el("div", figure(loss), figure(reward), class_="pair")
    )
