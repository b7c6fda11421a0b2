"""What a study says, in sentences for a reader who has better things to do."""

from __future__ import annotations

from rl.insight import Estimate, Insight

LITTLE, MUCH = 0.1, 0.5
"""Foretold shares of the variance below which beliefs are guesses, and above which they hold."""
NOTED = 0.1
"""Share of the variance from which a pair of knobs is worth a sentence."""


def summary(insight: Insight) -> list[str]:
    """Return what to make of the study: the best, how sure, what matters, what went wrong."""
    return [best_words(insight), *knob_words(insight), *trouble_words(insight)]


def knob_words(insight: Insight) -> list[str]:
    """Return what to make of the beliefs about knobs; nothing where there are none."""
    return [_sureness(insight), *_matters(insight)] if insight.knobs else []


def spread(estimate: Estimate, *, signed: bool = False) -> str:
    """Return an estimate with its interval.

    >>> spread(Estimate(0.5, 0.41234, 0.6))
    '0.500 (95 % interval 0.412 to 0.600)'
    """
    sign = "+" if signed else ""
    mean, low, high = (f"{v:{sign}.3f}" for v in (estimate.mean, estimate.low, estimate.high))
    if estimate.low != estimate.low:
        return mean
    return f"{mean} (95 % interval {low} to {high})"


def best_words(insight: Insight) -> str:
    """Return which setting is best and how it stands against the default."""
    best, default = insight.best, insight.default
    if best is None:
        return "No trial has a score yet."
    n = len(insight.scored)
    trials = f"{n} scored trial" + ("" if n == 1 else "s")
    if best.values == default:
        return (
            f"After {trials} none is expected to beat the default setting, which stands at "
            f"{spread(insight.path[-1].score)}."
        )
    words = (
        f"After {trials} the best setting tried is that of trial {best.number}, expected to score "
        f"{spread(insight.path[-1].score)} on a fresh training."
    )
    if default is None or not insight.space.holds(default):
        return words
    difference = insight.difference(best.values, default)
    words += f" Against the default setting that is {spread(difference, signed=True)}"
    better = difference.low > 0 if insight.study.maximise else difference.high < 0
    return words + (
        ": better, as far as the model can tell."
        if better
        else ", an interval that includes zero: it may be no better."
    )


def _sureness(insight: Insight) -> str:
    foretold = insight.foretells
    if foretold is None:
        return "There are too few trials to tell how far the model can be trusted."
    if foretold < LITTLE:
        return (
            "The model does not foretell trials that were kept from it any better than their mean "
            "does: what follows on single settings is little more than a guess. More trials, or a "
            "reward with less chance in it, would help."
        )
    share = f"{100 * foretold:.0f} %"
    if foretold < MUCH:
        return (
            f"The model foretells {share} of the variance of trials that were kept from it: large "
            "effects can be trusted, small ones cannot."
        )
    return f"The model foretells {share} of the variance of trials that were kept from it."


def _matters(insight: Insight) -> list[str]:
    knobs = sorted(insight.knobs, key=lambda knob: -knob.alone)
    if not knobs or not insight.importance.sd:
        return []
    names = [insight.space.knobs[knob.position].name for knob in knobs]
    top = [f"{name} ({100 * k.alone:.0f} %)" for name, k in zip(names, knobs, strict=True)][:3]
    words = f"Of the differences that it sees between settings, {top[0]} makes most on its own"
    if len(top) > 1:
        words += f", then {' and '.join(top[1:])}"
    rest = 1 - sum(knob.alone for knob in knobs[:3]) - _in_pairs(insight)
    if len(knobs) > 3:
        words += f"; the other {len(knobs) - 3} together make {max(0.0, 100 * rest):.0f} %"
    return [words + ".", _pairs(insight)]


def _in_pairs(insight: Insight) -> float:
    share = insight.importance
    return float(share.pairs.sum()) / 2 + share.rest


def _pairs(insight: Insight) -> str:
    total = 100 * _in_pairs(insight)
    strongest = insight.pairs(1)
    if not strongest or strongest[0][1] < NOTED:
        return f"Settings act mostly on their own: all combinations together make {total:.0f} %."
    pair, share = strongest[0]
    one, other = (insight.space.knobs[i].name for i in (pair.first, pair.second))
    return (
        f"{one} and {other} depend on each other ({100 * share:.0f} %), so they are to be chosen "
        f"together; all combinations make {total:.0f} %."
    )


def trouble_words(insight: Insight) -> list[str]:
    """Return what went wrong; nothing where all went well."""
    failed = [trial for trial in insight.study.trials if trial.state == "failed"]
    if not failed:
        return []
    error = failed[-1].error.splitlines()
    n = len(failed)
    words = f"{n} trial{'' if n == 1 else 's'} failed"
    return [f"{words}; the last with: {error[-1]}" if error else f"{words}."]
