"""The report page of a search, finished or not, and of anybody's Optuna study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from audio import belief_report, report, search_report
from audio.page import Section, write_report
from audio.plots import duration, percent
from scripts.pages import closing_sections, model_sections

if TYPE_CHECKING:
    from rl.insight import Insight
    from rl.space import Setting

PAIRS_SHOWN = 6
COSTS_SHOWN = 4
LEAST_FACTOR = 1.1
"""Ratio of the slowest value's time to the fastest's from which a setting's cost is shown."""
OWN_TABLES = ("epsilon-greedy", "ucb", "thompson", "q-learning")
"""Agents whose beliefs are not those of the reward model."""


def write_search_page(
    folder: Path, results: dict[str, Any], record: dict[str, Any], *, path: Path | None = None
) -> None:
    """Write the page of a finished search; the winner's model is under `folder`/model.

    path: None is report.html in the folder.
    """
    model, found = results["model"], results["recommendation"]
    accuracy = model["test" if "test" in model else "validation"]
    scored = accuracy["accuracy"]
    default, best = results["default"]["values"], results["best"]["values"]
    insight = insight_of(folder)
    sections = [
        report.headline(
            f"{percent(scored['value'])} of {accuracy['n']} held-out clips right",
            f"with the setting that {results['settings']['agent']} recommends after "
            f"{len(results['trials'])} trials; 95 % interval {percent(scored['low'])} to "
            f"{percent(scored['high'])} over {accuracy['interval_over']}. Scored once, at the end.",
        ),
        search_report.recommendation(found["words"], found["changes"], found["command"]),
        *_evidence(results),
        *(study_sections(insight, best) if insight else []),
        *own_beliefs(results["settings"]["agent"], results["beliefs"], default, best),
        search_report.finalists_table(finalist_rows(results["finalists"])),
        *model_sections(folder / "model", model),
        report.settings_table(model["settings"], _with_default(model["settings"], default)),
        closing_sections(model["settings"], record)[-1],
    ]
    path = path or folder / "report.html"
    write_report(path, title="A search for settings", sections=sections)


def insight_of(folder: Path) -> Insight | None:
    """Return what the study in a search's folder teaches; None where it is gone."""
    from rl.insight import Insight
    from rl.records import open_study, read_study

    path = folder / "study.db"
    return Insight(read_study(*open_study(str(path)))) if path.exists() else None


def write_study_page(
    path: Path, insight: Insight, *, title: str, beliefs: Mapping[str, Any] | None = None
) -> None:
    """Write the page of a study without results: one under way, stopped, or somebody else's.

    beliefs: what an agent with a table of its own thinks of the knobs' values.
    """
    from rl.plain_words import spread, summary

    study, best, default = insight.study, insight.best, insight.default
    goal = "" if study.maximise else " (low is good)"
    head = report.headline("No trial has a score yet")
    if best is not None:
        head = report.headline(
            f"{insight.path[-1].score.mean:.3f} expected of the best setting so far{goal}",
            f"{counts_text(insight)}. Study {study.name}"
            + (f", agent {study.agent}." if study.agent else "."),
        )
    sections = [head]
    if best is not None:
        changes = [
            {"setting": name, "default": (default or {}).get(name), "recommended": value}
            for name, value in best.values.items()
            if default is None or value != default.get(name)
        ]
        words = summary(insight)[0]
        if default and insight.space.holds(default):
            words += f" The default is expected to score {spread(insight.expected(default))}."
        words += " This is what the model makes of the trials; no finals have been held."
        sections.append(search_report.recommendation(words, changes, "", title="Best so far"))
    sections += study_sections(insight, best.values if best else None)
    if beliefs and study.agent:
        sections += own_beliefs(study.agent, beliefs, default or {}, best.values if best else {})
    if finalists := _finals_so_far(insight):
        rows = finalist_rows(finalists)
        sections.append(search_report.finalists_table(rows, title="The final round so far"))
    write_report(path, title=title, sections=sections)


