"""Variations of the spectrogram that need more than stripes: time warp, rectangles, CutMix.

features: float32 (batch, n_mels, n_frames). frames: int64 (batch,), each clip's own frames; all
that is drawn lies among these.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def stripes(start: Array, size: Array, length: Tensor, n: int) -> Tensor:
    """Return True where a stripe lies, bool (batch, n).

    start, size: (batch, stripes), as shares of `length` (batch,).
    """
    scale = length.double()[:, None]
    first = torch.round(torch.from_numpy(start).to(length.device) * scale)
    last = torch.round(torch.from_numpy(start + size).to(length.device) * scale)
    cell = torch.arange(n, device=length.device)
    inside = (cell >= first[..., None]) & (cell < last[..., None])  # (batch, stripes, n)
    return inside.any(1)


def rectangles(
    mel: tuple[Array, Array], frame: tuple[Array, Array], frames: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Return True where each clip's rectangle lies, bool (batch, n_mels, n_frames).

    mel, frame: where it begins and how large it is, (batch,) each, as shares of the bands and of
    `frames` (batch,). shape: n_mels, n_frames.
    """
    high = torch.full_like(frames, shape[0])
    rows = stripes(mel[0][:, None], mel[1][:, None], high, shape[0])
    columns = stripes(frame[0][:, None], frame[1][:, None], frames, shape[1])
    return rows[:, :, None] & columns[:, None, :]


def warp_time(features: Tensor, frames: Tensor, start: Array, by: Array) -> Tensor:
    """Return the features with the point at `start` moved `by`, as shares of the clip's frames.

    The clip's first and last frame stay; between them and the point time runs evenly (SpecAugment,
    Park et al., 2019, with the straight line in place of its spline). Frames past the end stay.
    """
    n = features.shape[-1]
    last = (frames - 1).clamp_min(1).double()[:, None]
    old = torch.from_numpy(start).to(last.device)[:, None] * last
    new = torch.from_numpy(start + by).to(last.device)[:, None].clamp(1e-6, 1 - 1e-6) * last
    t = torch.arange(n, device=features.device, dtype=torch.float64)
    place = torch.where(t <= new, t * old / new, old + (t - new) * (last - old) / (last - new))
    place = torch.where(t <= last, place.clamp_max(last), t)  # (batch, n_frames)
    low = place.long()
    high = (low + 1).clamp_max(n - 1)
    part = (place - low).to(features.dtype)[:, None]

    def at(index: Tensor) -> Tensor:
        return features.gather(2, index[:, None].expand(-1, features.shape[1], -1))

    return torch.lerp(at(low), at(high), part)
