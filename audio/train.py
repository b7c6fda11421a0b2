"""Fitting a `SpectrogramClassifier`: the visible loop.

An epoch is a pure function of (weights, optimiser state, seed, epoch number): the order, the
augmentation and the dropout are drawn anew from (seed, epoch). So a fit that was killed and goes
on from its checkpoint gives the same numbers as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audio.augment import (
    apply_spectrogram,
    apply_waveform,
    draw_spectrogram,
    draw_waveform,
    mix_targets,
)
from audio.backbones import head_parameters
from audio.classifier import SpectrogramClassifier, mean_by_clip
from audio.devices import choose_device, use_threads
from audio.images import from_pixels
from audio.levels import LevelCache, Levels, gather, leaves_waveforms, levels_only
from audio.metrics import confusion_matrix, scores_of
from audio.schedule import Course, Schedule
from audio.settings import Settings, SettingsError, SpectrogramSettings
from audio.spectrogram import LogMel, measure_mean_std
from audio.variation import Variation
from audio.waveform import Waveform, choose_clip_s, fit_length, window_starts

_WARM_UP = 0.1  # share of the steps
CLIP_NORM = 1.0
_SCORED_TOGETHER = 64  # clips


class Examples(Protocol):
    """Labelled clips that a network can be fitted to: sounds or pictures."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """Class of each clip, int64 (n,)."""

    def levels(
        self,
        rows: NDArray[np.int64],
        model: SpectrogramClassifier,
        rng: np.random.Generator | None,
        variation: Variation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return levels (batch, n_mels, n_frames) and n_valid (batch,); varied if rng is given,
        by the model's own augmentation if not told otherwise."""

    def probabilities(self, model: SpectrogramClassifier) -> NDArray[np.float32]:
        """Return the model's class probabilities of every clip, (n, n_labels)."""


