"""Random variation of training clips: drawn with an `rng` first, then applied to a batch.

`draw_*` needs no sound and `apply_*` no randomness but the noise's own seed, so what was done to a
batch can be stored, repeated and tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.settings import AugmentationSettings

Array = NDArray[np.float64]

_FILTER_KNOTS = 8
_NOISE_SNR_SPAN_DB = 30.0
_MIXUP_ALPHA = 0.4  # Zhang et al. (2018) use .2 to .4 for large label sets
_STRIPES = 2  # SpecAugment (Park et al., 2019) draws two of each


@dataclass(frozen=True)
class WaveformDraw:
    """What is done to each clip's waveform; every array is (batch,) but `filter_db`.

    gain_db: added level. turn: share of its own length that a clip is rotated by. speed: 1.1 plays
    in 1 / 1.1 of the time. noise_snr_db: NaN adds none. noise_slope: spectrum falls as
    `f ** -slope`, 0 white to 1 brown in amplitude. filter_db: (batch, knots), gain at frequencies
    evenly spaced in octaves. noise_seed: of the noise's samples, which differ between a CPU and a
    GPU.
    """

    gain_db: Array
    turn: Array
    speed: Array
    noise_snr_db: Array
    noise_slope: Array
    filter_db: Array
    noise_seed: int


def draw_waveform(
    rng: np.random.Generator, settings: AugmentationSettings, batch: int
) -> WaveformDraw:
    """Return what to do to `batch` waveforms."""
    s = settings
    noisy = rng.random(batch) < s.noise_percent / 100
    snr_db = s.noise_snr_db + _NOISE_SNR_SPAN_DB * rng.random(batch)
    return WaveformDraw(
        gain_db=rng.uniform(-s.gain_db, s.gain_db, batch),
        turn=rng.uniform(-s.shift_percent / 100, s.shift_percent / 100, batch),
        speed=np.exp(rng.uniform(-1, 1, batch) * np.log1p(s.speed_percent / 100)),
        noise_snr_db=np.where(noisy, snr_db, np.nan),
        noise_slope=rng.random(batch),
        filter_db=rng.uniform(-s.filter_db, s.filter_db, (batch, _FILTER_KNOTS)),
        noise_seed=int(rng.integers(2**31)),
    )


def apply_waveform(waveform: Tensor, n_valid: Tensor, draw: WaveformDraw) -> tuple[Tensor, Tensor]:
    """Return the varied waveforms and their lengths.

    waveform: float32 (batch, n_samples), zeros past n_valid. n_valid: int64 (batch,).
    """
    if draw.turn.any() or (draw.speed != 1).any():
        waveform, n_valid = _turn_and_speed(waveform, n_valid, draw)
    if draw.filter_db.any():
        waveform = _filter(waveform, draw.filter_db)
    if draw.gain_db.any():
        gain = torch.from_numpy(10 ** (draw.gain_db / 20)).to(waveform)
        waveform = waveform * gain[:, None]
    if not np.isnan(draw.noise_snr_db).all():
        waveform = _add_noise(waveform, n_valid, draw)
    inside = torch.arange(waveform.shape[1], device=waveform.device) < n_valid[:, None]
    return waveform * inside, n_valid


def _turn_and_speed(waveform: Tensor, n_valid: Tensor, draw: WaveformDraw) -> tuple[Tensor, Tensor]:
    """Rotate each clip within its own length and read it at another speed; zeros follow it."""
    device = waveform.device
    speed = torch.from_numpy(draw.speed).to(device)
    length = n_valid.double()
    turn = torch.round(torch.from_numpy(draw.turn).to(device) * length)
    out_valid = (length / speed).long().clamp(1, waveform.shape[1])
    if device.type == "cpu":
        made = np.zeros(waveform.shape, np.float32)
        rows = zip(made, waveform.numpy(), n_valid.tolist(), out_valid.tolist(), strict=True)
        for (out, clip, n, m), by, rate in zip(rows, turn.tolist(), draw.speed, strict=True):
            _read_turned(out[:m], clip[:n], int(by), float(rate))
        return torch.from_numpy(made), out_valid
    return _gather_turned(waveform, n_valid, turn, speed, out_valid), out_valid


def _read_turned(
    out: NDArray[np.float32], clip: NDArray[np.float32], turn: int, speed: float
) -> None:
    """Fill `out` with one clip rotated by `turn` samples and read at `speed`.

    Clip by clip, on a CPU, this takes a quarter of the time of `_gather_turned`: it moves whole
    stretches and never looks at the padding.
    """
    n = len(clip)
    if not n:
        return
    if speed == 1:
        first = turn % n
        out[first:] = clip[: n - first]
        out[:first] = clip[n - first :]
        return
    place = np.arange(len(out)) * speed - turn  # in (-n, 2 n)
    np.add(place, n, out=place, where=place < 0)
    np.subtract(place, n, out=place, where=place >= n)
    low = place.astype(np.int64)
    part = (place - low).astype(np.float32)
    here, after = clip[low], np.append(clip[1:], clip[:1])[low]
    out[:] = here + part * (after - here)


def _gather_turned(
    waveform: Tensor, n_valid: Tensor, turn: Tensor, speed: Tensor, out_valid: Tensor
) -> Tensor:
    """Return what `_read_turned` does of every clip, in one gather."""
    t = torch.arange(waveform.shape[1], device=waveform.device, dtype=torch.float64)
    length = n_valid.clamp_min(1)[:, None]
    place = (t * speed[:, None] - turn[:, None]) % length
    low = place.long()
    high = (low + 1) % length
    part = (place - low).float()
    made = torch.lerp(waveform.gather(1, low), waveform.gather(1, high), part)
    return made * (t < out_valid[:, None])


def _filter(waveform: Tensor, filter_db: Array) -> Tensor:
    """Bend each spectrum by a curve through knots evenly spaced in octaves."""
    n = waveform.shape[1]
    n_bins = n // 2 + 1
    octave = np.log2(np.arange(1, n_bins + 1))
    place = octave / octave[-1] * (filter_db.shape[1] - 1) if n_bins > 1 else np.zeros(1)
    low = np.minimum(place.astype(int), filter_db.shape[1] - 2)
    part = place - low
    curve_db = filter_db[:, low] * (1 - part) + filter_db[:, low + 1] * part
    gain = torch.from_numpy((10 ** (curve_db / 20)).astype(np.float32)).to(waveform.device)
    bent: Tensor = torch.fft.irfft(torch.fft.rfft(waveform) * gain, n=n)
    return bent


def _add_noise(waveform: Tensor, n_valid: Tensor, draw: WaveformDraw) -> Tensor:
    noisy = np.flatnonzero(~np.isnan(draw.noise_snr_db))
    # drawn where it is used: on a GPU, noise from the CPU took half of a training step
    generator = torch.Generator(waveform.device).manual_seed(draw.noise_seed)
    n = waveform.shape[1]
    white = torch.randn(len(noisy), n, generator=generator, device=waveform.device)
    slope = torch.from_numpy(draw.noise_slope[noisy]).to(waveform)
    f = torch.arange(1, n // 2 + 2, device=waveform.device, dtype=waveform.dtype)
    noise = torch.fft.irfft(torch.fft.rfft(white) * f ** -slope[:, None], n=n)
    rows = torch.from_numpy(noisy).to(waveform.device)
    clip = waveform[rows]
    inside = torch.arange(n, device=waveform.device) < n_valid[rows][:, None]
    noise = noise * inside
    power = clip.square().sum(1)
    snr = torch.from_numpy(10 ** (draw.noise_snr_db[noisy] / 10)).to(waveform)
    scale = (power / snr / noise.square().sum(1).clamp_min(1e-20)).sqrt()
    return waveform.index_add(0, rows, noise * scale[:, None])


@dataclass(frozen=True)
class SpectrogramDraw:
    """What is done to each clip's spectrogram, as shares of its height and width.

    mel_from, mel_size, frame_from, frame_size: (batch, stripes), in [0, 1]. mix_with: (batch,),
    which clip each is mixed with. keep: its own share in that mixture, 1 is no mixture.
    """

    mel_from: Array
    mel_size: Array
    frame_from: Array
    frame_size: Array
    mix_with: NDArray[np.int64]
    keep: float


def draw_spectrogram(
    rng: np.random.Generator, settings: AugmentationSettings, batch: int
) -> SpectrogramDraw:
    """Return what to do to `batch` spectrograms."""
    s = settings
    mel_size = rng.uniform(0, s.frequency_mask_percent / 100 / _STRIPES, (batch, _STRIPES))
    frame_size = rng.uniform(0, s.time_mask_percent / 100 / _STRIPES, (batch, _STRIPES))
    mixed = rng.random() < s.mixup_percent / 100
    keep = float(rng.beta(_MIXUP_ALPHA, _MIXUP_ALPHA)) if mixed else 1.0
    return SpectrogramDraw(
        mel_from=rng.random((batch, _STRIPES)) * (1 - mel_size),
        mel_size=mel_size,
        frame_from=rng.random((batch, _STRIPES)) * (1 - frame_size),
        frame_size=frame_size,
        mix_with=rng.permutation(batch),
        keep=max(keep, 1 - keep),
    )


def apply_spectrogram(features: Tensor, frames: Tensor, draw: SpectrogramDraw) -> Tensor:
    """Return the features masked and mixed.

    features: float32 (batch, n_mels, n_frames), normalised. frames: int64 (batch,), each clip's
    own frames; stripes fall among these. Blanked cells get the clip's mean.
    """
    _, n_mels, n_frames = features.shape
    if draw.mel_size.any() or draw.frame_size.any():
        high = torch.full_like(frames, n_mels)
        blank = (
            _stripes(draw.mel_from, draw.mel_size, high, n_mels)[:, :, None]
            | _stripes(draw.frame_from, draw.frame_size, frames, n_frames)[:, None, :]
        )
        own = (torch.arange(n_frames, device=features.device) < frames[:, None])[:, None]
        mean = (features * own).sum((1, 2)) / (own.sum((1, 2)).clamp_min(1) * n_mels)
        features = torch.where(blank, mean[:, None, None], features)
    if draw.keep < 1:
        other = features[torch.from_numpy(draw.mix_with).to(features.device)]
        features = draw.keep * features + (1 - draw.keep) * other
    return features


def _stripes(start: Array, size: Array, length: Tensor, n: int) -> Tensor:
    """Return True where a stripe lies, bool (batch, n)."""
    scale = length.double()[:, None]
    first = torch.round(torch.from_numpy(start).to(length.device) * scale)
    last = torch.round(torch.from_numpy(start + size).to(length.device) * scale)
    cell = torch.arange(n, device=length.device)
    inside = (cell >= first[..., None]) & (cell < last[..., None])  # (batch, stripes, n)
    return inside.any(1)


def mix_targets(targets: Tensor, draw: SpectrogramDraw) -> Tensor:
    """Return the label shares, float32 (batch, n_classes), mixed as the clips were."""
    if draw.keep == 1:
        return targets
    other = targets[torch.from_numpy(draw.mix_with).to(targets.device)]
    return draw.keep * targets + (1 - draw.keep) * other
