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
from audio.compiled import compiled
from audio.devices import choose_device, seeded, use_threads
from audio.examples import Examples, batches, resolve
from audio.metrics import confusion_matrix, scores_of
from audio.multi_label import log_loss, quick_scores
from audio.optimisation import HALF, Weights, learning_rate
from audio.schedule import Course, Schedule
from audio.settings import Settings
from audio.team import Team
from audio.variation import Variation


@dataclass(frozen=True)
class Fit:
    """A fitted model, its learning curve (a dict an epoch), and whether `stop` cut it short.

    epoch: the one whose weights these are, counted from 1: the last, or with patience the best.
    """

    model: SpectrogramClassifier
    history: tuple[dict[str, float], ...]
    stopped: bool
    epoch: int = 0


@dataclass(frozen=True)
class Batch:
    """What the network is shown: features (batch, n_mels, n_frames), n_valid (batch,), and the
    shares of the labels, float32 (batch, n_labels)."""

    features: Tensor
    n_valid: Tensor
    shares: Tensor


def fine_tune(
    train: Examples,
    validation: Examples,
    settings: Settings,
    labels: Sequence[str],
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    wants_scores: Callable[[], bool] | None = None,
    team: Team | None = None,
    schedule: Schedule | None = None,
) -> Fit:
    """Return a model fitted to the training clips, with the weights of its last epoch.

    The last epoch, not the best: the learning rate has fallen to zero by then, and choosing an
    epoch by its validation score would flatter that score. With patience it is the best all the
    same, and `Fit.epoch` says which. checkpoint: a file that holds the state after each epoch;
    where it is there, the fit goes on from it. stop: asked before every step. wants_scores: asked
    after each epoch but the last; where it answers no, the validation clips are not scored then and
    the epoch's dict has no figures of theirs (with patience they are scored always). team: this
    process's place among several that fit together; by default it is alone. schedule: picks the
    augmentation step by step; None leaves it as the settings have it.

    Raises:
        SettingsError, BackboneError: the settings do not fit the clips or the backbone.
        FloatingPointError: the loss is no longer finite.
    """
    team = team or Team(choose_device(settings.training.device))
    use_threads(settings.training.threads, processes=team.size)
    settings = resolve(settings, train)
    training = settings.training
    several = train.targets.ndim == 2
    model = SpectrogramClassifier.from_settings(settings, labels, multi_label=several)
    model.to(team.device)
    weights = Weights(model, settings)
    balance = make_balance(train.targets, len(labels), training.balance, device=team.device)
    classify = compiled(model) if training.torch_compile else model.classify
    steps_per_epoch = math.ceil(len(train.targets) / training.batch_size)
    n_steps = training.epochs * steps_per_epoch
    schedule = schedule or Schedule()
    schedule.begin(Course(train, settings, n_steps, steps_per_epoch, team))
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = load_checkpoint(checkpoint, weights, settings, schedule)
    for epoch in range(len(history), training.epochs):
        if training.patience and epoch - best_epoch(history) >= training.patience:
            break
        started = time.perf_counter()
        rng = np.random.default_rng([training.seed, epoch])
        order = epoch_order(rng, train.targets, len(labels), training.balance)
        order = schedule.order(order, epoch)
        weights.begin_epoch(epoch)
        total, rate = torch.zeros((), device=team.device), 0.0
        with seeded(team.device, int(rng.integers(2**31)) + team.rank):  # dropout's
            for step, rows in enumerate(batches(order, training.batch_size)):
                if stop is not None and stop():
                    return _fit(weights, history, stopped=True)
                at = epoch * steps_per_epoch + step
                rate = learning_rate(at, n_steps, settings)
                variation = schedule.variation(at, len(rows), rng, model)
                batch = _varied(model, train, rows, settings, rng, variation)
                before = total.clone()
                for part in team.parts(len(rows), training.micro_batches):
                    share = (part.stop - part.start) / len(rows)
                    loss = _loss(classify, batch, part, settings, balance, several) * share
                    weights.backward(loss)
                    total += loss.detach() * len(rows)
                weights.step(rate, team)
                schedule.after(at, model, (total - before) / len(rows), rate)
        train_loss = float(team.add(total)) / len(order)
        if not math.isfinite(train_loss):
            raise FloatingPointError(
                f"the training loss is {train_loss} in epoch {epoch + 1}; lower learning_rate."
            )
        row = {"epoch": epoch + 1, "train_loss": train_loss, "learning_rate": rate}
        is_last = epoch + 1 == training.epochs
        if team.is_first:
            if wants_scores is None or training.patience or is_last or wants_scores():
                with weights.evaluated():
                    row |= _validate(model, validation)
            row["seconds"] = time.perf_counter() - started
        history.append(team.tell(row))
        if training.patience and best_epoch(history) == len(history):
            weights.keep()
        if checkpoint is not None and team.is_first:
            save_checkpoint(checkpoint, weights, settings, history, schedule)
        if on_epoch is not None:
            on_epoch(history[-1])
    return _fit(weights, history, stopped=False)