@dataclass(frozen=True)
class SoundExamples:
    """Clips as waveforms at the model's rate; float32 (n_samples,) each, any length.

    cache: keeps the levels of the clips as they are, for the next epoch and the next fit.
    """

    waveforms: Sequence[Waveform]
    targets: NDArray[np.int64]
    cache: LevelCache = field(default_factory=LevelCache, init=False, repr=False, compare=False)

    def batch(
        self, rows: NDArray[np.int64], settings: Settings, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return windows (batch, n_samples) and n_valid: at random from longer clips, or the
        middle where there is no rng."""
        spectrogram = settings.spectrogram
        n = spectrogram.n_samples
        out = np.zeros((len(rows), n), np.float32)
        n_valid = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            waveform = self.waveforms[row]
            if rng is not None and len(waveform) > n:
                start = int(rng.integers(len(waveform) - n + 1))
                waveform = waveform[start : start + n]
            out[i] = fit_length(waveform, n, padding=spectrogram.padding)
            n_valid[i] = n if spectrogram.padding == "repeat" else min(n, len(waveform))
        return torch.from_numpy(out), torch.from_numpy(n_valid)

    def levels(
        self,
        rows: NDArray[np.int64],
        model: SpectrogramClassifier,
        rng: np.random.Generator | None,
        variation: Variation | None = None,
    ) -> tuple[Tensor, Tensor]:
        waveform, n_valid = self.batch(rows, model.settings, rng)
        waveform, n_valid = waveform.to(model.device), n_valid.to(model.device)
        if rng is None:
            return model.log_mel(waveform, n_valid), n_valid
        varied = variation or Variation(model.settings.augmentation)
        draw = varied.of(draw_waveform(rng, varied.settings, len(rows)))
        if leaves_waveforms(varied.settings) and (kept := self.middles(model.log_mel)):
            level = kept.level[torch.from_numpy(rows).to(model.device)]
            n = model.settings.spectrogram.n_samples
            # longer clips have another window each time
            if drawn := [i for i, row in enumerate(rows) if len(self.waveforms[row]) > n]:
                level[drawn] = model.log_mel(waveform[drawn], n_valid[drawn])
            return level, n_valid
        waveform, n_valid = apply_waveform(waveform, n_valid, draw)
        return model.log_mel(waveform, n_valid), n_valid

    def middles(self, log_mel: LogMel) -> Levels | None:
        """Return the levels of each clip's middle window, unvaried; None if they take too much."""
        spectrogram, device = levels_only(log_mel.settings), log_mel.window.device

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            settings = Settings(spectrogram)
            for rows in _batches(np.arange(len(self.waveforms)), _SCORED_TOGETHER):
                waveform, n_valid = (t.to(device) for t in self.batch(rows, settings, None))
                yield log_mel(waveform, n_valid), n_valid

        if not self._fit(len(self.waveforms), spectrogram):
            return None
        owner = np.arange(len(self.waveforms))
        with torch.no_grad():
            return self.cache.get(
                ("middles", spectrogram, device),
                lambda: gather(parts(), owner),
            )

    def windows(self, model: SpectrogramClassifier) -> Levels | None:
        """Return the levels of the windows that cover each clip; None if they take too much."""
        spectrogram, device = levels_only(model.settings.spectrogram), model.device
        n = spectrogram.n_samples
        owner = np.repeat(
            np.arange(len(self.waveforms)),
            [len(window_starts(len(waveform), n)) for waveform in self.waveforms],
        )

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            pieces = (window for waveform in self.waveforms for window in model.windows(waveform))
            while some := list(islice(pieces, _SCORED_TOGETHER)):
                sound = torch.from_numpy(np.stack([piece for piece, _ in some])).to(device)
                n_valid = torch.tensor([n for _, n in some], device=device)
                yield model.log_mel(sound, n_valid), n_valid

        if not len(owner) or not self._fit(len(owner), spectrogram):
            return None
        return self.cache.get(("windows", spectrogram, device), lambda: gather(parts(), owner))

    def _fit(self, n_windows: int, spectrogram: SpectrogramSettings) -> bool:
        """Return whether the cache has room for so many windows."""
        cells = n_windows * spectrogram.n_mels * spectrogram.n_frames
        return 4 * cells + 16 * n_windows <= self.cache.most_bytes

    @torch.inference_mode()
    def probabilities(self, model: SpectrogramClassifier) -> NDArray[np.float32]:
        kept = self.windows(model)
        if kept is None:
            return model.predict(self.waveforms, batch_size=_SCORED_TOGETHER)
        model.eval()
        outputs = []
        for first in range(0, len(kept.owner), _SCORED_TOGETHER):
            part = slice(first, first + _SCORED_TOGETHER)
            level, n_valid = kept.level[part], kept.n_valid[part]
            logits = model.classify(model.log_mel.normalise(level, n_valid), n_valid)
            outputs.append(torch.softmax(logits, -1).cpu().numpy())
        return mean_by_clip(outputs, kept.owner, len(self.waveforms))


@dataclass(frozen=True)
class PictureExamples:
    """Clips as 8-bit pictures: pixels uint8 (n, n_mels, n_frames), low frequencies first; the
    level of black and white, (n,) each; n_valid: samples before the padding, (n,)."""

    pixels: NDArray[np.uint8]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    n_valid: NDArray[np.int64]
    targets: NDArray[np.int64]

    def levels(
        self,
        rows: NDArray[np.int64],
        model: SpectrogramClassifier,
        rng: np.random.Generator | None,
        variation: Variation | None = None,
    ) -> tuple[Tensor, Tensor]:
        low, high = self.low[rows, None, None], self.high[rows, None, None]
        level = low + self.pixels[rows] * ((high - low) / np.float32(255))
        n_valid = torch.from_numpy(self.n_valid[rows])
        return torch.from_numpy(level).to(model.device), n_valid.to(model.device)

    def probabilities(self, model: SpectrogramClassifier) -> NDArray[np.float32]:
        model.eval()
        outputs = []
        with torch.inference_mode():
            for rows in _batches(np.arange(len(self.targets)), _SCORED_TOGETHER):
                level, n_valid = self.levels(rows, model, None)
                logits = model.classify(model.log_mel.normalise(level, n_valid), n_valid)
                outputs.append(torch.softmax(logits, -1).cpu().numpy())
        return np.concatenate(outputs)


def _batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(order), size):
        yield order[first : first + size]


def resolve(settings: Settings, train: Examples) -> Settings:
    """Return the settings with what is to be measured on the training clips filled in.

    `clip_s` None becomes the window that holds 95 % of them; `mean_db` and `std_db` None become
    the mean and deviation of their levels, unaugmented and padding excluded.

    Raises:
        SettingsError: mean and deviation are not both given or both left out.
    """
    spectrogram = settings.spectrogram
    if spectrogram.clip_s is None and isinstance(train, SoundExamples):
        rate = spectrogram.sample_rate_hz
        spectrogram = replace(
            spectrogram, clip_s=choose_clip_s([len(w) / rate for w in train.waveforms])
        )
    settings = replace(settings, spectrogram=spectrogram)
    if spectrogram.normalisation == "dataset":
        known = spectrogram.mean_db is not None, spectrogram.std_db is not None
        if known == (False, False):
            mean, std = _measure(settings, train)
            spectrogram = replace(spectrogram, mean_db=mean, std_db=std)
        elif known != (True, True):
            raise SettingsError("give both mean_db and std_db, or leave both out.")
    return replace(settings, spectrogram=spectrogram)


