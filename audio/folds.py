"""Cross-validation: the turns that folds take, and the mean and spread of their scores."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from audio.clips import Manifest, ManifestError
from audio.splits import SplitSettings, check_splits, draw_side, natural_order, train_every_class

SCORES = ("accuracy", "balanced_accuracy", "macro_f1")
SCORES_OF_SEVERAL = ("accuracy", "macro_f1", "micro_f1", "mean_average_precision")

#: Of the clips outside the test's fold. Published scores train on all of these; a tenth is what a
#: validation curve costs.
_VALIDATION_PERCENT_OF_FOLDS = 10.0


def official_folds(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the corpus's folds, 2 before 10.

    Raises:
        ManifestError: a clip without a fold, or fewer than two folds.
    """
    without = next((clip for clip in manifest.clips if clip.fold is None), None)
    if without is not None:
        raise ManifestError(
            f"{manifest.relative(without.path)}: in no fold, so there is nothing to cross-validate "
            "by; fill the CSV's fold column, name {fold} in --pattern, or give --draw-folds 5."
        )
    folds = sorted({str(clip.fold) for clip in manifest.clips}, key=natural_order)
    if len(folds) < 2:
        raise ManifestError(f"{len(folds)} fold is too few to cross-validate; at least 2.")
    return tuple(folds)


def assign_fold(manifest: Manifest, test_fold: str, settings: SplitSettings) -> Manifest:
    """Return the manifest split for one turn of cross-validation: `test_fold` is the test.

    The validation clips are whole groups drawn from the rest, classes kept in proportion; the
    split column and the groups and folds that `settings` may name are not heeded.

    Raises:
        ManifestError: as `assign_splits`.
    """
    percent = settings.validation_percent
    percent = _VALIDATION_PERCENT_OF_FOLDS if percent is None else percent
    if not 0 < percent < 100:
        raise ManifestError(f"validation_percent={percent:g} must be above 0 and below 100.")
    clips = manifest.clips
    groups = [clip.key if clip.group is None else f"group {clip.group}" for clip in clips]
    labels = manifest.strata()
    settled: list[str | None] = ["test" if clip.fold == test_fold else None for clip in clips]
    drawn = [split is None for split in settled]
    draw_side(settled, groups, labels, "validation", percent, settings.split_seed)
    train_every_class(settled, groups, [clip.classes for clip in clips], drawn)
    split = tuple(replace(c, split=s or "train") for c, s in zip(clips, settled, strict=True))
    result = replace(manifest, clips=split)
    check_splits(result, allow_leakage=settings.allow_leakage, fold=test_fold)
    return result


def draw_folds(manifest: Manifest, n_folds: int, *, seed: int = 0) -> Manifest:
    """Return the manifest with folds 1 to `n_folds` drawn: whole groups, classes in proportion.

    Raises:
        ManifestError: fewer than 2 folds, or more folds than groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    clips = manifest.clips
    groups = [clip.key if clip.group is None else f"group {clip.group}" for clip in clips]
    labels = manifest.strata()
    most = min(len(set(groups)), max(Counter(labels).values()))
    if not 2 <= n_folds <= most:
        raise ManifestError(
            f"draw_folds={n_folds} must be from 2 to {most}, the number of groups or of the clips "
            "of the largest class."
        )
    parts = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold = [""] * len(clips)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer clips than folds is no error here
        for number, (_, rows) in enumerate(parts.split(clips, labels, groups), start=1):
            for row in rows:
                fold[row] = str(number)
    return replace(
        manifest, clips=tuple(replace(c, fold=f) for c, f in zip(clips, fold, strict=True))
    )


def fold_scores(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard deviation over the folds, least, most, and a 95 % interval of the mean.

    The interval is Student's t over the folds. Their trainings share clips, so it is somewhat too
    narrow (Bengio & Grandvalet 2004: no unbiased estimate of this variance exists).

    >>> [round(v, 3) for v in fold_scores([0.8, 0.9, 1.0]).values()]
    [0.9, 0.1, 0.8, 1.0, 0.652, 1.148]
    """
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError(f"{len(values)} folds have no spread; at least 2 are needed.")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return {
        "mean": mean,
        "deviation": deviation,
        "least": float(min(values)),
        "most": float(max(values)),
        "low": mean - half,
        "high": mean + half,
    }


def over_folds(
    folds: Sequence[dict[str, Any]], names: Sequence[str] = SCORES
) -> dict[str, dict[str, float]]:
    """Return `fold_scores` of each score; folds: {"accuracy": ..., "macro_f1": ..., ...}."""
    return {name: fold_scores([fold[name] for fold in folds]) for name in names}
