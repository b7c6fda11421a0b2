"""Fine-tuning many settings at once on one device: `fine_tune_many`.

Each network goes through what `audio.train.fine_tune` would do with its settings alone: the same
first weights, order, windows, augmentation and learning rates, from the same seed. Only dropout
is drawn for the whole stack. What several networks share (same seed, same augmentation, same mel
settings) is computed once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audio.augment import (
    SpectrogramDraw,
    WaveformDraw,
    apply_spectrogram,
    apply_waveform,
    draw_spectrogram,
    draw_waveform,
    mix_targets,
)
from audio.classifier import SpectrogramClassifier
from audio.devices import seeded
from audio.examples import SoundExamples, resolve
from audio.levels import levels_only
from audio.metrics import scores_of
from audio.optimisation import CLIP_NORM, learning_rate
from audio.settings import Settings, SettingsError
from audio.spectrogram import LogMel
from audio.stack import NetworkStack
from audio.waveform import Waveform, window_starts

_BETAS = (0.9, 0.98)
_EPSILON = 1e-8
_ALIKE = {
    "spectrogram": ("sample_rate_hz", "clip_s", "padding", "n_mels", "n_fft", "hop_length", "edges",
                    "n_frames", "frame_length"),
    "training": ("backbone", "size", "epochs", "batch_size", "dropout", "precision"),
}  # fmt: skip
_LEFT_OUT = {
    "balance": "none",
    "freeze_backbone": False,
    "unfreeze_epochs": 0,
    "layer_decay": 1.0,
    "lora_rank": 0,
    "ema_decay": 0.0,
    "patience": 0,
    "micro_batches": 1,
}
_SAMPLES = 2**26  # of waveforms to vary at a time: some 3 GiB with all that is about them
_SCORING_CELLS = 2**28  # of features at a time while scoring: 1 GiB in float32

_Draw = TypeVar("_Draw", SpectrogramDraw, WaveformDraw)
_Drawn = tuple[NDArray[np.int64], NDArray[np.int64], WaveformDraw]
Curve = list[dict[str, float]]


@dataclass(frozen=True)
class ManyFits:
    """What `fine_tune_many` found: for each settings its learning curve, and the networks."""

    settings: tuple[Settings, ...]
    """As given, with what is measured on the training clips filled in."""
    curves: tuple[Curve, ...]
    """A dict an epoch: epoch, train_loss, and NAME_loss, NAME_accuracy, NAME_macro_f1 of each
    scored set, where it was scored."""
    stack: NetworkStack
    labels: tuple[str, ...]
    seconds: float
    stopped: bool = False
    """`stop` cut them short."""

    def model(self, i: int) -> SpectrogramClassifier:
        """Return the fitted model of settings `i`."""
        model = SpectrogramClassifier.from_settings(self.settings[i], self.labels)
        model.network.load_state_dict(self.stack.state(i))
        model.eval()
        return model


def alike(settings: Settings) -> dict[str, Any]:
    """Return what all settings of a stack must agree in, by name.

    Raises:
        SettingsError: these use what a stack cannot do.
    """
    training = settings.training
    for name, value in _LEFT_OUT.items():
        if (have := getattr(training, name)) != value:
            raise SettingsError(f"{name}={have} does not go with a stack; leave it at {value}.")
    for name, have, can in (
        ("backbone", training.backbone, training.backbone == "whisper-scratch"),
        ("precision", training.precision, training.precision != "float16"),
        ("background_percent", settings.augmentation.background_percent,
         not settings.augmentation.background_percent),
    ):  # fmt: skip
        if not can:
            raise SettingsError(f"{name}={have} does not go with a stack; train it alone.")
    return {
        name: getattr(getattr(settings, part), name)
        for part, names in _ALIKE.items()
        for name in names
    }


def check_alike(settings: Sequence[Settings]) -> None:
    """Hold settings to what a stack can train together.

    Raises:
        SettingsError: they differ in what must be equal, or use what a stack cannot do.
    """
    first = alike(settings[0])
    for one in settings:
        for name, have in alike(one).items():
            if have != first[name]:
                raise SettingsError(
                    f"{name}={have} beside {first[name]} in one stack; train them apart."
                )


def fine_tune_many(
    train: SoundExamples,
    scored: Mapping[str, SoundExamples],
    settings: Sequence[Settings],
    labels: Sequence[str],
    *,
    device: torch.device,
    on_epoch: Callable[[Sequence[dict[str, float]]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    wants_scores: Callable[[], bool] | None = None,
    tolerant: bool = False,
) -> ManyFits:
    """Return the fits of many settings to the same clips, trained side by side.

    scored: sets of clips by name (validation, test) that every network is scored on after every
    epoch. device: best a GPU; products are in bfloat16 where the settings say so. on_epoch: told
    each network's row of its curve. stop, wants_scores: as `fine_tune` has them. tolerant: a
    network whose loss is no longer finite is left to the others, who do not feel it.

    Raises:
        SettingsError: the settings cannot be stacked.
        FloatingPointError: a loss is no longer finite, and `tolerant` is off.
    """
    started = time.perf_counter()
    check_alike(settings)
    if train.targets.ndim == 2:
        raise SettingsError(
            "clips with several labels do not go with a stack; fit them one by one."
        )
    measured = {s.spectrogram: s for s in settings}
    measured = {key: resolve(s, train) for key, s in measured.items()}
    settings = tuple(replace(s, spectrogram=measured[s.spectrogram].spectrogram) for s in settings)
    training = settings[0].training
    dtype = torch.bfloat16 if training.precision == "bfloat16" else torch.float32
    fresh: dict[Hashable, Mapping[str, Tensor]] = {}
    for one in settings:
        if one.training.seed not in fresh:
            model = SpectrogramClassifier.from_settings(one, labels)
            description = model.config.network
            fresh[one.training.seed] = model.network.state_dict()
    stack = NetworkStack(description, [fresh[s.training.seed] for s in settings]).to(device)
    optimiser = _Adam(stack, settings)
    front = _FrontEnds(train, settings, device)
    tests = {name: _Scored(examples, settings, device) for name, examples in scored.items()}
    one_hot = nn.functional.one_hot(torch.from_numpy(train.targets), len(labels)).float().to(device)
    smoothing = torch.tensor([s.training.label_smoothing for s in settings], device=device)
    n_clips, n_models = len(train.targets), len(settings)
    steps_per_epoch = math.ceil(n_clips / training.batch_size)
    n_steps = training.epochs * steps_per_epoch
    curves: tuple[Curve, ...] = tuple([] for _ in settings)
    for epoch in range(training.epochs):
        generators = front.draws(epoch)
        total = torch.zeros(n_models, device=device)
        with seeded(device, _dropout_seed(settings, epoch)):
            for step in range(steps_per_epoch):
                if stop is not None and stop():
                    seconds = time.perf_counter() - started
                    return ManyFits(settings, curves, stack, tuple(labels), seconds, stopped=True)
                part = slice(step * training.batch_size, (step + 1) * training.batch_size)
                features, frames, shares = front.batch(generators, part, one_hot)
                rates = front.rates(epoch * steps_per_epoch + step, n_steps)
                logits = stack.logits(features, frames, training=True, dtype=dtype)
                goal = shares * (1 - smoothing[:, None, None])
                goal = goal + smoothing[:, None, None] / shares.shape[-1]
                losses = -(goal * logits.log_softmax(-1)).sum(-1).mean(-1)  # one a model
                losses.sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step(rates)
                total += losses.detach() * features.shape[1]
        mean = (total / n_clips).tolist()
        if not tolerant and not all(map(math.isfinite, mean)):
            bad = settings[[math.isfinite(v) for v in mean].index(False)]
            raise FloatingPointError(
                f"a training loss is not finite in epoch {epoch + 1}; lower learning_rate="
                f"{bad.training.learning_rate}."
            )
        rows: list[dict[str, float]] = [{"epoch": epoch + 1, "train_loss": v} for v in mean]
        is_last = epoch + 1 == training.epochs
        if is_last or wants_scores is None or wants_scores():
            for name, test in tests.items():
                for row, scores in zip(rows, test.scores(stack, dtype), strict=True):
                    row |= {f"{name}_{key}": value for key, value in scores.items()}
        for curve, row in zip(curves, rows, strict=True):
            curve.append(row)
        if on_epoch is not None:
            on_epoch(rows)
    seconds = time.perf_counter() - started
    return ManyFits(settings, curves, stack, tuple(labels), seconds)


def _dropout_seed(settings: Sequence[Settings], epoch: int) -> int:
    """Return the seed of a stack's dropout in an epoch, which follows from its networks' seeds."""
    seeds = [s.training.seed for s in settings]
    return int(np.random.default_rng([*seeds, epoch]).integers(2**31))


class _FrontEnds:
    """Training clips on the device, and how they become each network's features.

    What networks share is numbered once, so that a step loops over what is distinct and gathers
    the rest by index.
    """

    def __init__(
        self, train: SoundExamples, settings: Sequence[Settings], device: torch.device
    ) -> None:
        self.device = device
        self.lengths = np.array([len(w) for w in train.waveforms], np.int64)
        self.offsets = torch.from_numpy(np.r_[0, np.cumsum(self.lengths)[:-1]]).to(device)
        self.samples = torch.from_numpy(np.concatenate(list(train.waveforms))).to(device)
        self.spectrogram = settings[0].spectrogram
        self.kinds, self.kind_of = _numbered([s.spectrogram for s in settings])
        self.mels, self.mel_of_kind = _numbered([levels_only(kind) for kind in self.kinds])
        self.log_mels = [LogMel(mel).to(device) for mel in self.mels]
        self.norms = [LogMel(kind).to(device) for kind in self.kinds]
        self.draw_keys, self.draw_of = _numbered(
            [(s.training.seed, s.augmentation) for s in settings]
        )
        peaks, self.peak_of = _numbered([s.training.learning_rate for s in settings])
        self.peaks = [settings[list(self.peak_of).index(i)] for i in range(len(peaks))]

    def rates(self, step: int, n_steps: int) -> Tensor:
        """Return each network's step size, float32 (n_models,)."""
        rates = np.array([learning_rate(step, n_steps, s) for s in self.peaks], np.float32)
        return torch.from_numpy(rates[self.peak_of]).to(self.device)

    def draws(self, epoch: int) -> list[np.random.Generator]:
        """Return a generator for each (seed, augmentation), where `fine_tune`'s would stand when
        the epoch begins, and each one's order of the clips."""
        self.orders, generators = [], []
        for seed, _ in self.draw_keys:
            rng = np.random.default_rng([seed, epoch])
            self.orders.append(rng.permutation(len(self.lengths)))
            rng.integers(2**31)  # fine_tune seeds dropout with it
            generators.append(rng)
        return generators

    def batch(
        self, generators: Sequence[np.random.Generator], part: slice, one_hot: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (n_models, batch, n_mels, n_frames), frames (n_models, batch) and label
        shares (n_models, batch, n_labels) of one step."""
        n = self.spectrogram.n_samples
        sounds: dict[bytes, int] = {}  # by what was drawn
        drawn, sound_of_draw, masks, rows_of_draw = [], [], [], []
        for (_, augmentation), rng, order in zip(
            self.draw_keys, generators, self.orders, strict=True
        ):
            rows = order[part]
            starts = np.array(
                [int(rng.integers(k - n + 1)) if k > n else 0 for k in self.lengths[rows]]
            )
            wave = draw_waveform(rng, augmentation, len(rows))
            what = rows.tobytes() + starts.tobytes() + _bytes(wave)
            if what not in sounds:
                sounds[what] = len(sounds)
                drawn.append((rows, starts, wave))
            sound_of_draw.append(sounds[what])
            masks.append(draw_spectrogram(rng, augmentation, len(rows)))
            rows_of_draw.append(rows)
        size = len(rows)
        waveform, n_valid = self._sounds(drawn)
        features = self._normalised(waveform, n_valid, size)
        own = self.norms[0].valid_frames(n_valid).clamp_max(features.shape[-1]).view(-1, size)
        sound_of = self._index(np.array(sound_of_draw)[self.draw_of])
        features = features[self._index(self.kind_of), sound_of]
        frames = own[sound_of]
        shares = one_hot[self._index(np.array(rows_of_draw))]
        if all(mask.is_plain for mask in masks):
            every = np.arange(len(masks))
            shares = mix_targets(shares.flatten(0, 1), _gathered(masks, every)).view_as(shares)
            all_masks = _gathered(masks, self.draw_of)
            flat = apply_spectrogram(features.flatten(0, 1), frames.flatten(), all_masks)
            features = flat.view_as(features)
        else:  # what is on in one draw may be off in another
            shape = (features.shape[-2], features.shape[-1])
            whole = zip(shares, masks, sound_of_draw, strict=True)
            shares = torch.stack([mix_targets(s, m, own[sound], shape) for s, m, sound in whole])
            for i, mask in enumerate(masks):
                models = self._index(np.flatnonzero(self.draw_of == i))
                mine = features[models].flatten(0, 1)
                tiled = _gathered([mask], np.zeros(len(models), np.int64))
                mine = apply_spectrogram(mine, frames[models].flatten(), tiled)
                features[models] = mine.view(len(models), size, *mine.shape[1:])
        return features, frames, shares[self._index(self.draw_of)]

    def _sounds(self, drawn: Sequence[_Drawn]) -> tuple[Tensor, Tensor]:
        """Return the varied waveforms of every (rows, starts, draw) in a row, and their lengths:
        in one go where the draws can be joined, for a GPU takes as long over few clips."""
        if all(wave.is_plain for *_, wave in drawn):
            size = len(drawn[0][0]) * self.spectrogram.n_samples
            parts = range(0, len(drawn), max(1, _SAMPLES // size))
            drawn = [_joined(drawn[first : first + parts.step]) for first in parts]
        varied = [
            apply_waveform(
                *self._windows(rows, starts), wave, sample_rate_hz=self.spectrogram.sample_rate_hz
            )
            for rows, starts, wave in drawn
        ]
        waveforms, lengths = zip(*varied, strict=True)
        return torch.cat(waveforms), torch.cat(lengths)

    def _index(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(numbers).to(self.device)

    def _windows(self, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return windows (batch, n_samples) that begin at `starts`, and n_valid (batch,)."""
        n, repeat = self.spectrogram.n_samples, self.spectrogram.padding == "repeat"
        length = self._index(np.minimum(self.lengths[rows] - starts, n))
        first = self.offsets[self._index(rows)] + self._index(starts)
        t = torch.arange(n, device=self.device)
        inside = t % length[:, None] if repeat else torch.minimum(t, length[:, None] - 1)
        windows = self.samples[first[:, None] + inside]
        if repeat:
            return windows, torch.full_like(length, n)
        return windows * (t < length[:, None]), length

    def _normalised(self, waveform: Tensor, n_valid: Tensor, size: int) -> Tensor:
        """Return features (n_kinds, n_sounds, batch, n_mels, n_frames) of every sound under every
        spectrogram setting."""
        levels = [log_mel(waveform, n_valid) for log_mel in self.log_mels]
        made = [
            norm.normalise(levels[mel], n_valid)
            for norm, mel in zip(self.norms, self.mel_of_kind, strict=True)
        ]
        features = torch.stack(made)
        return features.view(len(made), -1, size, *features.shape[2:])


def _numbered(items: Sequence[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct items and the number of each item among them."""
    number: dict[Any, int] = {}
    numbers = [number.setdefault(item, len(number)) for item in items]
    return list(number), np.array(numbers, np.int64)


class _Scored:
    """Clips that every network is scored on, their features computed once."""

    def __init__(
        self, examples: SoundExamples, settings: Sequence[Settings], device: torch.device
    ) -> None:
        spectrogram = settings[0].spectrogram
        n = spectrogram.n_samples
        pieces: list[Waveform] = []
        owner: list[int] = []
        for i, waveform in enumerate(examples.waveforms):
            pieces += [waveform[start : start + n] for start in window_starts(len(waveform), n)]
            owner += [i] * (len(pieces) - len(owner))
        # the windows are cut already, so nothing is cropped or drawn here
        whole = SoundExamples(pieces, np.zeros(len(pieces), np.int64))
        padded, length = whole.batch(np.arange(len(pieces)), settings[0], None)
        sound, n_valid = padded.to(device), length.to(device)
        kinds = list({s.spectrogram: None for s in settings})
        features, mels = [], {}
        for kind in kinds:
            mel, log_mel = levels_only(kind), LogMel(kind).to(device)
            if mel not in mels:
                mels[mel] = log_mel(sound, n_valid)
            features.append(log_mel.normalise(mels[mel], n_valid))
        self.features = torch.stack(features)  # (n_kinds, n_windows, n_mels, n_frames)
        place = {kind: i for i, kind in enumerate(kinds)}
        self.kind = torch.tensor([place[s.spectrogram] for s in settings], device=device)
        self.frames = log_mel.valid_frames(n_valid).clamp_max(self.features.shape[-1])
        self.owner = torch.tensor(owner, device=device)
        self.targets = torch.from_numpy(examples.targets).to(device)

    @torch.inference_mode()
    def scores(self, stack: NetworkStack, dtype: torch.dtype) -> list[dict[str, float]]:
        """Return loss, accuracy and macro-F1 of every network."""
        n_models, n_windows = len(stack), self.features.shape[1]
        size = max(1, _SCORING_CELLS // (n_models * self.features[0, 0].numel()))
        chances = []
        for first in range(0, n_windows, size):
            features = self.features[self.kind, first : first + size]
            frames = self.frames[first : first + size].expand(n_models, -1)
            chances.append(stack.logits(features, frames, dtype=dtype).softmax(-1))
        chance = torch.cat(chances, 1)  # (n_models, n_windows, n_labels)
        n_clips, n_labels = len(self.targets), chance.shape[-1]
        mean = chance.new_zeros(n_models, n_clips, n_labels).index_add(1, self.owner, chance)
        mean = mean / self.owner.bincount(minlength=n_clips)[:, None]
        right = mean[:, torch.arange(n_clips, device=mean.device), self.targets]
        loss = (-right.clamp_min(1e-12).log().mean(1)).tolist()
        cell = self.targets * n_labels + mean.argmax(-1)
        cell = cell + n_labels**2 * torch.arange(n_models, device=cell.device)[:, None]
        counts = cell.flatten().bincount(minlength=n_models * n_labels**2)
        known = scores_of(counts.view(n_models, n_labels, n_labels).cpu().numpy())
        return [
            {"loss": loss[i], "accuracy": float(known["accuracy"][i]),
             "macro_f1": float(known["macro_f1"][i])}
            for i in range(n_models)
        ]  # fmt: skip


class _Adam:
    """AdamW with a step size and a gradient norm for each network of a stack."""

    def __init__(self, stack: NetworkStack, settings: Sequence[Settings]) -> None:
        self.weights = list(stack.weights.values())
        self.first = [torch.zeros_like(w) for w in self.weights]
        self.second = [torch.zeros_like(w) for w in self.weights]
        device = self.weights[0].device
        self.decay = torch.tensor([s.training.weight_decay for s in settings], device=device)
        self.n_steps = 0

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """Move every network by its own rate and forget the gradients."""
        self.n_steps += 1
        gradients = [w.grad for w in self.weights]
        square = sum(g.flatten(1).square().sum(1) for g in gradients)  # type: ignore[union-attr, misc]
        shrink = (CLIP_NORM / (torch.sqrt(square) + 1e-6)).clamp_max(1.0)  # type: ignore[arg-type]
        decay = rate * self.decay
        slow = 1 - _BETAS[0] ** self.n_steps
        damp = math.sqrt(1 - _BETAS[1] ** self.n_steps)
        for weight, gradient, first, second in zip(
            self.weights, gradients, self.first, self.second, strict=True
        ):
            wide = (-1, *[1] * (weight.ndim - 1))
            gradient = gradient * shrink.view(wide)  # type: ignore[operator]
            if weight.ndim > 2:  # matrices of each network: biases and norms do not decay
                weight.mul_(1 - decay.view(wide))
            first.lerp_(gradient, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            change = first / slow / (second.sqrt() / damp + _EPSILON)
            weight.addcmul_(change, rate.view(wide), value=-1)
            weight.grad = None


def _joined(drawn: Sequence[_Drawn]) -> _Drawn:
    """Return several (rows, starts, plain draw) as one."""
    rows, starts, waves = zip(*drawn, strict=True)
    every = _gathered(waves, np.arange(len(waves)))
    return np.concatenate(rows), np.concatenate(starts), every


def _bytes(draw: Any) -> bytes:
    """Return the values of a draw's fields as bytes; the noise's only where some is added."""
    fields = dict(vars(draw))
    if np.isnan(fields.get("noise_snr_db", np.zeros(1))).all():
        fields |= {"noise_seed": 0, "noise_slope": None}
    return b"".join(np.asarray(value, object if value is None else None).tobytes()
                    if value is not None else b"-" for value in fields.values())  # fmt: skip


def _gathered(draws: Sequence[_Draw], which: NDArray[np.int64]) -> _Draw:
    """Return the draws numbered `which`, of batches of one size and all plain, as one draw of all
    in a row: a mixture's share becomes each clip's own, and whom it is with is counted on."""
    made: dict[str, Any] = {}
    for name, value in vars(draws[0]).items():
        if isinstance(value, np.ndarray):
            size = len(value)
            made[name] = np.stack([vars(d)[name] for d in draws])[which].reshape(
                len(which) * size, *value.shape[1:]
            )
        else:
            made[name] = value
    if "mix_with" in made:
        made["keep"] = np.repeat(np.array([vars(d)["keep"] for d in draws])[which], size)
        made["mix_with"] = made["mix_with"] + np.repeat(np.arange(len(which)) * size, size)
    return type(draws[0])(**made)