def _measure(settings: Settings, train: Examples) -> tuple[float, float]:
    log_mel = LogMel(settings.spectrogram)

    def levels() -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(train, SoundExamples) and (kept := train.middles(log_mel)):
            for first in range(0, len(kept.owner), _SCORED_TOGETHER):
                part = slice(first, first + _SCORED_TOGETHER)
                yield kept.level[part], kept.n_valid[part]
            return
        for rows in _batches(np.arange(len(train.targets)), _SCORED_TOGETHER):
            if isinstance(train, SoundExamples):
                waveform, n_valid = train.batch(rows, settings, None)
                yield log_mel(waveform, n_valid), n_valid
            elif isinstance(train, PictureExamples):
                pictures = zip(train.pixels[rows], train.low[rows], train.high[rows], strict=True)
                level = np.stack([from_pixels(p, low, high) for p, low, high in pictures])
                yield torch.from_numpy(level), torch.from_numpy(train.n_valid[rows])

    return measure_mean_std(log_mel, levels())


@dataclass(frozen=True)
class Fit:
    """A fitted model, its learning curve (a dict an epoch), and whether `stop` cut it short."""

    model: SpectrogramClassifier
    history: tuple[dict[str, float], ...]
    stopped: bool


def fine_tune(
    train: Examples,
    validation: Examples,
    settings: Settings,
    labels: Sequence[str],
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    schedule: Schedule | None = None,
) -> Fit:
    """Return a model fitted to the training clips, with the weights of its last epoch.

    The last epoch, not the best: the learning rate has fallen to zero by then, and choosing an
    epoch by its validation score would flatter that score. checkpoint: a file that holds the state
    after each epoch; where it is there, the fit goes on from it. stop: asked before every step.
    schedule: picks the augmentation step by step; None leaves it as the settings have it.

    Raises:
        SettingsError, BackboneError: the settings do not fit the clips or the backbone.
        FloatingPointError: the loss is no longer finite.
    """
    use_threads(settings.training.threads)
    settings = resolve(settings, train)
    training = settings.training
    device = choose_device(training.device)
    model = SpectrogramClassifier.from_settings(settings, labels).to(device)
    parameters, optimiser = _optimiser(model, settings)
    class_weight = _class_weight(train.targets, len(labels), training.class_weights)
    class_weight = None if class_weight is None else class_weight.to(device)
    steps_per_epoch = math.ceil(len(train.targets) / training.batch_size)
    n_steps = training.epochs * steps_per_epoch
    schedule = schedule or Schedule()
    schedule.begin(Course(train, settings, n_steps, steps_per_epoch))
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = _load_checkpoint(checkpoint, model, parameters, optimiser, settings, schedule)
    for epoch in range(len(history), training.epochs):
        started = time.perf_counter()
        rng = np.random.default_rng([training.seed, epoch])
        order = schedule.order(rng.permutation(len(train.targets)), epoch)
        model.train()
        if training.freeze_backbone:  # else a batch norm's running means would move
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        total, rate = torch.zeros((), device=device), 0.0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**31)))  # dropout's
            for step, rows in enumerate(_batches(order, training.batch_size)):
                if stop is not None and stop():
                    return Fit(model.eval(), tuple(history), stopped=True)
                at = epoch * steps_per_epoch + step
                rate = learning_rate(at, n_steps, settings)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                varied = schedule.variation(at, len(rows), rng, model)
                loss = _loss(model, train, rows, settings, rng, class_weight, varied)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
                optimiser.step()
                total += loss.detach() * len(rows)
                schedule.after(at, model, loss.detach(), rate)
        train_loss = float(total) / len(order)
        if not math.isfinite(train_loss):
            raise FloatingPointError(
                f"the training loss is {train_loss} in epoch {epoch + 1}; lower learning_rate."
            )
        row = {"epoch": epoch + 1, "train_loss": train_loss, "learning_rate": rate}
        row |= _validate(model, validation)
        row["seconds"] = time.perf_counter() - started
        history.append(row)
        if checkpoint is not None:
            _save_checkpoint(checkpoint, model, parameters, optimiser, settings, history, schedule)
        if on_epoch is not None:
            on_epoch(row)
    return Fit(model.eval(), tuple(history), stopped=False)


