"""Variations of the sound itself: pitch, filters, rooms, noise and backgrounds.

Each takes waveforms float32 (batch, n_samples), zeros past n_valid, and what was drawn for each
clip, and returns them varied. What is written past a clip's end is cut away by
`audio.augment.apply_waveform`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

Array = NDArray[np.float64]

_PITCH_WINDOW_S = 0.064  # long enough to part the partials of a low voice
_OVERLAP = 4  # grains over each sample; 8 takes twice the time, and flutters less at an octave
_ORDER = 4  # of the Butterworth curves: 24 dB an octave
_LEAST_POWER = 1e-20
_LOWEST_KNOT_HZ = 62.5


def bend(waveform: Tensor, filter_db: Array, *, sample_rate_hz: float) -> Tensor:
    """Return each clip, its spectrum bent by a curve through knots evenly spaced in octaves, from
    62.5 Hz, below which the curve is level, to the Nyquist frequency.

    filter_db: (batch, knots).
    """
    n, device = waveform.shape[1], waveform.device
    share = _knot_shares(n, filter_db.shape[1], sample_rate_hz, device)
    curve_db = torch.from_numpy(filter_db).to(device) @ share
    gain = torch.exp2(curve_db * (math.log2(10) / 20)).float()
    bent: Tensor = torch.fft.irfft(torch.fft.rfft(waveform) * gain, n=n)
    return bent


@lru_cache(maxsize=8)
def _knot_shares(n: int, n_knots: int, sample_rate_hz: float, device: torch.device) -> Tensor:
    """Return the share of each knot of a filter at each frequency, float64 (knots, bins)."""
    highest = sample_rate_hz / 2
    lowest = min(_LOWEST_KNOT_HZ, highest / 2)
    f = np.maximum(np.fft.rfftfreq(n, 1 / sample_rate_hz), lowest)
    knots = np.arange(n_knots)[:, None]
    place = np.minimum(np.log2(f / lowest) / np.log2(highest / lowest), 1) * knots[-1]
    return torch.from_numpy((1 - np.abs(place - knots)).clip(0)).to(device)


def add_noise(waveform: Tensor, n_valid: Tensor, snr_db: Array, slopes: Array, seed: int) -> Tensor:
    """Return each clip plus noise at a ratio to it, NaN none; its amplitude falls as `f ** -slope`.

    snr_db, slopes: (batch,). seed: of the noise's samples, which differ between a CPU and a GPU.
    """
    noisy = np.flatnonzero(~np.isnan(snr_db))
    # drawn where it is used: on a GPU, noise from the CPU took half of a training step
    generator = torch.Generator(waveform.device).manual_seed(seed)
    n = waveform.shape[1]
    white = torch.randn(len(noisy), n, generator=generator, device=waveform.device)
    slope = torch.from_numpy(slopes[noisy]).to(waveform)
    f = torch.arange(1, n // 2 + 2, device=waveform.device, dtype=waveform.dtype)
    noise = torch.fft.irfft(torch.fft.rfft(white) * f ** -slope[:, None], n=n)
    rows = torch.from_numpy(noisy).to(waveform.device)
    clip = waveform[rows]
    inside = torch.arange(n, device=waveform.device) < n_valid[rows][:, None]
    noise = noise * inside
    power = clip.square().sum(1)
    snr = torch.from_numpy(10 ** (snr_db[noisy] / 10)).to(waveform)
    scale = (power / snr / noise.square().sum(1).clamp_min(1e-20)).sqrt()
    return waveform.index_add(0, rows, noise * scale[:, None])


def shift_pitch(waveform: Tensor, semitones: Array, *, sample_rate_hz: float) -> Tensor:
    """Return each clip with its pitch moved, its length and its power as they were.

    A phase vocoder in the frequency domain: band k takes the magnitude of band k / ratio. Each
    peak's phase runs on with its own frequency times the ratio, and the bands around it keep their
    phases to it (identity phase locking, Laroche & Dolson, 1999), else a partial that begins where
    others were before comes out weak.
    """
    n_fft = 2 ** round(math.log2(_PITCH_WINDOW_S * sample_rate_hz))
    hop = n_fft // _OVERLAP
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.stft(
        waveform, n_fft, hop, window=window, pad_mode="constant", return_complex=True
    )
    n_bins = spectrum.shape[1]
    bins = torch.arange(n_bins, device=waveform.device, dtype=waveform.dtype)
    ratio = torch.from_numpy(2 ** (semitones / 12)).to(waveform)[:, None]
    place = bins / ratio  # (batch, n_bins): where each band's sound comes from
    there = place <= n_bins - 1
    place = place.clamp_max(n_bins - 1)
    below = place.long()
    part = (place - below)[..., None]
    above = (below + 1).clamp_max(n_bins - 1)

    def of(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

    magnitude = spectrum.abs()
    magnitude = torch.lerp(of(magnitude, below), of(magnitude, above), part) * there[..., None]
    # phases about the middle of a frame: neighbours that share a partial then agree
    sign = (1 - 2 * (bins % 2))[:, None]
    phase = (spectrum * sign).angle()
    expected = (2 * math.pi * hop / n_fft) * bins[:, None]
    advance = _wrapped(phase.diff(dim=-1) - expected) + expected  # (batch, n_bins, n_frames - 1)
    nearest = place.round().long()
    phase, advance = of(phase, nearest), of(advance, nearest) * ratio[..., None]
    peak = _nearest_peak(magnitude)
    step = phase - phase.gather(1, peak)
    step[..., 1:] += advance.gather(1, peak[..., 1:])
    step = _wrapped(step)
    run = [phase[..., 0]]
    for t in range(1, phase.shape[-1]):
        run.append(run[-1].gather(1, peak[..., t]) + step[..., t])
    spectrum = torch.polar(magnitude, torch.stack(run, -1)) * sign
    made = torch.istft(spectrum, n_fft, hop, window=window, length=waveform.shape[1])
    return made * (_power(waveform) / _power(made)).sqrt()[:, None]


def _nearest_peak(magnitude: Tensor) -> Tensor:
    """Return the band of the nearest peak of each band, int64 (batch, n_bins, n_frames).

    A peak is no weaker than the two bands on either side of it.
    """
    n_bins = magnitude.shape[1]
    tall = magnitude.transpose(1, 2)
    is_peak = (torch.nn.functional.max_pool1d(tall, 5, 1, 2) == tall).transpose(1, 2)
    bins = torch.arange(n_bins, device=magnitude.device)[:, None]
    left = torch.where(is_peak, bins, -n_bins).cummax(1).values
    right = torch.where(is_peak, bins, 2 * n_bins).flip(1).cummin(1).values.flip(1)
    return torch.where(bins - left <= right - bins, left, right)


def _wrapped(angle: Tensor) -> Tensor:
    """Return angles in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _power(waveform: Tensor) -> Tensor:
    """Return the sum of squares of each row, (batch,), never 0."""
    return waveform.square().sum(1).clamp_min(_LEAST_POWER)


