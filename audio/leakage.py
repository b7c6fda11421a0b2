"""The same sound on two sides of a split: found by decoded content, refused or put on record."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio.clips import Clip, Manifest, ManifestError
from audio.splits import leaked_groups

_MOST_RECORDED = 20  # pairs named in a record; all are counted
_TOUCH_S = 1e-3  # pieces that overlap by less only touch: times are rounded to samples


def content_digest(samples: NDArray[Any]) -> str | None:
    """Return a digest of decoded samples, the same for the same sound in any container.

    None where every sample has one value: silence tells nothing, so it cannot leak.

    >>> content_digest(np.zeros(8, np.float32)) is None
    True
    """
    if not samples.size or (samples == samples.flat[0]).all():
        return None
    data = np.ascontiguousarray(samples)
    digest = hashlib.blake2b(str((data.shape, data.dtype.str)).encode(), digest_size=16)
    digest.update(data.data)
    return digest.hexdigest()


def same_content(clips: Sequence[Clip], digests: Iterable[str | None]) -> list[tuple[Clip, ...]]:
    """Return the sets of clips that decode to the same samples, in the order of their first."""
    by_digest: dict[str, list[Clip]] = {}
    for clip, digest in zip(clips, digests, strict=True):
        if digest is not None:
            by_digest.setdefault(digest, []).append(clip)
    return [tuple(same) for same in by_digest.values() if len(same) > 1]


def leaked_content(manifest: Manifest, digests: Iterable[str | None]) -> list[tuple[Clip, Clip]]:
    """Return, for each sound that is on two sides of the split, a clip of either side."""
    pairs = []
    for same in same_content(manifest.clips, digests):
        other = next((clip for clip in same if clip.split != same[0].split), None)
        if other is not None:
            pairs.append((same[0], other))
    return pairs


def known_clips(manifest: Manifest, earlier: Manifest) -> frozenset[str]:
    """Return the keys of the clips that hold what an earlier fit was trained on.

    earlier: the clips of that fit, in its splits. Files are told by their paths, their pieces by
    whether they overlap.
    """

    def piece(clip: Clip) -> tuple[float, float]:
        end = math.inf if clip.duration_s is None else clip.start_s + clip.duration_s
        return clip.start_s, end - _TOUCH_S

    trained: dict[Path, list[tuple[float, float]]] = {}
    for clip in earlier.in_split("train").clips:
        trained.setdefault(clip.path.resolve(), []).append(piece(clip))

    def is_known(clip: Clip) -> bool:
        start, end = piece(clip)
        pieces = trained.get(clip.path.resolve(), ())
        return any(start < other_end and other < end for other, other_end in pieces)

    return frozenset(clip.key for clip in manifest.clips if is_known(clip))


def check_leakage(
    manifest: Manifest, digests: Sequence[str | None], *, allow: bool
) -> dict[str, Any] | None:
    """Return what leaks from one side of the split to another, JSON-ready; None where nothing does.

    manifest: with a split for every clip. digests: `content_digest` of each clip, in its order.

    Raises:
        ManifestError: something leaks and `allow` is false; names the first pair.
    """
    groups, content = leaked_groups(manifest), leaked_content(manifest, digests)
    if content and not allow:
        one, other = content[0]
        more = f" ({len(content) - 1} more pairs)" if len(content) > 1 else ""
        raise ManifestError(
            f"{manifest.relative(one.path)} in {one.split} and {manifest.relative(other.path)} in "
            f"{other.split} are the same sound, sample for sample{more}; a model would be scored "
            "on what it was trained on. Remove one, give both the same group (`melbandit data "
            "--group-copies` writes a manifest that does), or --allow-leakage."
        )
    if not groups and not content:
        return None
    return {
        "groups_on_two_sides": len(groups),
        "same_content_on_two_sides": len(content),
        "pairs": [
            {
                "why": why,
                "first": manifest.relative(one.path),
                "first_split": one.split,
                "second": manifest.relative(other.path),
                "second_split": other.split,
            }
            for why, pairs in (("group", groups), ("content", content))
            for one, other in pairs[:_MOST_RECORDED]
        ],
    }


def with_known(leakage: dict[str, Any] | None, n: int) -> dict[str, Any]:
    """Return what `check_leakage` found, and how many of the clips that score a fit the model that
    it starts from was trained on."""
    nothing = {"groups_on_two_sides": 0, "same_content_on_two_sides": 0, "pairs": []}
    return (leakage or nothing) | {"trained_on_before": n}
