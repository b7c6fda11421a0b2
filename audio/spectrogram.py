"""The mel transform: waveform to log-mel levels, batched, on any device.

One module serves the conversion script, training and prediction; as part of
`SpectrogramClassifier` it is saved, moved and exported with the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from audio.mel import (
    PCEN_EPS,
    PCEN_SCALE,
    analysis_window,
    hz_to_mel,
    mel_centres_hz,
    mel_filter_bank,
    mel_to_hz,
    smoother_weights,
    smoothing,
)
from audio.settings import SettingsError, SpectrogramSettings

__all__ = [
    "LogMel",
    "hz_to_mel",
    "measure_mean_std",
    "mel_centres_hz",
    "mel_filter_bank",
    "mel_to_hz",
]

# The least deviation that normalisation divides by: a silent clip stays flat, not amplified noise.
_LEAST_DEVIATION = {"db": 1.0, "cube-root": 1e-3, "pcen": 1e-3}

# How far below the clip's loudest frame a frame still counts whole in the clip's mean and
# deviation, and from where on not at all, in dB. In between its weight falls along a line, so that
# no rounding moves a frame from one side to the other (docs/benchmarks.md has what was tried).
_ACTIVE_DB, _INACTIVE_DB = 35.0, 45.0


class LogMel(nn.Module):
    """Waveforms to log-mel levels, by one `SpectrogramSettings`.

    >>> from audio.settings import SpectrogramSettings
    >>> LogMel(SpectrogramSettings())(torch.zeros(2, 16000)).shape
    torch.Size([2, 64, 101])
    """

    window: Tensor
    bank: Tensor

    def __init__(self, settings: SpectrogramSettings) -> None:
        super().__init__()
        self.settings = settings
        # Saved with the model: its file is whole without this code, and loading fills them.
        self.register_buffer("window", torch.from_numpy(analysis_window(settings)))
        self.register_buffer("bank", torch.from_numpy(mel_filter_bank(settings)))

    def forward(self, waveform: Tensor, n_valid: Tensor | None = None) -> Tensor:
        """Return the level of each band and frame, not normalised.

        waveform: float32 (batch, n_samples), in [-1, 1]. n_valid: int (batch,), samples before the
        padding; None says all. Returns float32 (batch, n_mels, n_frames), in dB re full scale (or
        cube roots of power, or PCEN). What else is in the batch never changes a clip.

        Raises:
            ValueError: a waveform too short for one frame.
        """
        s = self.settings
        n_samples = waveform.shape[-1]
        if s.frame_count(n_samples) < 1 or (s.edges == "reflect" and n_samples <= s.n_fft // 2):
            raise ValueError(
                f"{n_samples} samples are too short for a frame of {s.frame_length}; pad the clip, "
                "or lower n_fft and win_length."
            )
        mel = self._power(waveform.float()) @ self.bank  # (batch, n_frames, n_mels)
        mel = mel.transpose(1, 2)
        if s.compression == "cube-root":
            level = mel.clamp_min(0).pow(2 / (3 * s.power))
        elif s.compression == "pcen":
            level = self._pcen(mel)
        else:
            floor = 10 ** (s.floor_db * s.power / 20)
            level = (20 / s.power) * torch.log10(mel.clamp_min(floor))
        valid = self.valid_mask(level, n_valid)
        if s.top_db is not None and s.compression == "db":
            # peak per clip, so a batch never changes a clip
            peak = level if valid is None else level.masked_fill(~valid, -math.inf)
            level = torch.maximum(level, peak.amax((1, 2), keepdim=True) - s.top_db)
        if s.past_end_db is not None and valid is not None:
            level = level.masked_fill(~valid, s.past_end_db)
        return level

    def _pcen(self, mel: Tensor) -> Tensor:
        """Return per-channel energy normalisation (Wang et al., 2017) as librosa.pcen has it.

        `(bias + e / (eps + m) ** gain) ** power - bias ** power`, m the smoothed e; m starts at 1.
        """
        s = self.settings
        energy = mel * PCEN_SCALE
        weights, fading = (
            torch.from_numpy(part).to(energy.device) for part in smoother_weights(smoothing(s))
        )
        smooth: list[Tensor] = []
        carried = torch.ones_like(energy[..., :1])
        for block in torch.split(energy, len(fading), -1):
            n = block.shape[-1]
            smooth.append(block @ weights[:n, :n] + carried * fading[:n])
            carried = smooth[-1][..., -1:]
        gain = torch.exp(-s.pcen_gain * torch.log(PCEN_EPS + torch.cat(smooth, -1)))
        level: Tensor = (energy * gain + s.pcen_bias).pow(s.pcen_power)
        offset: float = s.pcen_bias**s.pcen_power
        return level - offset

    def _padded(self, waveform: Tensor) -> Tensor:
        """Return what frames see past the ends beside the waveform."""
        s = self.settings
        if s.edges == "inside":
            return waveform
        mode = {"zeros": "constant", "reflect": "reflect"}[s.edges]
        half = s.n_fft // 2
        return nn.functional.pad(waveform, (half, half), mode=mode)

    def _power(self, waveform: Tensor) -> Tensor:
        """Return |STFT| ** power, float32 (batch, n_frames, n_fft // 2 + 1)."""
        s = self.settings
        frames = self._padded(waveform).unfold(
            -1, s.frame_length, s.hop_length
        )  # (batch, n_frames, frame)
        if s.drop_last_frame:
            frames = frames[:, :-1]
        if s.remove_dc:
            frames = frames - frames.mean(-1, keepdim=True)
        if s.preemphasis:
            before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
            frames = frames - s.preemphasis * before
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window, n=s.n_fft))
        real, imaginary = spectrum.unbind(-1)
        power = torch.addcmul(real * real, imaginary, imaginary)  # a sum over pairs is slow
        return power if s.power == 2 else power.pow(s.power / 2)

    def valid_frames(self, n_valid: Tensor) -> Tensor:
        """Return how many frames a clip of `n_valid` samples has of itself, int (batch,)."""
        s = self.settings
        if s.edges == "inside":
            n = 1 + torch.div(n_valid - s.frame_length, s.hop_length, rounding_mode="floor")
        else:
            n = 1 + torch.div(n_valid - s.n_fft % 2, s.hop_length, rounding_mode="floor")
        return (n - int(s.drop_last_frame)).clamp_min(1)

    def valid_mask(self, level: Tensor, n_valid: Tensor | None) -> Tensor | None:
        """Return True where a frame is the clip's own, bool (batch, 1, n_frames)."""
        if n_valid is None:
            return None
        frame = torch.arange(level.shape[-1], device=level.device)
        return (frame < self.valid_frames(n_valid)[:, None])[:, None]

    def _activity(self, level: Tensor, valid: Tensor | None) -> Tensor | None:
        """Return what each frame weighs in the clip's mean and deviation, float32 (batch, 1,
        n_frames), or None where all weigh the same.

        A frame is as loud as its loudest band. PCEN has no decibels left to tell by: there, all of
        a clip's own frames weigh 1.
        """
        if self.settings.compression == "pcen":
            return None if valid is None else valid.to(level.dtype)
        loudness = level.amax(1, keepdim=True)
        if self.settings.compression == "cube-root":
            loudness = 30 * torch.log10(loudness.clamp_min(1e-9))  # of the power
        if valid is not None:
            loudness = loudness.masked_fill(~valid, -1e9)
        above = loudness - loudness.amax(2, keepdim=True) + _INACTIVE_DB
        return (above / (_INACTIVE_DB - _ACTIVE_DB)).clamp(0, 1)

    def normalise(self, level: Tensor, n_valid: Tensor | None = None) -> Tensor:
        """Return what the network sees: levels with zero mean and unit deviation, as set.

        level: float32 (batch, n_mels, n_frames). Padding is left out of the statistics, and where
        normalisation is active, frames that are much softer than the clip's loudest.

        Raises:
            SettingsError: dataset normalisation before its mean and deviation are measured.
        """
        s = self.settings
        if s.normalisation == "none":
            return level
        if s.normalisation == "dataset":
            if s.mean_db is None or s.std_db is None:
                raise SettingsError(
                    "normalisation=dataset needs mean_db and std_db; fine-tuning measures them on "
                    "the training split, or give them."
                )
            return (level - s.mean_db) / s.std_db
        axes = (2,) if s.normalisation == "band" else (1, 2)
        mask = self.valid_mask(level, n_valid)
        if s.normalisation == "active":
            share = self._activity(level, mask)
        else:
            share = None if mask is None else mask.to(level.dtype)
        if share is None:
            deviation, mean = torch.std_mean(level, axes, correction=0, keepdim=True)
        else:
            weight = share.expand_as(level)
            n = weight.sum(axes, keepdim=True)
            mean = (level * weight).sum(axes, keepdim=True) / n
            deviation = (((level - mean).square() * weight).sum(axes, keepdim=True) / n).sqrt()
        return (level - mean) / deviation.clamp_min(_LEAST_DEVIATION[s.compression])


def measure_mean_std(
    log_mel: LogMel, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Return mean and deviation of levels over batches of clips, padding excluded.

    batches: (level (batch, n_mels, n_frames), n_valid (batch,) in samples) of unaugmented training
    clips.
    """
    total = square = count = 0.0
    for level, n_valid in batches:
        mask = cast(Tensor, log_mel.valid_mask(level, n_valid)).expand_as(level)
        inside = level[mask].double()
        total += float(inside.sum())
        square += float(inside.square().sum())
        count += inside.numel()
    mean = total / count
    return mean, math.sqrt(max(square / count - mean * mean, 1e-12))
