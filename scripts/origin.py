"""The melbandit model that a fit starts from: what it knows of the labels and of the clips."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from audio.clips import Manifest, ManifestError, read_csv
from audio.own_model import own_config
from scripts.command import say

if TYPE_CHECKING:
    from scripts.clips_in import ClipsIn


def known_to(backbone: str, manifest: Manifest) -> frozenset[str]:
    """Return the keys of the clips that the model that a fit starts from was trained on, and say
    how many of the labels it knows; none where it is not melbandit's, or has no manifest.csv."""
    from audio.leakage import known_clips

    config = own_config(backbone)
    if config is None:
        return frozenset()
    labels = manifest.labels
    n = len(set(labels) & set(config.get("id2label", {}).values()))
    say(f"starts from {backbone}, which knows {n} of the {len(labels)} classes")
    table = Path(backbone) / "manifest.csv"
    return known_clips(manifest, read_csv(table)) if table.exists() else frozenset()


def heard_before(
    backbone: str,
    known: Collection[str],
    manifest: Manifest,
    *,
    allow_leakage: bool,
    sides: Collection[str] = ("validation", "test"),
) -> int:
    """Return how many clips on some sides of the split are among those that `known_to` returned.

    Raises:
        ManifestError: there are some, and that is not allowed.
    """
    heard = [clip for clip in manifest.clips if clip.split in sides and clip.key in known]
    if heard and not allow_leakage:
        first = heard[0]
        raise ManifestError(
            f"{manifest.relative(first.path)} in {first.split} was trained on by {backbone}, which "
            f"this fit starts from ({len(heard)} such clips); it would be scored on what it was "
            f"trained on. Split as that model was ({Path(backbone) / 'manifest.csv'} in place of "
            "the clips), start from another one, or --allow-leakage."
        )
    return len(heard)


def with_origin(
    backbone: str,
    clips: ClipsIn,
    *,
    allow_leakage: bool,
    sides: Collection[str] = ("validation", "test"),
) -> ClipsIn:
    """Return the clips with `heard_before` in what leaks, and say what the model knows.

    Raises:
        ManifestError: as `heard_before`.
    """
    from audio.leakage import with_known

    known = known_to(backbone, clips.manifest)
    n = heard_before(backbone, known, clips.manifest, allow_leakage=allow_leakage, sides=sides)
    if not n:
        return clips
    say(f"note: leakage allowed: {backbone} was trained on {n} clips that score this fit.")
    return replace(clips, leakage=with_known(clips.leakage, n))