def cut_off(waveform: Tensor, low_hz: Array, high_hz: Array, *, sample_rate_hz: float) -> Tensor:
    """Return each clip with what lies above `low_hz` and below `high_hz` taken away.

    low_hz: cut-off of a low-pass, (batch,); high_hz: of a high-pass; NaN leaves it alone. Gains are
    a Butterworth filter's of order 4, `1 / sqrt(1 + (f / cut) ** 8)`, without its delay.
    """
    n = waveform.shape[1]
    # half a second of zeros, so that what rings past an end does not come in at the other
    n_padded = next_fast_len(n + round(sample_rate_hz / 2), real=True)
    f = torch.fft.rfftfreq(n_padded, 1 / sample_rate_hz, device=waveform.device).to(waveform)
    low, high = (torch.from_numpy(hz).to(waveform)[:, None] for hz in (low_hz, high_hz))
    gain = torch.ones(len(waveform), len(f), device=waveform.device)
    gain = torch.where(low.isnan(), gain, gain * (1 + (f / low) ** (2 * _ORDER)).rsqrt())
    passed = (1 + (high / f.clamp_min(1e-9)) ** (2 * _ORDER)).rsqrt()  # 0 at 0 Hz: 1 / inf
    gain = torch.where(high.isnan(), gain, gain * passed)
    cut: Tensor = torch.fft.irfft(torch.fft.rfft(waveform, n=n_padded) * gain, n=n_padded)
    return cut[:, :n]


