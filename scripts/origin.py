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


def say_origin(backbone: str, labels: Collection[str]) -> None:
    """Say how many of the labels the model that a fit starts from knows, if it is melbandit's."""
    config = own_config(backbone)
    if config is not None:
        known = len(set(labels) & set(config.get("id2label", {}).values()))
        say(f"starts from {backbone}, which knows {known} of the {len(labels)} classes")


def heard_before(
    backbone: str,
    manifest: Manifest,
    *,
    allow_leakage: bool,
    sides: Collection[str] = ("validation", "test"),
) -> int:
    """Return how many clips on some sides of the split the model that a fit starts from was trained
    on; 0 where it is not melbandit's, or its folder has no manifest.csv.

    Raises:
        ManifestError: there are some, and that is not allowed.
    """
    from audio.leakage import known_clips

    table = Path(backbone) / "manifest.csv"
    if own_config(backbone) is None or not table.exists():
        return 0
    known = known_clips(manifest, read_csv(table), sides)
    if known and not allow_leakage:
        first = known[0]
        raise ManifestError(
            f"{manifest.relative(first.path)} in {first.split} was trained on by {backbone}, which "
            f"this fit starts from ({len(known)} such clips); it would be scored on what it was "
            f"trained on. Split as that model was ({table} in place of the clips), start from "
            "another one, or --allow-leakage."
        )
    return len(known)


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

    say_origin(backbone, clips.labels)
    n = heard_before(backbone, clips.manifest, allow_leakage=allow_leakage, sides=sides)
    if not n:
        return clips
    say(f"note: leakage allowed: {backbone} was trained on {n} clips that score this fit.")
    return replace(clips, leakage=with_known(clips.leakage, n))