def _fit(weights: Weights, history: Sequence[dict[str, float]], *, stopped: bool) -> Fit:
    """Return what a fit came to."""
    epoch = best_epoch(history) if weights.training.patience else len(history)
    return Fit(weights.settle(), tuple(history), stopped, epoch)


def best_epoch(history: Sequence[dict[str, float]]) -> int:
    """Return the first epoch of the highest macro-F1 on validation, of several that of the least
    loss, counted from 1; 0 where there is none.

    >>> best_epoch([{"validation_macro_f1": f, "validation_loss": v} for f, v in
    ...     [(0.5, 2.0), (0.8, 1.0), (0.8, 0.9), (0.7, 0.1)]])
    3
    """
    scores = [(row["validation_macro_f1"], -row["validation_loss"]) for row in history]
    return scores.index(max(scores)) + 1 if scores else 0


def _varied(
    model: SpectrogramClassifier,
    train: Examples,
    rows: NDArray[np.int64],
    settings: Settings,
    rng: np.random.Generator,
    variation: Variation | None = None,
) -> Batch:
    """Return one augmented batch, varied by its settings if not told otherwise."""
    varied = variation or Variation(settings.augmentation)
    with torch.no_grad():
        level, n_valid = train.levels(rows, model, rng, varied)
        features = model.log_mel.normalise(level, n_valid)
        frames = model.log_mel.valid_frames(n_valid).clamp_max(features.shape[-1])
        draw = varied.of(draw_spectrogram(rng, varied.settings, len(rows)))
        features = apply_spectrogram(features, frames, draw)
        targets = torch.from_numpy(train.targets[rows]).to(features.device)
        if not model.is_multi_label:
            targets = nn.functional.one_hot(targets, len(model.labels))
        whole = targets.float()
        shares = mix_targets(whole, draw, frames, (features.shape[1], features.shape[2]))
    return Batch(features, n_valid, shares)


def _loss(
    classify: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    part: slice,
    settings: Settings,
    balance: Balance,
    several: bool = False,
) -> Tensor:
    """Return the mean loss of a part of a batch: cross-entropy, or of several labels each one's."""
    features, n_valid, shares = batch.features[part], batch.n_valid[part], batch.shares[part]
    half = HALF.get(settings.training.precision)
    with torch.autocast(features.device.type, half, enabled=half is not None):
        logits = classify(features, n_valid)
    logits = logits.float() if balance.offset is None else logits.float() + balance.offset
    if several:
        smoothing = settings.training.label_smoothing  # each label's between yes and no
        return nn.functional.binary_cross_entropy_with_logits(
            logits, shares * (1 - smoothing) + smoothing / 2, pos_weight=balance.weight
        )
    return nn.functional.cross_entropy(
        logits,
        shares,
        weight=balance.weight,
        label_smoothing=settings.training.label_smoothing,
    )


def _validate(model: SpectrogramClassifier, validation: Examples) -> dict[str, float]:
    probabilities = validation.probabilities(model)
    targets = validation.targets
    if model.is_multi_label:
        scores = quick_scores(probabilities, targets)
        told = {f"validation_{name}": value for name, value in scores.items()}
        return {"validation_loss": log_loss(probabilities, targets)} | told
    targets = targets.astype(np.int64)
    true_class = np.clip(probabilities[np.arange(len(targets)), targets], 1e-12, 1)
    confusion = confusion_matrix(targets, probabilities.argmax(1), probabilities.shape[1])
    of_classes = scores_of(confusion)
    return {
        "validation_loss": float(-np.log(true_class).mean()),
        "validation_accuracy": float(of_classes["accuracy"]),
        "validation_macro_f1": float(of_classes["macro_f1"]),
    }


def score(model: SpectrogramClassifier, examples: Examples) -> dict[str, Any]:
    """Return accuracy, balanced accuracy and macro-F1 of a model on clips, without intervals; of
    several labels, what `quick_scores` gives."""
    probabilities = examples.probabilities(model)
    if model.is_multi_label:
        return dict(quick_scores(probabilities, examples.targets))
    predicted = probabilities.argmax(1)
    values = scores_of(confusion_matrix(examples.targets, predicted, probabilities.shape[1]))
    return {name: float(value) for name, value in values.items()}