def room_response(
    rt60_s: Array, early: Array, direct_db: Array, seed: int, *, sample_rate_hz: float, like: Tensor
) -> Tensor:
    """Return the impulse response of each room, float32 (batch, n), the direct sound first, at 1.

    rt60_s: seconds in which the reverberation falls by 60 dB. early: (batch, n) times of the first
    reflections, as shares of an eighth of rt60_s, at most 80 ms; noise that decays follows the last
    of them. Both decay as `10 ** (-3 t / rt60)` and hold half of the reverberation's energy, which
    lies `direct_db` below the direct sound's. seed: of the noise and of the reflections' signs.
    """
    rt60 = torch.from_numpy(rt60_s).to(like)[:, None]
    n = max(2, math.ceil(float(rt60_s.max()) * sample_rate_hz))
    generator = torch.Generator(like.device).manual_seed(seed)
    t = torch.arange(n, device=like.device, dtype=like.dtype) / sample_rate_hz
    reach_s = torch.from_numpy(np.minimum(rt60_s / 8, 0.08)).to(like)[:, None]
    at = torch.from_numpy(early).to(like) * reach_s
    signs = 1 - 2 * torch.randint(2, at.shape, generator=generator, device=like.device).to(like)
    place = (at * sample_rate_hz).round().long().clamp(1, n - 1)
    first = torch.zeros(len(rt60), n, device=like.device, dtype=like.dtype)
    first.scatter_add_(1, place, signs * 10 ** (-3 * at / rt60))
    late = torch.randn(len(rt60), n, generator=generator, device=like.device, dtype=like.dtype)
    late = late * 10 ** (-3 * t / rt60) * (t < rt60)
    late = late * (torch.arange(n, device=like.device) > place.amax(1, keepdim=True))
    first, late = (part / _power(part).sqrt()[:, None] for part in (first, late))
    share = torch.from_numpy(10 ** (-direct_db / 20)).to(like)[:, None]
    response = first + late
    response = response / _power(response).sqrt()[:, None] * share
    response[:, 0] = 1.0
    return response


def add_room(waveform: Tensor, n_valid: Tensor, response: Tensor) -> Tensor:
    """Return each clip in its room: folded with the response, cut at its end, as loud as before.

    response: (batch, n), from `room_response`.
    """
    n = waveform.shape[1]
    n_padded = next_fast_len(n + response.shape[1] - 1, real=True)
    spectrum = torch.fft.rfft(waveform, n=n_padded) * torch.fft.rfft(response, n=n_padded)
    inside = torch.arange(n, device=waveform.device) < n_valid[:, None]
    wet: Tensor = torch.fft.irfft(spectrum, n=n_padded)[:, :n] * inside
    return wet * (_power(waveform) / _power(wet)).sqrt()[:, None]


def add_at_ratio(waveform: Tensor, n_valid: Tensor, sound: Tensor, snr_db: Array) -> Tensor:
    """Return each clip plus a sound, scaled to lie `snr_db` below it over the clip's own length.

    sound: (batch, n_samples). snr_db: (batch,). A silent sound, or clip, adds nothing.
    """
    inside = torch.arange(waveform.shape[1], device=waveform.device) < n_valid[:, None]
    sound = sound * inside
    ratio = torch.from_numpy(10 ** (snr_db / 10)).to(waveform)
    scale = (waveform.square().sum(1) / ratio / _power(sound)).sqrt()
    return waveform + sound * scale[:, None]
