"""What a study teaches as plain rows, the way the report's sections take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from audio.markup import duration

if TYPE_CHECKING:
    from rl.insight import Insight
    from rl.space import Setting

COSTS_SHOWN = 4
LEAST_FACTOR = 1.1
"""Ratio of the slowest value's time to the fastest's from which a setting's cost is shown."""


def counts_text(insight: Insight) -> str:
    """Return how many trials there are of each kind, in words."""
    kinds = ("complete", "pruned", "failed", "running", "waiting")
    known = [f"{n} {kind}" for kind in kinds if (n := insight.study.count(kind))]  # type: ignore[arg-type]
    n = len(insight.study.trials)
    return f"{n} trial{'' if n == 1 else 's'} ({', '.join(known)})" if known else "no trials"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def trial_rows(insight: Insight) -> list[dict[str, Any]]:
    """Return the finished trials as the reward curve takes them."""
    agent = insight.study.agent
    usual = "trial" if agent is None else "random" if agent == "random" else "agent"
    seen: set[tuple[int, ...]] = set()
    rows = []
    for trial in insight.study.trials:
        if trial.state not in ("complete", "pruned", "failed"):
            continue
        again = trial.codes is not None and trial.codes in seen
        phase = "default" if trial.is_default else "replicate" if again else usual
        if trial.codes is not None and trial.score is not None:
            seen.add(trial.codes)
        rows.append({"number": trial.number, "score": trial.score, "state": trial.state,
                     "values": trial.values, "seconds": trial.seconds, "phase": phase})  # fmt: skip
    return rows


def path_rows(insight: Insight) -> list[dict[str, Any]]:
    """Return the best so far as the reward curve takes it."""
    return [
        {"after": best.after, "mean": best.score.mean, "low": _number(best.score.low),
         "high": _number(best.score.high)}
        for best in insight.path
    ]  # fmt: skip


def belief_rows(insight: Insight, recommended: Setting | None) -> list[dict[str, Any]]:
    """Return what the model believes of each knob, the most important first."""
    rows = []
    for known in insight.knobs:
        knob = insight.space.knobs[known.position]
        values = [
            {"value": value, "mean": _number(effect.mean), "sd": _number(effect.sd), "n": count}
            for value, effect, count in zip(knob.values, known.effects, known.counts, strict=True)
        ]
        row = {"name": knob.name, "values": values, "importance": known.together}
        rows.append(row | marked(knob.name, insight.default, recommended))
    return rows


def marked(
    name: str, default: Mapping[str, Any] | None, recommended: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return which value of a knob is the default's and which the recommendation's."""
    given = {"default": default or {}, "recommended": recommended or {}}
    return {what: values[name] for what, values in given.items() if name in values}


def pair_rows(insight: Insight, n: int) -> list[dict[str, Any]]:
    """Return the strongest pairs of knobs as the heat maps take them."""
    rows = []
    for pair, share in insight.pairs(n):
        one, other = (insight.space.knobs[i] for i in (pair.first, pair.second))
        # the longer one down the side, so that the map is not wider than its card
        turned = len(one.values) < len(other.values)
        shape: Callable[[Any], Any] = (lambda table: table.T) if turned else (lambda table: table)
        rows.append(
            {
                "a": (other if turned else one).name,
                "b": (one if turned else other).name,
                "a_values": list((other if turned else one).values),
                "b_values": list((one if turned else other).values),
                "mean": shape(pair.mean).tolist(),
                "sd": shape(pair.sd).tolist(),
                "interaction": shape(pair.interaction).tolist(),
                "interaction_sd": shape(pair.interaction_sd).tolist(),
                "share": share,
                "lowest": not insight.study.maximise,
            }
        )
    return rows


def stands_out(pair: Mapping[str, Any]) -> bool:
    """Return whether a cell is more than a deviation beyond what the two settings do alone."""
    both = zip(pair["interaction"], pair["interaction_sd"], strict=True)
    return any(abs(v) > sd for row, sds in both for v, sd in zip(row, sds, strict=True))


def curve_rows(insight: Insight) -> list[dict[str, Any]]:
    """Return the trials' scores over their epochs."""
    best, default = insight.best, insight.default
    rows = []
    for trial in insight.study.trials:
        if not trial.curve or trial.state == "failed":
            continue
        kind = "pruned" if trial.state == "pruned" else "other"
        if trial.is_default or (default is not None and trial.values == default):
            kind = "default"
        elif best is not None and trial.codes == best.codes:
            kind = "best"
        rows.append({"number": trial.number, "kind": kind, "points": trial.curve})
    return rows


def cost_rows(insight: Insight) -> tuple[list[tuple[str, str]], list[dict[str, Any]], str]:
    """Return figures on time, the settings whose values differ most in it, and a sentence."""
    times = [t.seconds for t in insight.timed if t.seconds]
    every = [t.seconds for t in insight.study.trials if t.seconds and t.state != "running"]
    if not every:
        return [], [], ""
    tiles = [("all trials", duration(sum(every)))]
    if times:
        tiles += [("median trial", duration(median(times))), ("fastest", duration(min(times))),
                  ("slowest", duration(max(times)))]  # fmt: skip
    pruned = [t.seconds for t in insight.study.trials if t.state == "pruned" and t.seconds]
    if pruned and times:
        saved = sum(max(0.0, median(times) - seconds) for seconds in pruned)
        tiles.append(("saved by pruning", duration(saved)))
    rows = []
    for values in insight.costs[:COSTS_SHOWN]:
        known = [v.times for v in values if math.isfinite(v.times.mean)]
        if not known or max(t.mean for t in known) < LEAST_FACTOR * min(t.mean for t in known):
            continue
        if max(t.low for t in known) < min(t.high for t in known):
            continue  # no two values that chance could not have told apart
        knob = insight.space.knobs[values[0].position]
        rows.append(
            {
                "name": knob.name,
                "values": [
                    {"value": knob.values[v.code], "mean": _number(v.times.mean),
                     "low": _number(v.times.low), "high": _number(v.times.high),
                     "seconds": v.seconds, "n": v.n}
                    for v in values
                ],
            }
        )  # fmt: skip
    words = ""
    if insight.costs and not rows:
        share = f"{100 * (LEAST_FACTOR - 1):.0f} %"
        words = f"No setting is seen to change the time of a trial by more than {share}."
    return tiles, rows, words


def finalist_rows(finalists: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the finalists by name, best first."""
    rows = []
    for i, finalist in enumerate(finalists):
        name = "default" if finalist["is_default"] else f"finalist {i + 1}"
        kept = ("values", "scores", "mean", "standard_error")
        rows.append({"name": name} | {k: finalist[k] for k in kept})
    return rows


def finals_so_far(insight: Insight) -> list[dict[str, Any]]:
    from rl.finals import Finalist, rank_finalists

    groups: list[tuple[Setting, list[tuple[int, float | None]]]] = []
    for final in insight.study.finals:
        for setting, scores in groups:
            if setting == final.values:
                scores.append((final.seed, final.score))
                break
        else:
            groups.append((final.values, [(final.seed, final.score)]))
    ranked = rank_finalists(
        [
            Finalist(setting, setting == insight.default, None,
                     tuple(seed for seed, _ in scores), tuple(score for _, score in scores))
            for setting, scores in groups
        ]
    )  # fmt: skip
    return [finalist.to_json() for finalist in ranked]
