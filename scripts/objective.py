"""What the agent's choices are scored by: a training, and its validation score.

This is where `rl` and `audio` meet: `rl` calls it with a setting, it trains with `audio`.
"""

from __future__ import annotations

import fcntl
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audio.clips import Manifest, ManifestError
from audio.settings import Settings, fingerprint
from rl.objective import Report, Stop, Stopped, TrialResult

REWARDS = {"accuracy": "validation_accuracy", "macro-f1": "validation_macro_f1"}


def settings_of(base: Settings, values: Mapping[str, Any]) -> Settings:
    """Return the settings that an agent's choices make of `base`.

    Mean and deviation belong to the levels that they were measured on, so they are measured anew.
    """
    changed = dict(values)
    if "normalisation" in values:
        changed |= {"mean_db": None, "std_db": None}
    return base.with_values(changed)


def _scratch_folder(manifest: Manifest) -> Path:
    """Return the folder of this machine, and of this user, for the decoded clips of a corpus."""
    names = fingerprint([clip.key for clip in manifest.clips])
    return Path(tempfile.gettempdir()) / f"melbandit-{os.getuid()}" / names


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the file beside a folder that only one process of this machine can hold."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass
class TrainingObjective:
    """Train with a setting on the training clips, score on the validation clips.

    Picklable: a worker's process opens the decoded clips itself, once. settings: what the agent's
    choices are made in; its `clip_s` is known. store: folder of the decoded clips. rotation: the
    manifest in several splits; which of them a training has follows from its seed, in turn.
    """

    manifest: Manifest
    labels: tuple[str, ...]
    store: Path
    settings: Settings
    reward: str
    rotation: tuple[Manifest, ...] = ()
    _examples: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_examples": []}

    def prepare(self) -> None:
        """Open the decoded clips; called once in each worker.

        On a node of a cluster that does not see their folder the first worker decodes them, into
        a scratch folder of that node's, while the others wait for it.

        Raises:
            ManifestError: a clip cannot be read on this node.
        """
        from audio.waveform import open_store
        from scripts.clips_in import sound_examples

        folder = self.store
        if not (folder / "index.jsonl").exists():
            folder = _scratch_folder(self.manifest)
        with _one_at_a_time(folder):
            store = open_store(
                self.manifest,
                sample_rate_hz=self.settings.spectrogram.sample_rate_hz,
                folder=folder,
            )
        there = set(store.keys)
        lost = [clip for clip in self.manifest.clips if clip.key not in there]
        if lost:  # scores of fewer clips would not compare with the others'
            raise ManifestError(
                f"{lost[0].path}: cannot be read on {socket.gethostname()}, nor {len(lost) - 1} "
                "others; put the clips at the same path on every node, or on a file system that "
                "all see."
            )
        splits = self.rotation or (self.manifest,)
        self._examples = [sound_examples(split, store, self.labels) for split in splits]

    @property
    def epochs(self) -> int:
        """Epochs of a whole training, after each of which it reports."""
        return self.settings.training.epochs

    def block(self, seed: int) -> int | None:
        """Return which split a training with this seed has; None where there is one."""
        return seed // 2 % len(self.rotation) if self.rotation else None

    def __call__(
        self, values: Mapping[str, Any], seed: int, stop: Stop, report: Report
    ) -> TrialResult:
        """Return the validation score after the last epoch, or the one after which `report` asked
        to end.

        Raises:
            Stopped: `stop()` became true before the end.
        """
        from audio.train import fine_tune

        if not self._examples:
            self.prepare()
        started = time.perf_counter()
        is_over = False
        key = REWARDS[self.reward]

        def told(row: Mapping[str, float]) -> None:
            nonlocal is_over
            is_over = report(row.get(key, math.nan))

        examples = self._examples[self.block(seed) or 0]
        fit = fine_tune(
            examples["train"],
            examples["validation"],
            settings_of(self.settings, {**values, "seed": seed}),
            self.labels,
            on_epoch=told,
            stop=lambda: is_over or stop(),
            wants_scores=report.wants,
        )
        if fit.stopped and not is_over:
            raise Stopped
        curve = [row.get(key, math.nan) for row in fit.history]
        return TrialResult(
            score=curve[fit.epoch - 1],  # the last, but for early stopping
            seconds=time.perf_counter() - started,
            curve=[round(value, 5) for value in curve],
            extra={"validation_loss": fit.history[fit.epoch - 1]["validation_loss"]},
        )
