"""The mel transform: waveform to log-mel levels, batched, on any device.

One module serves the conversion script, training and prediction; as part of
`SpectrogramClassifier` it is saved, moved and exported with the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audio.settings import SettingsError, SpectrogramSettings

# The least deviation that normalisation divides by: a silent clip stays flat, not amplified noise.
_LEAST_DEVIATION = {"db": 1.0, "cube-root": 1e-3}


def hz_to_mel(hz: NDArray[Any], scale: str) -> NDArray[np.float64]:
    """Return frequencies on the mel scale.

    slaney: linear below 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998).
    htk, kaldi: `2595 log10(1 + f / 700)` (O'Shaughnessy, 1987).
    """
    hz = np.asarray(hz, np.float64)
    if scale != "slaney":
        return 2595 * np.log10(1 + hz / 700)
    above = 15 + np.log(np.maximum(hz, 1e-9) / 1000) / (math.log(6.4) / 27)
    return np.where(hz < 1000, hz * 3 / 200, above)


def mel_to_hz(mel: NDArray[Any], scale: str) -> NDArray[np.float64]:
    """Return mel values in Hz; the inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale != "slaney":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((math.log(6.4) / 27) * (mel - 15)))


def mel_centres_hz(settings: SpectrogramSettings) -> NDArray[np.float64]:
    """Return the centre of each band, float64 (n_mels,), in Hz."""
    return mel_to_hz(_mel_edges(settings), settings.mel_scale)[1:-1]


def _mel_edges(settings: SpectrogramSettings) -> NDArray[np.float64]:
    ends = hz_to_mel(np.array([settings.f_min_hz, settings.f_max]), settings.mel_scale)
    return np.linspace(ends[0], ends[1], settings.n_mels + 2)


def mel_filter_bank(settings: SpectrogramSettings) -> NDArray[np.float32]:
    """Return the triangular bands' weights, float32 (n_fft // 2 + 1, n_mels).

    Raises:
        SettingsError: a band so narrow that no FFT bin falls into it. (Not for the kaldi scale:
            AST's published checkpoints were trained with such bands.)
    """
    bins_hz: NDArray[Any] = np.fft.rfftfreq(settings.n_fft, 1 / settings.sample_rate_hz)
    if settings.mel_scale == "kaldi":
        points = hz_to_mel(bins_hz, "kaldi")
        edges = _mel_edges(settings)
    else:
        points = bins_hz
        edges = mel_to_hz(_mel_edges(settings), settings.mel_scale)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (points[:, None] - low) / (centre - low)
    falling = (high - points[:, None]) / (high - centre)
    bank = np.maximum(0, np.minimum(rising, falling))
    if settings.mel_scale == "kaldi":
        bank[-1] = 0  # Kaldi leaves the Nyquist bin out
    else:
        empty = np.flatnonzero(bank.sum(axis=0) == 0)
        if empty.size:
            raise SettingsError(
                f"n_mels={settings.n_mels} leaves {empty.size} bands without any bin of "
                f"n_fft={settings.n_fft} at {settings.sample_rate_hz} Hz (the first near "
                f"{centre[empty[0]]:.0f} Hz); lower n_mels, or raise n_fft or f_min_hz."
            )
    if settings.mel_norm == "slaney":
        hz = mel_to_hz(_mel_edges(settings), settings.mel_scale)
        bank *= 2 / (hz[2:] - hz[:-2])
    return bank.astype(np.float32)


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
        make = {
            "hann": torch.hann_window,
            "hamming": torch.hamming_window,
            "blackman": torch.blackman_window,
        }[settings.window]
        window = make(settings.win_length, periodic=not settings.symmetric_window)
        short = settings.frame_length - settings.win_length
        window = nn.functional.pad(window, (short // 2, short - short // 2))
        # Saved with the model: its file is whole without this code, and loading fills them.
        self.register_buffer("window", window)
        self.register_buffer("bank", torch.from_numpy(mel_filter_bank(settings)))

    def forward(self, waveform: Tensor, n_valid: Tensor | None = None) -> Tensor:
        """Return the level of each band and frame, not normalised.

        waveform: float32 (batch, n_samples), in [-1, 1]. n_valid: int (batch,), samples before the
        padding; None says all. Returns float32 (batch, n_mels, n_frames), in dB re full scale (or
        cube roots of power). What else is in the batch never changes a clip.

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

    def _power(self, waveform: Tensor) -> Tensor:
        """Return |STFT| ** power, float32 (batch, n_frames, n_fft // 2 + 1)."""
        s = self.settings
        if s.edges != "inside":
            mode = {"zeros": "constant", "reflect": "reflect"}[s.edges]
            half = s.n_fft // 2
            waveform = nn.functional.pad(waveform, (half, half), mode=mode)
        frames = waveform.unfold(-1, s.frame_length, s.hop_length)  # (batch, n_frames, frame)
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

    def normalise(self, level: Tensor, n_valid: Tensor | None = None) -> Tensor:
        """Return what the network sees: levels with zero mean and unit deviation, as set.

        level: float32 (batch, n_mels, n_frames). Padding is left out of the statistics.

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
        axes = (1, 2) if s.normalisation == "clip" else (2,)
        mask = self.valid_mask(level, n_valid)
        if mask is None:
            deviation, mean = torch.std_mean(level, axes, correction=0, keepdim=True)
        else:
            weight = mask.to(level.dtype).expand_as(level)
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
