"""Labelled clips that a network is fitted to, sounds or pictures, and what is measured on them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.augment import apply_waveform, draw_waveform
from audio.backgrounds import Backgrounds, read_backgrounds
from audio.balance import Targets
from audio.classifier import SpectrogramClassifier
from audio.levels import LevelCache, Levels, gather, leaves_waveforms, levels_only
from audio.settings import AugmentationSettings, Settings, SettingsError, SpectrogramSettings
from audio.shards import Shards
from audio.spectrogram import LogMel, measure_mean_std
from audio.variation import Variation
from audio.waveform import Waveform, choose_clip_s
from audio.windows import batched_windows, fit_length, window_starts

_SCORED_TOGETHER = 64  # clips


class Examples(Protocol):
    """Labelled clips that a network can be fitted to: sounds or pictures."""

    @property
    def targets(self) -> Targets:
        """Class of each clip, int64 (n,); of several labels 1 for each, float32 (n, n_labels)."""

    def levels(
        self,
        rows: NDArray[np.int64],
        model: SpectrogramClassifier,
        rng: np.random.Generator | None,
        variation: Variation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return levels (batch, n_mels, n_frames) and n_valid (batch,); varied if rng is given, by
        the model's own augmentation if not told otherwise."""

    def window_logits(
        self, model: SpectrogramClassifier
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the model's logits of every window, (n_windows, n_labels), and its clip."""

    def probabilities(self, model: SpectrogramClassifier) -> NDArray[np.float32]:
        """Return the model's class probabilities of every clip, (n, n_labels)."""


class _Scored:
    """What follows from the logits of the windows."""

    @abstractmethod
    def window_logits(
        self, model: SpectrogramClassifier
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    def probabilities(self, model: SpectrogramClassifier) -> NDArray[np.float32]:
        return model.clip_probabilities(*self.window_logits(model))


@dataclass(frozen=True)
class SoundExamples(_Scored):
    """Clips as waveforms at the model's rate; float32 (n_samples,) each, any length.

    cache: keeps the levels of the clips as they are, for the next epoch and the next fit.
    recordings: keeps what is heard behind clips, where the settings say so.
    """

    waveforms: Sequence[Waveform]
    targets: Targets
    cache: LevelCache = field(default_factory=LevelCache, init=False, repr=False, compare=False)
    recordings: dict[Hashable, Backgrounds] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        waveform, n_valid = apply_waveform(
            waveform,
            n_valid,
            draw,
            sample_rate_hz=model.settings.spectrogram.sample_rate_hz,
            backgrounds=self._backgrounds(model, varied.settings),
        )
        return model.log_mel(waveform, n_valid), n_valid

    def _backgrounds(
        self, model: SpectrogramClassifier, augmentation: AugmentationSettings
    ) -> Backgrounds | None:
        """Return the recordings that the settings take backgrounds from, read once."""
        if not augmentation.background_percent:
            return None
        folder, rate = augmentation.background_folder, model.settings.spectrogram.sample_rate_hz
        key = (folder, rate, model.device)
        if key not in self.recordings:
            found = read_backgrounds(Path(folder), sample_rate_hz=rate)
            self.recordings.clear()  # of one search there is one folder; a second replaces it
            self.recordings[key] = found.to(model.device)
        return self.recordings[key]

    def middles(self, log_mel: LogMel) -> Levels | None:
        """Return the levels of each clip's middle window, unvaried; None if they take too much."""
        spectrogram, device = levels_only(log_mel.settings), log_mel.window.device

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            settings = Settings(spectrogram)
            for rows in batches(np.arange(len(self.waveforms)), _SCORED_TOGETHER):
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
            for batch, own, _ in batched_windows(
                self.waveforms, n, padding=spectrogram.padding, batch_size=_SCORED_TOGETHER
            ):
                n_valid = torch.from_numpy(own).to(device)
                yield model.log_mel(torch.from_numpy(batch).to(device), n_valid), n_valid

        if not len(owner) or not self._fit(len(owner), spectrogram):
            return None
        return self.cache.get(("windows", spectrogram, device), lambda: gather(parts(), owner))

    def _fit(self, n_windows: int, spectrogram: SpectrogramSettings) -> bool:
        """Return whether the cache has room for so many windows."""
        cells = n_windows * spectrogram.n_mels * spectrogram.n_frames
        return 4 * cells + 16 * n_windows <= self.cache.most_bytes

    @torch.inference_mode()
    def window_logits(
        self, model: SpectrogramClassifier
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        kept = self.windows(model)
        if kept is None:
            return model.window_logits(self.waveforms, batch_size=_SCORED_TOGETHER)
        parts = batches(np.arange(len(kept.owner)), _SCORED_TOGETHER)
        return _logits(
            model, ((kept.level[part], kept.n_valid[part]) for part in parts)
        ), kept.owner


@torch.inference_mode()
def _logits(
    model: SpectrogramClassifier, levels: Iterable[tuple[Tensor, Tensor]]
) -> NDArray[np.float32]:
    """Return the logits of batches of (level, n_valid), in all a row a window."""
    model.eval()
    outputs = [np.zeros((0, len(model.labels)), np.float32)]
    for level, n_valid in levels:
        logits = model.classify(model.log_mel.normalise(level, n_valid), n_valid)
        outputs.append(logits.cpu().numpy())
    return np.concatenate(outputs)


class StoredExamples(_Scored):
    """Clips that are stored as levels, a window each; nothing of the sound can be varied."""

    @property
    @abstractmethod
    def n_clips(self) -> int:
        """How many there are."""

    @abstractmethod
    def stored(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return levels and n_valid of some clips, as they are stored."""

    def levels(
        self,
        rows: NDArray[np.int64],
        model: SpectrogramClassifier,
        rng: np.random.Generator | None,
        variation: Variation | None = None,
    ) -> tuple[Tensor, Tensor]:
        level, n_valid = self.stored(rows)
        return level.to(model.device), n_valid.to(model.device)

    def window_logits(
        self, model: SpectrogramClassifier
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        every = np.arange(self.n_clips)
        parts = batches(every, _SCORED_TOGETHER)
        return _logits(model, (self.levels(part, model, None) for part in parts)), every


@dataclass(frozen=True)
class PictureExamples(StoredExamples):
    """Clips as 8-bit pictures: pixels uint8 (n, n_mels, n_frames), low frequencies first; the
    level of black and white, (n,) each; n_valid: samples before the padding, (n,)."""

    pixels: NDArray[np.uint8]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    n_valid: NDArray[np.int64]
    targets: Targets

    @property
    def n_clips(self) -> int:
        return len(self.targets)

    def stored(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        low, high = self.low[rows, None, None], self.high[rows, None, None]
        level = low + self.pixels[rows] * ((high - low) / np.float32(255))
        return torch.from_numpy(level), torch.from_numpy(self.n_valid[rows])


@dataclass(frozen=True)
class ShardExamples(StoredExamples):
    """Clips as rows of memory-mapped shards: nothing is held in memory but a batch."""

    shards: Shards
    targets: Targets

    @property
    def n_clips(self) -> int:
        return len(self.targets)

    def stored(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        level = np.stack([self.shards[i] for i in rows.tolist()])
        n_valid = [int(self.shards.rows[i]["n_valid"]) for i in rows.tolist()]
        return torch.from_numpy(level), torch.tensor(n_valid)


def batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of `order`, `size` at a time; the last are fewer where it does not divide."""
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
        for rows in batches(np.arange(len(train.targets)), _SCORED_TOGETHER):
            if isinstance(train, SoundExamples):
                waveform, n_valid = train.batch(rows, settings, None)
                yield log_mel(waveform, n_valid), n_valid
            elif isinstance(train, StoredExamples):
                yield train.stored(rows)

    return measure_mean_std(log_mel, levels())
