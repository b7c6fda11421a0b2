"""Fitting a `SpectrogramClassifier`: the visible loop.

An epoch is a pure function of (weights, optimiser state, seed, epoch number): the order, the
augmentation and the dropout are drawn anew from (seed, epoch). So a fit that was killed and goes
on from its checkpoint gives the same numbers as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audio.augment import apply_spectrogram, draw_spectrogram, mix_targets
from audio.balance import Balance, epoch_order, make_balance
from audio.checkpointing import load_checkpoint, save_checkpoint
from audio.classifier import SpectrogramClassifier
from audio.devices import choose_device, use_threads
from audio.examples import Examples, batches, resolve
from audio.metrics import confusion_matrix, scores_of
from audio.optimisation import CLIP_NORM, learning_rate, make_optimiser
from audio.settings import Settings


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
) -> Fit:
    """Return a model fitted to the training clips, with the weights of its last epoch.

    The last epoch, not the best: the learning rate has fallen to zero by then, and choosing an
    epoch by its validation score would flatter that score. checkpoint: a file that holds the state
    after each epoch; where it is there, the fit goes on from it. stop: asked before every step.

    Raises:
        SettingsError, BackboneError: the settings do not fit the clips or the backbone.
        FloatingPointError: the loss is no longer finite.
    """
    use_threads(settings.training.threads)
    settings = resolve(settings, train)
    training = settings.training
    device = choose_device(training.device)
    model = SpectrogramClassifier.from_settings(settings, labels).to(device)
    parameters, optimiser = make_optimiser(model, settings)
    balance = make_balance(train.targets, len(labels), training.balance, device=device)
    steps_per_epoch = math.ceil(len(train.targets) / training.batch_size)
    n_steps = training.epochs * steps_per_epoch
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = load_checkpoint(checkpoint, model, parameters, optimiser, settings)
    for epoch in range(len(history), training.epochs):
        started = time.perf_counter()
        rng = np.random.default_rng([training.seed, epoch])
        order = epoch_order(rng, train.targets, len(labels), training.balance)
        model.train()
        if training.freeze_backbone:  # else a batch norm's running means would move
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        total, rate = torch.zeros((), device=device), 0.0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**31)))  # dropout's
            for step, rows in enumerate(batches(order, training.batch_size)):
                if stop is not None and stop():
                    return Fit(model.eval(), tuple(history), stopped=True)
                rate = learning_rate(epoch * steps_per_epoch + step, n_steps, settings)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                loss = _loss(model, train, rows, settings, rng, balance)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
                optimiser.step()
                total += loss.detach() * len(rows)
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
            save_checkpoint(checkpoint, model, parameters, optimiser, settings, history)
        if on_epoch is not None:
            on_epoch(row)
    return Fit(model.eval(), tuple(history), stopped=False)


def _loss(
    model: SpectrogramClassifier,
    train: Examples,
    rows: NDArray[np.int64],
    settings: Settings,
    rng: np.random.Generator,
    balance: Balance,
) -> Tensor:
    """Return the mean loss of one augmented batch."""
    with torch.no_grad():
        level, n_valid = train.levels(rows, model, rng)
        features = model.log_mel.normalise(level, n_valid)
        frames = model.log_mel.valid_frames(n_valid).clamp_max(features.shape[-1])
        draw = draw_spectrogram(rng, settings.augmentation, len(rows))
        features = apply_spectrogram(features, frames, draw)
        targets = torch.from_numpy(train.targets[rows]).to(features.device)
        shares = mix_targets(
            nn.functional.one_hot(targets, len(model.labels)).float(),
            draw,
            frames,
            (features.shape[1], features.shape[2]),
        )
    half = settings.training.precision == "bfloat16"
    with torch.autocast(features.device.type, torch.bfloat16, enabled=half):
        logits = model.classify(features, n_valid)
    logits = logits.float() if balance.offset is None else logits.float() + balance.offset
    return nn.functional.cross_entropy(
        logits,
        shares,
        weight=balance.weight,
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


def score(model: SpectrogramClassifier, examples: Examples) -> dict[str, Any]:
    """Return accuracy, balanced accuracy and macro-F1 of a model on clips, without intervals."""
    probabilities = examples.probabilities(model)
    predicted = probabilities.argmax(1)
    values = scores_of(confusion_matrix(examples.targets, predicted, probabilities.shape[1]))
    return {name: float(value) for name, value in values.items()}
