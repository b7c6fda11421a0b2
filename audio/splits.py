"""Which side of a split each clip is on: by name, by fold, or drawn by whole groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from audio.clips import Clip, Manifest, ManifestError
from audio.settings import SettingsError

_VALIDATION_PERCENT = 20.0


@dataclass(frozen=True)
class SplitSettings:
    """Which clips train, which validate and which are kept for the test."""

    test_groups: tuple[str, ...] = ()
    """Groups kept for the test (speakers, sessions, sites)."""
    validation_groups: tuple[str, ...] = ()
    """Groups that validate."""
    test_folds: tuple[str, ...] = ()
    """Official folds kept for the test; by default the last one, where there are folds."""
    validation_folds: tuple[str, ...] = ()
    """Official folds that validate; by default the one before the test's."""
    test_percent: float = 20.0
    """Share of the clips kept for the test where nothing else decides; whole groups only."""
    validation_percent: float | None = None
    """Share of the clips that validate where nothing else decides; whole groups only. By default
    20, and 10 of each training under --folds."""
    split_seed: int = 0
    """Seed of the split by share."""
    allow_leakage: bool = False
    """Go on where a group, or the same sound twice, is on two sides of a split. The model's record
    says so."""

    def __post_init__(self) -> None:
        if not 0 <= self.split_seed < 2**32:  # what numpy takes
            raise SettingsError(
                f"split_seed={self.split_seed} must be 0 to {2**32 - 1}; give another."
            )


def assign_splits(manifest: Manifest, settings: SplitSettings) -> Manifest:
    """Return the manifest with every clip in train, validation or test.

    What decides, first come first served: the groups or folds that `settings` names; the split
    that the corpus prescribes; its official folds; else whole groups drawn by share, classes kept
    in proportion (as scikit-learn's StratifiedGroupKFold), so that every class is trained on. No
    group is ever on two sides.

    Raises:
        ManifestError: a named group or fold that no clip has, an empty side, too few groups, or a
            prescribed split that puts one group on two sides.
    """
    test, validation = settings.test_percent, settings.validation_percent
    if validation is None:
        validation = _VALIDATION_PERCENT
    if test < 0 or validation <= 0 or test + validation >= 100:
        raise ManifestError(
            f"test_percent={test:g} and validation_percent={validation:g} leave a side without "
            "clips; validation_percent must be above 0 and the two together below 100."
        )
    clips = manifest.clips
    settled: list[str | None] = [clip.split for clip in clips]
    if settings.test_groups or settings.validation_groups:
        settled = _by_name(
            [c.group for c in clips], settings.test_groups, settings.validation_groups, "group"
        )
    elif settings.test_folds or settings.validation_folds:
        settled = _by_name(
            [c.fold for c in clips], settings.test_folds, settings.validation_folds, "fold"
        )
    elif any(settled):
        settled = [None if split == "train" else split for split in settled]
    elif all(clip.fold is not None for clip in clips):
        folds = sorted({str(clip.fold) for clip in clips}, key=natural_order)
        if len(folds) < 3:
            raise ManifestError(
                f"{len(folds)} folds are too few for three sides; name --test-folds."
            )
        settled = _by_name([c.fold for c in clips], folds[-1:], folds[-2:-1], "fold")

    groups = [clip.key if clip.group is None else f"group {clip.group}" for clip in clips]
    labels = manifest.strata()
    drawn = [split is None for split in settled]
    if "test" not in settled and settings.test_percent > 0:
        draw_side(settled, groups, labels, "test", settings.test_percent, settings.split_seed)
    if "validation" not in settled:
        share = 100 * validation / (100 - test)
        draw_side(settled, groups, labels, "validation", share, settings.split_seed)
    train_every_class(settled, groups, [clip.classes for clip in clips], drawn)
    result = replace(
        manifest,
        clips=tuple(replace(c, split=s or "train") for c, s in zip(clips, settled, strict=True)),
    )
    check_splits(result, allow_leakage=settings.allow_leakage)
    return result


def leaked_groups(manifest: Manifest) -> list[tuple[Clip, Clip]]:
    """Return, for each group that is on two sides, a clip of either side."""
    side: dict[str, Clip] = {}
    found: dict[str, tuple[Clip, Clip]] = {}
    for clip in manifest.clips:
        if clip.group is not None:
            first = side.setdefault(clip.group, clip)
            if first.split != clip.split:
                found.setdefault(clip.group, (first, clip))
    return list(found.values())


def untrained_labels(manifest: Manifest) -> list[str]:
    """Return the classes that no training clip has, sorted."""
    return sorted(set(manifest.labels) - set(manifest.in_split("train").labels))


