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
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from audio.clips import Manifest, ManifestError
from audio.settings import Settings, SettingsError, fingerprint
from rl.objective import Job, Report, Stop, Stopped, TrialResult

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


class _TooLargeError(Exception):
    """More networks than the memory holds side by side."""


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
        # the last epoch, but for early stopping
        return self._result(fit.history, fit.epoch, time.perf_counter() - started)

    def many(self, jobs: Sequence[Job], stop: Stop) -> Iterator[dict[int, TrialResult | Exception]]:
        """Yield what came of the jobs by their numbers, stack by stack: those that can share one
        are trained side by side, the others alone. `seconds` is a training's share of its
        stack's."""
        import torch

        if not self._examples:
            self.prepare()
        waiting = self._stacks(jobs)
        while waiting:
            numbers = waiting.pop(0)
            part = [jobs[i] for i in numbers]
            found: list[TrialResult | Exception] = []
            try:
                if len(part) > 1:
                    found = self._side_by_side(part, stop)
                else:
                    found = [self(part[0].values, part[0].seed, stop, part[0].report)]
            except _TooLargeError:
                half = len(numbers) // 2
                waiting[:0] = [numbers[:half], numbers[half:]]
            except Exception as problem:
                traceback.clear_frames(problem.__traceback__)  # they hold the stack's memory
                found = [problem] * len(part)
            if found:
                yield dict(zip(numbers, found, strict=True))
            else:
                torch.cuda.empty_cache()

    def _stacks(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Return the jobs' numbers, those together that can be trained side by side."""
        from audio.stack_training import alike

        stacks: dict[Any, list[int]] = {}
        for i, job in enumerate(jobs):
            key: Any = i  # alone
            with suppress(SettingsError):  # of what a stack cannot do
                shape = alike(settings_of(self.settings, {**job.values, "seed": job.seed}))
                key = (self.block(job.seed), *shape.values())
            stacks.setdefault(key, []).append(i)
        return list(stacks.values())

    def _side_by_side(self, jobs: Sequence[Job], stop: Stop) -> list[TrialResult | Exception]:
        """Return what came of trainings of one shape. One that is ended early, or whose loss is no
        longer finite, goes on unheard until all have ended.

        Raises:
            _TooLargeError: the GPU's memory does not hold them.
        """
        import torch

        from audio.devices import choose_device, use_threads
        from audio.stack_training import fine_tune_many

        examples = self._examples[self.block(jobs[0].seed) or 0]
        key = REWARDS[self.reward]
        heard: list[list[dict[str, float]]] = [[] for _ in jobs]
        going = dict(enumerate(jobs))
        failed: dict[int, Exception] = {}

        def asked(i: int, ask: Callable[[], bool]) -> bool:
            """Return a job's answer; where it raises, that job alone is over."""
            try:
                return ask()
            except Exception as problem:
                failed[i] = problem
                del going[i]
                return False

        def told(rows: Sequence[dict[str, float]]) -> None:
            for i, job in list(going.items()):
                heard[i].append(rows[i])
                loss = rows[i]["train_loss"]
                if not math.isfinite(loss):
                    failed[i] = FloatingPointError(
                        f"the training loss is {loss} in epoch {len(heard[i])}; lower "
                        "learning_rate."
                    )
                    del going[i]
                elif asked(i, partial(job.report, rows[i].get(key, math.nan))):
                    del going[i]

        def wants() -> bool:
            # each is asked, for each counts its epochs by it
            answers = [asked(i, job.report.wants) for i, job in list(going.items())]
            return any(answers)

        use_threads(self.settings.training.threads)
        try:
            fits = fine_tune_many(
                examples["train"],
                {"validation": examples["validation"]},
                [settings_of(self.settings, {**job.values, "seed": job.seed}) for job in jobs],
                self.labels,
                device=choose_device(self.settings.training.device),
                on_epoch=told,
                stop=lambda: not going or stop(),
                wants_scores=wants,
                tolerant=True,
            )
        except torch.OutOfMemoryError as error:
            if any(heard) or failed:  # told already: they cannot begin again
                raise
            traceback.clear_frames(error.__traceback__)
            raise _TooLargeError from None
        if fits.stopped and going:
            raise Stopped
        seconds = fits.seconds / len(jobs)
        return [
            failed[i] if i in failed else self._result(rows, len(rows), seconds)
            for i, rows in enumerate(heard)
        ]

    def _result(
        self, history: Sequence[Mapping[str, float]], epoch: int, seconds: float
    ) -> TrialResult:
        """Return what a training came to whose weights are those of `epoch`, counted from 1."""
        curve = [row.get(REWARDS[self.reward], math.nan) for row in history]
        return TrialResult(
            score=curve[epoch - 1],
            seconds=seconds,
            curve=[round(value, 5) for value in curve],
            extra={"validation_loss": history[epoch - 1]["validation_loss"]},
        )
