"""How good predictions are where a clip has several labels, or none: each label is a yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio.metrics import bootstrap_units, check_scorable
from audio.ranking import one_class

Array = NDArray[np.float64]
HALF = 0.5
_RESAMPLES = 1000


def evaluate_several(
    probabilities: NDArray[np.float32],
    memberships: NDArray[np.float32],
    labels: Sequence[str],
    *,
    thresholds: NDArray[np.float64] | Sequence[float] | None = None,
    groups: Sequence[str | None] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Return the scores of predictions, JSON-ready, each with a 95 % bootstrap interval.

    Mean average precision (over the labels that occur), micro- and macro-F1, and accuracy: the
    share of clips of which every label is right. probabilities, memberships: (n, n_labels).
    thresholds: from which probability on each label counts as heard, (n_labels,), or (n, n_labels)
    where clips were heard by models of several; one half by default. groups: as `metrics.evaluate`
    takes them.

    Raises:
        ValueError: no clips, or probabilities that are not finite.
    """
    check_scorable(probabilities)
    limit = np.broadcast_to(
        np.array(HALF if thresholds is None else thresholds, np.float64), probabilities.shape
    )
    true, heard = memberships > 0, probabilities >= limit
    units, over = bootstrap_units(len(true), groups)
    n_units = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    resamples = min(_RESAMPLES, max(200, int(2e8 / max(1, true.size))))
    drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), resamples)
    # how often each clip is in each resample; in the first as it is, once
    weight = np.concatenate([np.ones((1, len(true))), drawn[:, units]])
    precision = np.stack(
        [one_class(p, t, weight)[0] for p, t in zip(probabilities.T, true.T, strict=True)], 1
    )
    scores = {"mean_average_precision": _mean_of_known(precision)}
    scores |= _f1s(true, heard, weight)
    scores["accuracy"] = weight @ (true == heard).all(1) / np.maximum(weight.sum(1), 1)
    result: dict[str, Any] = {"n": len(true), "interval_over": over}
    for name, values in scores.items():
        low, high = np.percentile(values[1:], [2.5, 97.5])
        result[name] = {"value": float(values[0]), "low": float(low), "high": float(high)}
    result["log_loss"] = log_loss(probabilities, memberships)
    result["per_class"] = {
        label: _row(true[:, i], heard[:, i])
        | {"average_precision": None if np.isnan(precision[0, i]) else float(precision[0, i])}
        | {"threshold": float(limit[0, i]) if np.ptp(limit[:, i]) == 0 else None}
        for i, label in enumerate(labels)
    }
    return result


def quick_scores(
    probabilities: NDArray[np.float32],
    memberships: NDArray[np.float32],
    thresholds: Sequence[float] | float = HALF,
) -> dict[str, float]:
    """Return accuracy, macro-F1 and mean average precision, without intervals; thresholds: from
    which probability on a label, or each, counts as heard."""
    true, heard = memberships > 0, probabilities >= np.asarray(thresholds)
    one = np.ones((1, len(true)))
    precision = [one_class(p, t, one)[0][0] for p, t in zip(probabilities.T, true.T, strict=True)]
    return {
        "accuracy": float((true == heard).all(1).mean()),
        "macro_f1": float(_f1s(true, heard, one)["macro_f1"][0]),
        "mean_average_precision": float(_mean_of_known(np.array([precision]))[0]),
    }


def log_loss(probabilities: NDArray[np.float32], memberships: NDArray[np.float32]) -> float:
    """Return the binary cross-entropy, mean over clips and labels."""
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    return float(-np.where(memberships > 0, np.log(p), np.log1p(-p)).mean())


def tune_thresholds(
    probabilities: NDArray[np.float32], memberships: NDArray[np.float32]
) -> tuple[float, ...]:
    """Return the threshold of each label with the highest F1 on these clips.

    Between two probabilities that were seen, half way; of several the nearest to one half. A label
    that no clip has, or all have, keeps one half: nothing is known of where it begins. Meant for
    validation clips: on the clips it was tuned on, F1 is flattered.
    """
    chosen = []
    for p, true in zip(probabilities.T.astype(np.float64), memberships.T > 0, strict=True):
        if true.all() or not true.any():
            chosen.append(HALF)
            continue
        seen = np.unique(p)
        cuts = np.concatenate([[seen[0] / 2], (seen[1:] + seen[:-1]) / 2])
        heard = p[None] >= cuts[:, None]
        right = (heard & true).sum(1)
        f1 = 2 * right / (heard.sum(1) + true.sum())
        best = cuts[f1 == f1.max()]
        chosen.append(float(best[np.abs(best - HALF).argmin()]))
    return tuple(chosen)


def _f1s(true: NDArray[np.bool_], heard: NDArray[np.bool_], weight: Array) -> dict[str, Array]:
    """Return micro- and macro-F1 under several weightings; macro over labels true or heard."""
    right = weight @ (true & heard)  # (n_weightings, n_labels)
    both = weight @ true + weight @ heard
    f1 = np.divide(2 * right, both, out=np.full_like(right, np.nan), where=both > 0)
    return {
        "macro_f1": _mean_of_known(f1),
        "micro_f1": 2 * right.sum(1) / np.maximum(both.sum(1), 1e-12),
    }


def _mean_of_known(values: Array) -> Array:
    """Return the mean of each row's numbers, 0 where there are none."""
    known = ~np.isnan(values)
    mean: Array = np.where(known, values, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return mean


def _row(true: NDArray[np.bool_], heard: NDArray[np.bool_]) -> dict[str, Any]:
    right, n_true, n_heard = (int(x.sum()) for x in (true & heard, true, heard))
    return {
        "precision": right / n_heard if n_heard else 0.0,
        "recall": right / n_true if n_true else 0.0,
        "f1": 2 * right / (n_true + n_heard) if n_true + n_heard else 0.0,
        "support": n_true,
    }