def _loss(
    model: SpectrogramClassifier,
    train: Examples,
    rows: NDArray[np.int64],
    settings: Settings,
    rng: np.random.Generator,
    class_weight: Tensor | None,
    variation: Variation | None = None,
) -> Tensor:
    """Return the mean loss of one augmented batch."""
    varied = variation or Variation(settings.augmentation)
    with torch.no_grad():
        level, n_valid = train.levels(rows, model, rng, varied)
        features = model.log_mel.normalise(level, n_valid)
        frames = model.log_mel.valid_frames(n_valid).clamp_max(features.shape[-1])
        draw = varied.of(draw_spectrogram(rng, varied.settings, len(rows)))
        features = apply_spectrogram(features, frames, draw)
        targets = torch.from_numpy(train.targets[rows]).to(features.device)
        shares = mix_targets(nn.functional.one_hot(targets, len(model.labels)).float(), draw)
    half = settings.training.precision == "bfloat16"
    with torch.autocast(features.device.type, torch.bfloat16, enabled=half):
        logits = model.classify(features, n_valid)
    return nn.functional.cross_entropy(
        logits.float(),
        shares,
        weight=class_weight,
        label_smoothing=settings.training.label_smoothing,
    )


def _validate(model: SpectrogramClassifier, validation: Examples) -> dict[str, float]:
    probabilities = validation.probabilities(model)
    targets = validation.targets
    true_class = np.clip(probabilities[np.arange(len(targets)), targets], 1e-12, 1)
    confusion = confusion_matrix(targets, probabilities.argmax(1), probabilities.shape[1])
    scores = scores_of(confusion)
    return {
        "validation_loss": float(-np.log(true_class).mean()),
        "validation_accuracy": float(scores["accuracy"]),
        "validation_macro_f1": float(scores["macro_f1"]),
    }


def _optimiser(
    model: SpectrogramClassifier, settings: Settings
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    if settings.training.freeze_backbone:
        model.network.requires_grad_(False)
        for parameter in head_parameters(model.network):
            parameter.requires_grad_(True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "weight_decay": settings.training.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate = settings.training.learning_rate
    return parameters, torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def _class_weight(targets: NDArray[np.int64], n_labels: int, rule: str) -> Tensor | None:
    """Return weights whose mean over the training clips is 1, float32 (n_labels,), or None."""
    if rule == "none":
        return None
    count = np.bincount(targets, minlength=n_labels)
    weight = len(targets) / (np.count_nonzero(count) * np.maximum(count, 1))
    return torch.from_numpy(weight.astype(np.float32))


def learning_rate(step: int, n_steps: int, settings: Settings) -> float:
    """Return the step size: linear warm-up, then half a cosine to zero."""
    peak, warm = settings.training.learning_rate, max(1, round(_WARM_UP * n_steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))


def _save_checkpoint(
    path: Path,
    model: SpectrogramClassifier,
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    history: list[dict[str, float]],
    schedule: Schedule,
) -> None:
    """Write weights, optimiser state and history as one safetensors file, whole or not at all."""
    tensors = {f"model.{name}": t.contiguous() for name, t in model.state_dict().items()}
    for i, parameter in enumerate(parameters):
        for name, value in optimiser.state[parameter].items():
            tensors[f"optimiser.{i}.{name}"] = value.contiguous()
    note = {"settings": settings.fingerprint(), "history": json.dumps(history)}
    note |= {"schedule": schedule.fingerprint(), "schedule_state": json.dumps(schedule.state())}
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata=note)
    part.replace(path)


def _load_checkpoint(
    path: Path,
    model: SpectrogramClassifier,
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    schedule: Schedule,
) -> list[dict[str, float]]:
    """Fill model and optimiser from a checkpoint and return its history.

    Raises:
        SettingsError: the checkpoint is of other settings.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        note = file.metadata()
    if note["settings"] != settings.fingerprint():
        raise SettingsError(f"{path}: a checkpoint of other settings; give another folder.")
    if note.get("schedule", Schedule().fingerprint()) != schedule.fingerprint():
        raise SettingsError(f"{path}: a checkpoint of another schedule; give another folder.")
    schedule.restore(json.loads(note.get("schedule_state", "{}")))
    tensors = load_file(path)
    weights = {n[6:]: t for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(weights)
    for i, parameter in enumerate(parameters):
        prefix = f"optimiser.{i}."
        state = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
        moved = {n: t if n == "step" else t.to(parameter.device) for n, t in state.items()}
        optimiser.state[parameter] = moved
    history: list[dict[str, float]] = json.loads(note["history"])
    return history


def score(model: SpectrogramClassifier, examples: Examples) -> dict[str, Any]:
    """Return accuracy, balanced accuracy and macro-F1 of a model on clips, without intervals."""
    probabilities = examples.probabilities(model)
    predicted = probabilities.argmax(1)
    values = scores_of(confusion_matrix(examples.targets, predicted, probabilities.shape[1]))
    return {name: float(value) for name, value in values.items()}
