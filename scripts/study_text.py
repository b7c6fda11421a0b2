"""What a study teaches, as text for the terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from scripts.tables import aligned

if TYPE_CHECKING:
    from rl.insight import Insight
    from rl.space import Setting

PAIRS_SHOWN = 3


def study_text(insight: Insight, recommended: Setting | None) -> str:
    """Return the main table, a row per knob, the strongest pairs, and what to make of it.

    recommended: the setting whose values are listed; None is the best setting tried.
    """
    from rl.plain_words import summary

    lines = []
    best = insight.best
    setting = recommended or (best.values if best else {})
    if insight.knobs:
        lines += [*aligned(knob_table(insight, setting), words=(0, 2, 5, 6)), ""]
    pairs = insight.pairs(PAIRS_SHOWN)
    if pairs:
        names = [knob.name for knob in insight.space.knobs]
        rows = [["pair", "adds"]]
        rows += [[f"{names[p.first]} with {names[p.second]}", f"{100 * share:.1f} %"]
                 for p, share in pairs]  # fmt: skip
        lines += [*aligned(rows), ""]
    lines += ["\n".join(textwrap.wrap(sentence, 98)) for sentence in summary(insight)]
    return "\n".join(lines) + "\n"


def knob_table(insight: Insight, setting: Setting) -> list[list[str]]:
    """Return a row per knob, the most important first: its share of the differences on its own and
    what its pairs add, its best value and that of a setting and of the default."""
    rows = [["setting", "matters", "best value", "score", "tried", "recommended", "default"]]
    for known in insight.knobs:
        knob = insight.space.knobs[known.position]
        scores = [insight.sign * effect.mean for effect in known.effects]
        order = [(score, -code) for code, score in enumerate(scores) if score == score]
        if not order:
            continue  # it exists in no setting
        best = -max(order)[1]
        effect = known.effects[best]
        chosen = [
            _shown(values[knob.name]) if knob.name in values else "-"
            for values in (setting, insight.default or {})
        ]
        share = f"{100 * known.alone:.1f} + {100 * (known.together - known.alone):.1f} %"
        score = f"{effect.mean:.3f} ± {effect.sd:.3f}"
        rows.append(
            [knob.name, share, _shown(knob.values[best]), score, f"{known.counts[best]}x", *chosen]
        )
    return rows


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