def check_splits(
    manifest: Manifest, *, allow_leakage: bool = False, fold: str | None = None
) -> None:
    """Hold a split manifest to the rules.

    fold: the test of one turn of several, in which a rare class may happen to be all in the test.

    Raises:
        ManifestError: a group on two sides (unless that is allowed), no clips to train or validate
            on, fewer than two classes, or a class that is never trained; of a fold, only if half
            of the test is of such classes. A fold without clips.
    """
    leaks = [] if allow_leakage else leaked_groups(manifest)
    for first, clip in leaks[:1]:
        more = f" ({len(leaks) - 1} more groups are, too)" if len(leaks) > 1 else ""
        raise ManifestError(
            f"group {clip.group} is on two sides: {manifest.relative(first.path)} in "
            f"{first.split}, {manifest.relative(clip.path)} in {clip.split}{more}; a model would "
            "be scored on what it was trained on. Move one, mend the group column, or "
            "--allow-leakage."
        )
    count = Counter(clip.split for clip in manifest.clips)
    for split in ("train", "validation"):
        if not count[split]:
            raise ManifestError(
                f"no clips are left for {split}; change the groups, folds or shares."
            )
    if fold is not None and not count["test"]:
        raise ManifestError(
            f"no clips are left of fold {fold}, which is the test in its turn; mend its clips, or "
            "leave the fold out of the corpus."
        )
    trained = set(manifest.in_split("train").labels)
    if len(trained) < 2:
        raise ManifestError(
            f"the training clips have {len(trained)} class; at least 2 are needed. In a folder of "
            "clips each class is a subfolder; else give a CSV or --pattern."
        )
    never = untrained_labels(manifest)
    if not never:
        return
    if fold is None:
        raise ManifestError(f"no training clip is labelled {', '.join(never)}; change the split.")
    test = manifest.in_split("test").clips
    strange = [clip for clip in test if not trained.issuperset(clip.classes)]
    if 2 * len(strange) >= len(test):
        raise ManifestError(
            f"{len(strange)} of {len(test)} test clips are of classes that no other fold has "
            f"({', '.join(never)}); change the folds."
        )


def natural_order(name: str) -> tuple[int, float, str]:
    """Sort 2 before 10, and numbers before words."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def _by_name(
    have: Sequence[str | None], test: Sequence[str], validation: Sequence[str], what: str
) -> list[str | None]:
    both = sorted(set(test) & set(validation))
    if both:
        raise ManifestError(f"{what} {', '.join(both)} cannot both test and validate.")
    there = {name for name in have if name is not None}
    for name in (*test, *validation):
        if name not in there:
            shown = ", ".join(sorted(there, key=natural_order)[:20]) or "none at all"
            raise ManifestError(f"no clip is in {what} {name}; there are: {shown}.")
    return ["test" if h in test else "validation" if h in validation else None for h in have]


def draw_side(
    settled: list[str | None],
    groups: Sequence[str],
    labels: Sequence[str],
    side: Literal["test", "validation"],
    percent: float,
    seed: int,
) -> None:
    """Move about `percent` of the clips that no side has yet to `side`, by whole groups."""
    from audio.group_folds import stratified_group_folds

    free = [i for i, split in enumerate(settled) if split is None]
    n_groups = len({groups[i] for i in free})
    if n_groups < 2:
        raise ManifestError(
            f"{n_groups} group is left to draw {side} clips from; a side needs a whole group of "
            "its own. Name more groups, or leave the group column out."
        )
    most = max(Counter(labels[i] for i in free).values())
    limit = min(n_groups, most, 20)
    if limit < 2:
        raise ManifestError(
            f"every class has one clip only, so none can be kept for {side}; add clips."
        )
    # the fewest equal parts of which some make up the share
    n_parts, n_taken = min(
        ((n, min(max(1, round(n * percent / 100)), n - 1)) for n in range(2, limit + 1)),
        key=lambda part: (abs(part[1] / part[0] - percent / 100), part[0]),
    )
    parts = stratified_group_folds(
        [labels[i] for i in free], [groups[i] for i in free], n_parts, seed=seed
    )
    taken = [i for fold in parts[:n_taken] for i in fold]
    for position in taken:
        settled[free[position]] = side


def train_every_class(
    settled: list[str | None],
    groups: Sequence[str],
    classes: Sequence[Sequence[str]],
    drawn: Sequence[bool],
) -> None:
    """Move whole groups that were drawn back to train until no class is held out entirely.

    classes: of each clip, one or several.
    """
    while True:
        trained = {
            name
            for names, split in zip(classes, settled, strict=True)
            if split is None
            for name in names
        }
        held: Counter[str] = Counter()
        for names, split, group, free in zip(classes, settled, groups, drawn, strict=True):
            if free and split is not None and not trained.issuperset(names):
                held[group] += 1
        if not held:
            return
        back = held.most_common(1)[0][0]
        for i, group in enumerate(groups):
            if group == back and drawn[i]:  # not what was named for a side
                settled[i] = None
