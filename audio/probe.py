"""The clips of the training side that tell how a training goes: never trained on, never varied.

Neither the validation clips, which an epoch or a setting may be chosen by, nor the test's: what is
steered by the probe is still judged by clips that steered nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audio.clips import ManifestError
from audio.settings import SettingsError
from audio.splits import draw_side, train_every_class

if TYPE_CHECKING:
    from torch import Tensor

    from audio.classifier import SpectrogramClassifier

MOST_CLIPS = 256
"""Of these the rest tells little more, and their levels have room in memory."""
_GROUPS_AT_MOST = 2.0  # times the share asked for; a whole speaker of three would be a third


@dataclass(frozen=True)
class Probe:
    """Rows of the training side.

    out: kept out of what is trained on, int64 (n_out,). scored: those of them that are scored,
    int64 (n_scored,). by: `group` where whole groups are out, else `clip`.
    """

    out: NDArray[np.int64]
    scored: NDArray[np.int64]
    by: str = "clip"

    def kept(self, n_clips: int) -> NDArray[np.int64]:
        """Return the rows that are trained on, int64 (n_clips - n_out,)."""
        return np.setdiff1d(np.arange(n_clips), self.out)


def draw_probe(
    targets: NDArray[Any],
    groups: Sequence[str | None],
    *,
    percent: float,
    most: int = MOST_CLIPS,
    seed: int = 0,
) -> Probe:
    """Return a probe of about `percent` of the clips, classes in proportion.

    Whole groups, so that it measures what is new to the network, as the test does; clip by clip
    where the groups are so few that whole ones would take more than twice the share. At least one
    clip of every class is left to train on. targets: the class of each clip, (n,), or of several
    labels a clip its memberships, (n, n_labels); of these it counts as the rarest of its own.

    Raises:
        SettingsError: there are too few clips to keep any out.
    """
    labels = [str(kind) for kind in _kinds(targets)]
    by, out = "clip", np.empty(0, np.int64)
    if any(group is not None for group in groups):
        by, out = "group", _whole_groups(groups, labels, percent, seed)
    share = len(out) / len(labels) * 100
    if by == "clip" or not 0 < share <= _GROUPS_AT_MOST * percent:
        rows = np.arange(len(labels))
        by, out = "clip", _in_turns(rows, labels, round(percent / 100 * len(labels)), seed)
    kept = np.delete(targets, out, axis=0)
    lost = set(_occurring(targets)) - set(_occurring(kept))
    if not len(out) or lost:
        raise SettingsError(
            f"probe_percent={percent:g} of {len(labels)} training clips leaves no probe and a clip "
            "of every class to train on; add clips, raise it, or give schedule=uniform."
        )
    return Probe(np.sort(out), _in_turns(out, labels, most, seed), by)


def _kinds(targets: NDArray[Any]) -> NDArray[np.int64]:
    """Return one class for each clip; -1 is none."""
    if targets.ndim == 1:
        return targets.astype(np.int64)
    own = np.where(targets > 0, (targets > 0).sum(0), len(targets) + 1)
    return np.where((targets > 0).any(1), own.argmin(1), -1)


def _occurring(targets: NDArray[Any]) -> list[int]:
    """Return the classes that some clip has."""
    found = np.unique(targets) if targets.ndim == 1 else np.flatnonzero((targets > 0).any(0))
    return [int(each) for each in found]


def _whole_groups(
    groups: Sequence[str | None], labels: Sequence[str], percent: float, seed: int
) -> NDArray[np.int64]:
    named = [f"clip {i}" if g is None else f"group {g}" for i, g in enumerate(groups)]
    settled: list[str | None] = [None] * len(labels)
    try:
        draw_side(settled, named, labels, "validation", percent, seed)
    except ManifestError:
        return np.empty(0, np.int64)
    train_every_class(settled, named, labels, [True] * len(labels))
    return np.flatnonzero([split is not None for split in settled])


def _in_turns(
    rows: NDArray[np.int64], labels: Sequence[str], most: int, seed: int
) -> NDArray[np.int64]:
    """Return at most so many of the rows, in an order in which every stretch has all classes in
    proportion."""
    rng = np.random.default_rng([0x9B0BE, seed])
    met: Counter[str] = Counter()
    counts = Counter(labels[row] for row in rows)
    place = []
    for row in rng.permutation(rows):
        label = labels[row]
        place.append(((met[label] + 0.5) / counts[label], float(rng.random()), int(row)))
        met[label] += 1
    return np.array([row for _, _, row in sorted(place)[:most]], np.int64)


class ProbeScorer:
    """Scores parts of the probe as the training goes on; their pictures are made once.

    Args:
        examples: the training side (`audio.train.Examples`).
        probe: which of it.
        n_parts: how many parts it is scored in, each with all classes as far as they go.
    """

    def __init__(self, examples: Any, probe: Probe, *, n_parts: int) -> None:
        self._examples = examples
        self.parts = [probe.scored[k::n_parts] for k in range(min(n_parts, len(probe.scored)))]
        self._pictures: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def losses(self, model: SpectrogramClassifier, part: int) -> tuple[float, float, int]:
        """Return of one part the summed cross-entropy, the same with the training's label
        smoothing, and the number of clips. The model is left in the mode that it was in."""
        import torch
        from torch import nn

        from audio.optimisation import HALF

        training = model.settings.training
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        with torch.inference_mode():
            if part not in self._pictures:
                rows = self.parts[part]
                level, n_valid = self._examples.levels(rows, model, None)
                targets = torch.from_numpy(self._examples.targets[rows]).to(level.device)
                self._pictures[part] = model.log_mel.normalise(level, n_valid), n_valid, targets
            features, n_valid, targets = self._pictures[part]
            half = HALF.get(training.precision)
            with torch.autocast(features.device.type, half, enabled=half is not None):
                logits = model.classify(features, n_valid)
            logits, share = logits.float(), training.label_smoothing
            if model.is_multi_label:  # the mean over labels, as the training's
                targets = targets.float()
                plain, smooth = (
                    nn.functional.binary_cross_entropy_with_logits(
                        logits, targets * (1 - s) + s / 2, reduction="none"
                    ).mean(-1).sum()
                    for s in (0.0, share)
                )  # fmt: skip
            else:
                log_p = torch.log_softmax(logits, -1)
                plain = nn.functional.nll_loss(log_p, targets, reduction="sum")
                smooth = (1 - share) * plain - share * log_p.mean(-1).sum()
        for module, mode in modes:
            module.training = mode
        return float(plain), float(smooth), len(targets)