def study_sections(insight: Insight, recommended: Setting | None) -> list[Section]:
    """Return what there is to see of the trials and of what they taught."""
    from rl.plain_words import summary

    names = [knob.name for knob in insight.space.knobs]
    pairs = pair_rows(insight, PAIRS_SHOWN)
    tiles, costs, words = cost_rows(insight)
    sections = [
        search_report.reward_curve(
            trial_rows(insight), path=path_rows(insight), lowest=not insight.study.maximise
        ),
        belief_report.importance(
            [
                {"name": names[k.position], "alone": k.alone, "together": k.together}
                for k in insight.knobs
            ],
            pairs,
            foretells=insight.foretells,
            words=summary(insight)[1:],
        ),
        belief_report.beliefs(
            belief_rows(insight, recommended), title="What each setting is believed to do"
        ),
    ]
    if pairs:
        sections.append(belief_report.pair_heatmaps(pairs))
    curves = curve_rows(insight)
    if any(len(curve["points"]) > 1 for curve in curves):
        sections.append(search_report.trial_curves(curves))
    return [*sections, search_report.costs(tiles, costs, words=words)]


# Rows


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
        rows.append(row | _marked(knob.name, insight.default, recommended))
    return rows


def _marked(
    name: str, default: Mapping[str, Any] | None, recommended: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return which value of a knob is the default's and which the recommendation's."""
    given = {"default": default or {}, "recommended": recommended or {}}
    return {what: values[name] for what, values in given.items() if name in values}


def own_beliefs(
    agent: str, beliefs: Mapping[str, Any], default: Mapping[str, Any], best: Mapping[str, Any]
) -> list[Section]:
    """Return what an agent's own table holds; nothing where the reward model is the agent's."""
    if agent not in OWN_TABLES:
        return []
    knobs = []
    for name, rows in beliefs.items():
        known = [row["estimate"] for row in rows if row["estimate"] is not None]
        values = [
            {"value": row["value"], "mean": row["estimate"], "sd": row["sd"], "n": row["count"]}
            for row in rows
        ]
        width = max(known) - min(known) if known else 0.0
        knob = {"name": name, "values": values, "importance": width}
        knobs.append(knob | _marked(name, default, best))
    title = f"What {agent} itself keeps of each setting"
    return [belief_report.beliefs(knobs, title=title, own=True)]


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
        tiles.append(("saved by pruning, about", duration(saved)))
    rows = []
    for values in insight.costs[:COSTS_SHOWN]:
        factors = [v.times.mean for v in values if math.isfinite(v.times.mean)]
        if not factors or max(factors) / min(factors) < LEAST_FACTOR:
            continue
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
        words = f"No setting changes the time of a trial by more than {share}."
    return tiles, rows, words


def finalist_rows(finalists: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the finalists by name, best first."""
    rows = []
    for i, finalist in enumerate(finalists):
        name = "default" if finalist["is_default"] else f"finalist {i + 1}"
        kept = ("values", "scores", "mean", "standard_error")
        rows.append({"name": name} | {k: finalist[k] for k in kept})
    return rows


def _finals_so_far(insight: Insight) -> list[dict[str, Any]]:
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


def _evidence(results: Mapping[str, Any]) -> list[Section]:
    best, default = results["best"], results["default"]
    if best["is_default"]:
        return []
    theirs = dict(zip(default["seeds"], default["scores"], strict=True))
    seeds = [
        {"seed": seed, "recommended": score, "default": theirs.get(seed)}
        for seed, score in zip(best["seeds"], best["scores"], strict=True)
    ]
    return [
        search_report.evidence(seeds, results["difference"], names=("recommended", "default"))
    ]  # fmt: skip


def _with_default(settings: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the default's values in place of the winner's choices."""
    return {
        group: {name: default.get(name, value) for name, value in fields.items()}
        for group, fields in settings.items()
    }
