"""Which clips validate whom: the same ones for every training, or others in turn.

One speaker's clips, or one session's, are a narrow basis to choose settings by: what suits them
need not suit the next. In turn, each training holds out other groups.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from audio.clips import Clip, Manifest, ManifestError

_MOST_PARTS = 6
_DRAWN_PARTS = 5


def rotations(manifest: Manifest, *, seed: int = 0) -> tuple[Manifest, ...]:
    """Return the manifest in as many splits as there are parts to validate on in turn; the test
    stays as it is.

    The parts of the training and validation clips are their folds where the corpus prescribes
    them, a group each where there are no more than six groups, and else five of whole groups with
    the classes in proportion. A part without which a class could not be learnt never validates.

    Raises:
        ManifestError: fewer than two parts are left.
    """
    pool = [clip for clip in manifest.clips if clip.split in ("train", "validation")]
    names = _parts(pool, seed)
    made = []
    for name in sorted(set(names.values())):
        held = {key for key, part in names.items() if part == name}
        heard = {name for clip in pool if clip.key not in held for name in clip.classes}
        if heard.issuperset(name for clip in pool for name in clip.classes):
            made.append(replace(manifest, clips=tuple(_as(c, held) for c in manifest.clips)))
    if len(made) < 2:
        raise ManifestError(
            f"{len(made)} parts of the training and validation clips can validate in turn, and at "
            "least 2 are needed; give more groups, or leave out --rotate-validation."
        )
    return tuple(made)


def _as(clip: Clip, held: set[str]) -> Clip:
    if clip.split not in ("train", "validation"):
        return clip
    return replace(clip, split="validation" if clip.key in held else "train")


def _parts(pool: list[Clip], seed: int) -> dict[str, str]:
    """Return the name of each clip's part, by the clip's key."""
    folds = {clip.fold for clip in pool}
    if None not in folds and 2 <= len(folds) <= 2 * _MOST_PARTS:
        return {clip.key: f"fold {clip.fold}" for clip in pool}
    groups = {clip.group for clip in pool}
    if None not in groups and 2 <= len(groups) <= _MOST_PARTS:
        return {clip.key: str(clip.group) for clip in pool}
    from audio.group_folds import stratified_group_folds

    labels = Manifest(tuple(pool), pool[0].path.parent).strata()
    whole = [clip.key if clip.group is None else f"group {clip.group}" for clip in pool]
    n_parts = min(_DRAWN_PARTS, len(set(whole)), max(Counter(labels).values(), default=0))
    if n_parts < 2:
        return {clip.key: "all" for clip in pool}
    parts = stratified_group_folds(labels, whole, n_parts, seed=seed)
    return {pool[i].key: f"part {k + 1}" for k, rows in enumerate(parts) for i in rows}
