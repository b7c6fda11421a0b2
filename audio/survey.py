"""What is in a corpus: each clip decoded once, and what stands out."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio.clips import Clip, Manifest
from audio.decoding import read_channels
from audio.leakage import content_digest, same_content
from audio.sound import ClipError, to_float, to_mono

_SILENT_DBFS = -60.0
_FRAME_S = 0.02
_CLIPPED_RUN = 3  # samples in a row
_FULL_SCALE = 0.9999  # 16 bits end at 0.99997
_NEAR_FULL_SCALE = 0.95  # mu-law ends at 0.98
_FAR = 3.0  # times longer or shorter than the median


@dataclass(frozen=True)
class ClipFacts:
    """What decoding one clip told; None or nan where it could not be used and `problem` says why.

    duration_s. rate_hz: as stored. channels. peak_dbfs, rms_dbfs: -inf for digital silence.
    clipped: share of samples in flat tops. silent: share of 20 ms frames below -60 dBFS. digest:
    tells the same sound; None for silence.
    """

    clip: Clip
    duration_s: float = float("nan")
    rate_hz: int = 0
    channels: int = 0
    peak_dbfs: float = float("nan")
    rms_dbfs: float = float("nan")
    clipped: float = float("nan")
    silent: float = float("nan")
    digest: str | None = None
    problem: str | None = None

    @property
    def is_silent(self) -> bool:
        """Whether nothing in it reaches -60 dBFS."""
        return self.peak_dbfs < _SILENT_DBFS

    @property
    def is_clipped(self) -> bool:
        """Whether it has flat tops."""
        return self.clipped > 0


def clip_facts(clip: Clip) -> ClipFacts:
    """Return what there is to say of one clip."""
    try:
        samples, rate, _ = read_channels(
            clip.path, start_s=clip.start_s, duration_s=clip.duration_s
        )
    except ClipError as error:
        return ClipFacts(clip, problem=error.reason)
    mono, every = to_mono(samples), to_float(samples)
    return ClipFacts(
        clip,
        duration_s=len(mono) / rate,
        rate_hz=rate,
        channels=every.shape[1],
        peak_dbfs=_dbfs(float(np.abs(every).max())),  # of all channels: their mean would hide it
        rms_dbfs=_dbfs(float(np.sqrt(np.mean(np.square(mono), dtype=np.float64)))),
        clipped=clipped_share(every),
        silent=silent_share(mono, rate),
        digest=_digest(mono, rate),
    )


def _digest(mono: NDArray[np.float32], rate: int) -> str | None:
    digest = content_digest(mono)
    return None if digest is None else f"{digest}-{rate}"


def _dbfs(amplitude: float) -> float:
    return float(20 * np.log10(amplitude)) if amplitude > 0 else float("-inf")


def clipped_share(samples: NDArray[np.float32]) -> float:
    """Return the share of samples (n, channels) that are in flat tops.

    Three or more in a row at full scale, or at the very same extreme value of a clip whose peak is
    above 0.95: converters and mu-law stop short of 1.

    >>> clipped_share(np.array([[0.1], [1], [1], [1], [0.2]], np.float32))
    0.6
    """
    if len(samples) < _CLIPPED_RUN:
        return 0.0
    high, low = samples.max(axis=0), samples.min(axis=0)
    if max(high.max(), -low.min()) < _NEAR_FULL_SCALE:
        return 0.0
    top = (samples >= _FULL_SCALE) | ((samples == high) & (high >= _NEAR_FULL_SCALE))
    bottom = (samples <= -_FULL_SCALE) | ((samples == low) & (low <= -_NEAR_FULL_SCALE))
    flat = np.zeros(samples.shape, bool)
    for at in (top, bottom):
        run = at[:-2] & at[1:-1] & at[2:]
        for shift in range(_CLIPPED_RUN):
            flat[shift : len(flat) - 2 + shift] |= run
    return float(flat.mean())


def silent_share(mono: NDArray[np.float32], rate: int) -> float:
    """Return the share of 20 ms frames with an RMS below -60 dBFS; the last, shorter one counts."""
    size = max(1, round(_FRAME_S * rate))
    whole = len(mono) // size * size
    power = [np.square(mono[:whole].reshape(-1, size)).mean(axis=1, dtype=np.float64)]
    if whole < len(mono):
        power.append(np.square(mono[whole:]).mean(keepdims=True, dtype=np.float64))
    return float((np.concatenate(power) < 10 ** (_SILENT_DBFS / 10)).mean())


def survey(
    manifest: Manifest, *, workers: int, progress: Callable[[int, int], None] | None = None
) -> list[ClipFacts]:
    """Return the facts of every clip, in order, decoded by `workers` threads."""
    facts: list[ClipFacts] = []
    clips = iter(manifest.clips)
    with ThreadPoolExecutor(workers) as pool:  # soundfile, numpy and hashing release the GIL
        while some := list(islice(clips, 256)):
            for one in pool.map(clip_facts, some):
                facts.append(one)
                if progress:
                    progress(len(facts), len(manifest))
    return facts


def with_durations(manifest: Manifest, facts: Iterable[ClipFacts]) -> Manifest:
    """Return the usable clips, each with its length."""
    return replace(
        manifest,
        clips=tuple(
            replace(one.clip, duration_s=one.duration_s) for one in facts if one.problem is None
        ),
    )


def group_copies(manifest: Manifest, facts: Sequence[ClipFacts]) -> Manifest:
    """Return the usable clips, those of the same sound in one group, so that no draw parts them.

    Groups that share a sound become one, named after the first; clips without a group that are
    there once stay without.
    """
    digest = {one.clip.key: one.digest for one in facts}
    above: dict[str, str] = {}  # union-find over groups and sounds

    def root(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    names: dict[str, str] = {}  # of the group that a root stands for
    clips = [one.clip for one in facts if one.problem is None]
    copies = same_content(clips, [digest[clip.key] for clip in clips])
    for same in copies:
        first = root(_unit(same[0]))
        for clip in same[1:]:
            above[root(_unit(clip))] = first
    copied = {root(_unit(clip)) for same in copies for clip in same}
    grouped = []
    for one, clip in zip(clips, with_durations(manifest, facts).clips, strict=True):
        unit = root(_unit(one))
        if unit in copied:
            piece = f"@{one.start_s:g}" if one.start_s else ""
            new = one.group or f"copies of {manifest.relative(one.path)}{piece}"
            clip = replace(clip, group=names.setdefault(unit, new))
        grouped.append(clip)
    return replace(manifest, clips=tuple(grouped))


def _unit(clip: Clip) -> str:
    return f"clip {clip.key}" if clip.group is None else f"group {clip.group}"


def summary(manifest: Manifest, facts: Sequence[ClipFacts]) -> dict[str, Any]:
    """Return what the clips have in common and which stand out, JSON-ready.

    Clips are named relative to the manifest's root. `notes` are sentences on what to look at.
    """
    good = [one for one in facts if one.problem is None]
    seconds = np.array([one.duration_s for one in good])
    median = float(np.median(seconds)) if good else 0.0
    by_class: dict[str, list[ClipFacts]] = {}
    for one in good:
        for name in one.clip.classes:
            by_class.setdefault(name, []).append(one)
    classes = {
        label: {
            "clips": len(some),
            "hours": sum(one.duration_s for one in some) / 3600,
            "groups": len({one.clip.group for one in some if one.clip.group is not None}),
        }
        for label, some in sorted(by_class.items())
    }
    counts = [row["clips"] for row in classes.values()]

    def named(some: Iterable[ClipFacts]) -> list[str]:
        return [manifest.relative(one.clip.path) for one in some]

    copies = same_content([one.clip for one in good], [one.digest for one in good])
    far = [f for f in good if not median / _FAR <= f.duration_s <= median * _FAR]
    return {
        "clips": len(good),
        "unusable": len(facts) - len(good),
        "classes": classes,
        "hours": float(seconds.sum() / 3600),
        "imbalance": max(counts) / min(counts) if counts else None,
        "largest_class_share": max(counts) / len(good) if counts else None,
        "groups": len({f.clip.group for f in good if f.clip.group is not None}),
        "folds": _counted(f.clip.fold for f in good),
        "splits": _counted(f.clip.split for f in good),
        "rates_hz": _counted(str(f.rate_hz) for f in good),
        "formats": _counted(f.clip.path.suffix.lower() for f in good),
        "channels": _counted(str(f.channels) for f in good),
        "duration_s": {
            "median": median,
            "least": float(seconds.min()) if good else None,
            "most": float(seconds.max()) if good else None,
        },
        "silent": named(f for f in good if f.is_silent),
        "mostly_silent": named(f for f in good if not f.is_silent and f.silent > 0.5),
        "clipped": named(sorted((f for f in good if f.is_clipped), key=lambda f: -f.clipped)),
        "far_from_median": named(sorted(far, key=lambda f: -f.duration_s)),
        "same_content": [[manifest.relative(clip.path) for clip in same] for same in copies],
        "notes": _notes(manifest, good, copies),
    }


def _counted(values: Iterable[str | None]) -> dict[str, int]:
    count = Counter(value for value in values if value is not None)
    return dict(sorted(count.items(), key=lambda item: (-item[1], len(item[0]), item[0])))


def _notes(
    manifest: Manifest, good: Sequence[ClipFacts], copies: Sequence[tuple[Clip, ...]]
) -> list[str]:
    """Return sentences on what would spoil a score."""
    notes: list[str] = []

    def told(what: str, sets: Sequence[Sequence[Clip]]) -> None:
        if sets:
            first, other = sets[0][0], sets[0][-1]
            notes.append(
                f"{len(sets)} {what}, the first {manifest.relative(first.path)} and "
                f"{manifest.relative(other.path)}"
            )

    told(
        "sounds are there twice under different labels",
        [same for same in copies if len({clip.label for clip in same}) > 1],
    )
    for what in ("split", "fold"):
        told(
            f"sounds are on two sides of the {what}",
            [same for same in copies if len({getattr(clip, what) for clip in same}) > 1],
        )
        groups: dict[str, dict[Any, Clip]] = {}
        for one in good:
            if one.clip.group is not None and getattr(one.clip, what) is not None:
                groups.setdefault(one.clip.group, {})[getattr(one.clip, what)] = one.clip
        told(
            f"groups are on two sides of the {what}",
            [list(sides.values()) for sides in groups.values() if len(sides) > 1],
        )
    spelt: dict[str, set[str]] = {}
    for one in good:
        for name in one.clip.classes:
            plain = unicodedata.normalize("NFKC", name).casefold().strip()
            spelt.setdefault(plain, set()).add(name)
    for names in spelt.values():
        if len(names) > 1:
            shown = ", ".join(map(repr, sorted(names)))
            notes.append(f"classes that differ in case, space or Unicode form alone: {shown}")
    lone = [label for label, n in Counter(x for f in good for x in f.clip.classes).items() if n < 3]
    if lone:
        notes.append(
            f"{len(lone)} classes have fewer than 3 clips, too few for train, validation and "
            f"test: {', '.join(sorted(lone)[:10])}"
        )
    return notes
