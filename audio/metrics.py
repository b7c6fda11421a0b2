"""How good predictions are, with bootstrap intervals: accuracy, macro-F1, ranking, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio.calibration import basic_interval, calibration_error, reliability
from audio.ranking import ranking_scores

_RESAMPLES = 2000
_LEAST_GROUPS = 8  # fewer resampled groups give no interval worth the name


def confusion_matrix(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], n_labels: int
) -> NDArray[np.int64]:
    """Return counts (n_labels, n_labels): row the true class, column the predicted one."""
    flat = np.bincount(targets * n_labels + predicted, minlength=n_labels**2)
    return flat.reshape(n_labels, n_labels)


def scores_of(confusion: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return accuracy, balanced accuracy and macro-F1 of confusions (..., n_labels, n_labels).

    Balanced accuracy and macro-F1 are means over the classes that occur (as true class; for F1 as
    true or predicted class), as scikit-learn's are.
    """
    confusion = np.asarray(confusion, np.float64)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, guessed = confusion.sum(-1), confusion.sum(-2)
    occurs, seen = true > 0, (true + guessed) > 0
    recall = np.divide(right, true, out=np.zeros_like(right), where=occurs)
    f1 = np.divide(2 * right, true + guessed, out=np.zeros_like(right), where=seen)
    return {
        "accuracy": right.sum(-1) / np.maximum(true.sum(-1), 1),
        "balanced_accuracy": recall.sum(-1) / np.maximum(occurs.sum(-1), 1),
        "macro_f1": f1.sum(-1) / np.maximum(seen.sum(-1), 1),
    }


def evaluate(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    *,
    groups: Sequence[str | None] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Return the scores of predictions, JSON-ready, each with a 95 % bootstrap interval.

    probabilities: (n, n_labels). targets: (n,). groups: of each clip; where there are at least 8,
    whole groups are resampled, since clips of one group are not independent.

    Raises:
        ValueError: no clips, or probabilities that are not finite.
    """
    check_scorable(probabilities)
    n_labels = len(labels)
    predicted = probabilities.argmax(1)
    confusion = confusion_matrix(targets, predicted, n_labels)
    units, over = bootstrap_units(len(targets), groups)
    resampled = scores_of(_resampled(targets, predicted, units, n_labels, seed))
    result: dict[str, Any] = {"n": len(targets), "interval_over": over}
    for name, value in scores_of(confusion).items():
        low, high = np.percentile(resampled[name], [2.5, 97.5])
        result[name] = {"value": float(value), "low": float(low), "high": float(high)}
    result |= _of_probabilities(probabilities, targets, units, seed)
    true_class = np.clip(probabilities[np.arange(len(targets)), targets], 1e-12, 1)
    result["log_loss"] = float(-np.log(true_class).mean())
    result["per_class"] = per_class(confusion, labels)
    result["confusion"] = {"labels": list(labels), "counts": confusion.tolist()}
    return result


def check_scorable(probabilities: NDArray[np.float32]) -> None:
    """Raise ValueError where there are no clips, or probabilities that are not finite."""
    if not len(probabilities):
        raise ValueError("no clips to score.")
    if not np.isfinite(probabilities).all():
        raise ValueError("the network's output is not finite; lower learning_rate.")


def bootstrap_units(n: int, groups: Sequence[str | None]) -> tuple[NDArray[np.int64], str]:
    """Return the unit that each of n clips is resampled with, (n,), and what the units are.

    Whole groups where there are at least 8 and they are fewer than the clips; else clips.
    """
    names = [f"clip {i}" if g is None else f"group {g}" for i, g in enumerate(groups)]
    if len(set(names)) >= _LEAST_GROUPS and len(set(names)) < len(names):
        return np.unique(names, return_inverse=True)[1].astype(np.int64), "groups"
    return np.arange(n), "clips"


def _of_probabilities(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.int64],
    units: NDArray[np.int64],
    seed: int,
) -> dict[str, Any]:
    """Return mean average precision, ROC AUC and calibration error with intervals over units, and
    the bins of the reliability diagram. A score that no class has is left out."""
    n, n_labels = probabilities.shape
    is_true = np.arange(n_labels) == targets[:, None]
    n_units = int(units.max()) + 1
    # sorting is done once a class; a resample is some sums over all clips
    resamples = min(_RESAMPLES // 2, max(200, int(2e7 / (n * n_labels))))
    rng = np.random.default_rng([seed, 1])
    weights = rng.multinomial(n_units, np.full(n_units, 1 / n_units), resamples).astype(float)
    values = ranking_scores(probabilities, is_true)
    drawn = ranking_scores(probabilities, is_true, weights[:, units])
    result: dict[str, Any] = {}
    for name, value, some in zip(("mean_average_precision", "roc_auc"), values, drawn, strict=True):
        known = some[np.isfinite(some)]
        if np.isfinite(value[0]) and len(known):
            low, high = np.percentile(known, [2.5, 97.5])
            result[name] = {"value": float(value[0]), "low": float(min(low, value[0]))}
            result[name]["high"] = float(max(high, value[0]))
    error = float(calibration_error(probabilities, targets)[0])
    low, high = basic_interval(error, calibration_error(probabilities, targets, units, weights))
    result["calibration_error"] = {"value": error, "low": float(low), "high": float(high)}
    result["reliability"] = reliability(probabilities, targets)
    return result


def per_class(confusion: NDArray[np.int64], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and support of each class; 0 where undefined."""
    rows = {}
    for i, label in enumerate(labels):
        right, true, guessed = confusion[i, i], confusion[i].sum(), confusion[:, i].sum()
        rows[label] = {
            "precision": float(right / guessed) if guessed else 0.0,
            "recall": float(right / true) if true else 0.0,
            "f1": float(2 * right / (true + guessed)) if true + guessed else 0.0,
            "support": int(true),
        }
    return rows


def _resampled(
    targets: NDArray[np.int64],
    predicted: NDArray[np.int64],
    units: NDArray[np.int64],
    n_labels: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return the confusions of bootstrap resamples of whole units, (resamples, n, n)."""
    n_units = int(units.max()) + 1
    cell = targets * n_labels + predicted
    used, column = np.unique(cell, return_inverse=True)  # most cells of a confusion are empty
    counts = np.zeros((n_units, len(used)))
    np.add.at(counts, (units, column), 1)
    rng = np.random.default_rng(seed)
    resamples = min(_RESAMPLES, max(200, int(2e8 / (n_units + n_labels**2))))
    out = np.zeros((resamples, n_labels**2))
    for first in range(0, resamples, 200):  # a few at a time: n_units may be large
        some = min(200, resamples - first)
        weight = rng.multinomial(n_units, np.full(n_units, 1 / n_units), some)
        out[first : first + some, used] = weight @ counts
    return out.reshape(resamples, n_labels, n_labels)
