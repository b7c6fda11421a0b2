"""The report page of a search, finished or not, and of anybody's Optuna study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio import belief_report, report, search_report
from audio.page import Section, write_report
from scripts.pages import accuracy_words, closing_sections, model_sections
from scripts.study_rows import (
    belief_rows,
    cost_rows,
    counts_text,
    curve_rows,
    finalist_rows,
    finals_so_far,
    marked,
    pair_rows,
    path_rows,
    stands_out,
    trial_rows,
)

if TYPE_CHECKING:
    from rl.insight import Insight
    from rl.space import Setting

PAIRS_SHOWN = 6
PAIRS_ALWAYS = 2
"""Heat maps that are drawn even where chance could have made what is in them."""
OWN_TABLES = ("epsilon-greedy", "ucb", "thompson", "q-learning")
"""Agents whose beliefs are not those of the reward model."""


def write_search_page(
    folder: Path, results: dict[str, Any], record: dict[str, Any], *, path: Path | None = None,
    insight: Insight | None = None,
) -> None:  # fmt: skip
    """Write the page of a finished search; the winner's model is under `folder`/model.

    path: None is report.html in the folder. insight: into its study; None looks for it.
    """
    model, found = results["model"], results["recommendation"]
    title, interval, caveat = accuracy_words(model)
    when = (
        "Scored once, at the end."
        if "test" in model
        else "By these clips the setting was chosen, so the figure is too good; keep a test split."
    )
    default, best = results["default"]["values"], results["best"]["values"]
    insight = insight or insight_of(folder, results, record)
    sections = [
        report.headline(
            title,
            f"with the setting that {results['settings']['agent']} recommends after "
            f"{len(results['trials'])} trials; {interval}. {when}{caveat}",
        ),
        search_report.recommendation(found["words"], found["changes"], found["command"]),
        *_evidence(results),
        *study_sections(insight, best),
        *own_beliefs(results["settings"]["agent"], results["beliefs"], default, best),
        search_report.finalists_table(finalist_rows(results["finalists"])),
        *model_sections(folder / "model", model),
        report.settings_table(model["settings"], _with_default(model["settings"], default)),
        closing_sections(model["settings"], record)[-1],
    ]
    path = path or folder / "report.html"
    write_report(path, title="A search for settings", sections=sections)


def insight_of(folder: Path, results: Mapping[str, Any], record: Mapping[str, Any]) -> Insight:
    """Return what a finished search teaches: from the study in its folder, or from its results
    where the study is elsewhere or gone."""
    from rl.insight import Insight
    from rl.records import open_study, read_study, study_of_results
    from rl.space import SearchSpace

    if (folder / "study.db").exists():
        return Insight(read_study(*open_study(str(folder / "study.db"))))
    return Insight(study_of_results(results, SearchSpace.from_json(record["space"])))


def write_study_page(
    path: Path, insight: Insight, *, title: str, beliefs: Mapping[str, Any] | None = None
) -> None:
    """Write the page of a study without results: one under way, stopped, or somebody else's.

    beliefs: what an agent with a table of its own thinks of the knobs' values.
    """
    from rl.plain_words import best_words, spread

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
            {"setting": name, "recommended": value}
            | ({"default": default[name]} if default and name in default else {})
            for name, value in best.values.items()
            if default is None or value != default.get(name)
        ]
        words = best_words(insight)
        if default and insight.space.holds(default):
            words += f" The default is expected to score {spread(insight.expected(default))}."
        words += " So far the reward model says so" + (
            ", and the final round is under way." if insight.study.finals
            else "; training again on fresh seeds would tell."
        )  # fmt: skip
        sections.append(search_report.recommendation(words, changes, "", title="Best so far"))
    sections += study_sections(insight, best.values if best else None)
    if beliefs and study.agent:
        sections += own_beliefs(study.agent, beliefs, default or {}, best.values if best else {})
    if finalists := finals_so_far(insight):
        rows = finalist_rows(finalists)
        sections.append(search_report.finalists_table(rows, title="The final round so far"))
    write_report(path, title=title, sections=sections)


def study_sections(insight: Insight, recommended: Setting | None) -> list[Section]:
    """Return what there is to see of the trials and of what they taught."""
    from rl.plain_words import knob_words, trouble_words

    names = [knob.name for knob in insight.space.knobs]
    pairs = pair_rows(insight, PAIRS_SHOWN)
    maps = [p for i, p in enumerate(pairs) if i < PAIRS_ALWAYS or stands_out(p)]
    tiles, costs, words = cost_rows(insight)
    sections = [
        search_report.reward_curve(
            trial_rows(insight),
            path=path_rows(insight),
            lowest=not insight.study.maximise,
            notes=trouble_words(insight),
        ),
        belief_report.importance(
            [
                {"name": names[k.position], "alone": k.alone, "together": k.together}
                for k in insight.knobs
            ],
            pairs,
            foretells=insight.foretells,
            words=knob_words(insight),
        ),
        belief_report.beliefs(
            belief_rows(insight, recommended), title="What each setting is believed to do"
        ),
    ]
    if maps:
        sections.append(belief_report.pair_heatmaps(maps))
    curves = curve_rows(insight)
    if any(len(curve["points"]) > 1 for curve in curves):
        sections.append(search_report.trial_curves(curves))
    return [*sections, search_report.costs(tiles, costs, words=words)]


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
        knobs.append(knob | marked(name, default, best))
    title = f"What {agent} itself keeps of each setting"
    return [belief_report.beliefs(knobs, title=title, own=True)]


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
