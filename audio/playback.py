"""Turning a clip within its length and playing it faster or slower, clip by clip and all at once.

Each takes waveforms float32 (batch, n_samples), zeros past n_valid, and what was drawn for each
clip, and returns them varied.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

Array = NDArray[np.float64]

_EXACT = 5e-4  # of a speed
_SILENCE = 32  # samples between a clip's end and its beginning
_FINER = 8  # times as many samples, to read between them
_TOGETHER = 2**27  # of these at a time: some 4 GiB with all that is about them


def turn_and_speed(
    waveform: Tensor, n_valid: Tensor, turns: Array, speeds: Array
) -> tuple[Tensor, Tensor]:
    """Return each clip rotated within its own length and played at another speed, and its length.

    turns: shares of its own length, (batch,). speeds: (batch,). Zeros follow each clip.
    """
    width, device = waveform.shape[1], waveform.device
    length = n_valid.double()
    made = waveform
    if turns.any():
        turn = torch.round(torch.from_numpy(turns).to(device) * length).long()
        made = rotate(waveform, n_valid, turn)
    if (speeds == 1).all():
        return made, n_valid
    out_valid = (length / torch.from_numpy(speeds).to(device)).long().clamp(1, width)
    made = play_at(made, speeds)
    return made * (torch.arange(width, device=device) < out_valid[:, None]), out_valid


def rotate(waveform: Tensor, n_valid: Tensor, turn: Tensor) -> Tensor:
    """Return each clip rotated by so many samples within its own length, zeros after it."""
    if waveform.device.type == "cpu":
        # whole stretches at a time, and never the padding: a quarter of the gather's time
        made = np.zeros(waveform.shape, np.float32)
        rows = zip(made, waveform.numpy(), n_valid.tolist(), turn.tolist(), strict=True)
        for out, clip, n, by in rows:
            if n:
                first = by % n
                out[first:n] = clip[: n - first]
                out[:first] = clip[n - first : n]
        return torch.from_numpy(made)
    return gather_turned(waveform, n_valid, turn)


def gather_turned(waveform: Tensor, n_valid: Tensor, turn: Tensor) -> Tensor:
    """Return what `rotate` does, of all clips at once."""
    t = torch.arange(waveform.shape[1], device=waveform.device)
    length = n_valid.clamp_min(1)[:, None]
    return waveform.gather(1, (t - turn[:, None]) % length) * (t < n_valid[:, None])


def play_at(waveform: Tensor, speeds: Array) -> Tensor:
    """Return each row read at its speed, cut or filled with zeros to the length it had.

    By the Fourier transform: what lies below both Nyquist frequencies is kept as it is, and nothing
    is added. (Read between the samples along straight lines, 3 kHz at a rate of 16 kHz comes with
    images of -24 dB, and a network learns that training clips have them and test clips do not.)
    Speeds are met to about 0.1 %.
    """
    width = waveform.shape[1]
    if waveform.device.type != "cpu":
        return play_together(waveform, speeds)
    made = np.zeros(waveform.shape, np.float32)
    lengths = fast_lengths(width, speeds).tolist()
    for out, clip, speed, (before, after) in zip(
        made, waveform.numpy(), speeds.tolist(), lengths, strict=True
    ):
        if speed == 1:
            out[:] = clip
            continue
        kept = (min(before, after) - 1) // 2 + 1  # below both Nyquist frequencies
        # scipy keeps its plans and takes a third of torch's time
        bins = scipy.fft.rfft(clip, before)[:kept]
        played = scipy.fft.irfft(bins, after) * (after / before)
        out[: min(after, width)] = played[:width]
    return torch.from_numpy(made)


def play_together(waveform: Tensor, speeds: Array) -> Tensor:
    """Return what `play_at` does, all rows at once, as a GPU has it: clip by clip it waits for
    launches, and for a plan of every new pair of lengths, most of a training step.

    Each row is read between samples that are eight times as close, by a polynomial through the six
    around (error under 2e-5); what is above a Nyquist frequency is left out before. From `play_at`
    it differs in what rings where a clip is cut off while it is loud.
    """
    out = torch.empty_like(waveform)
    rows = max(1, _TOGETHER // (_FINER * waveform.shape[1]))
    pairs = fast_lengths(waveform.shape[1], speeds)
    ratio = torch.from_numpy(np.where(speeds == 1, 1, pairs[:, 0] / pairs[:, 1]))
    ratio = ratio.to(waveform.device)[:, None]
    for first in range(0, len(waveform), rows):
        part = slice(first, first + rows)
        out[part] = _read_between(waveform[part], ratio[part])
    return out


def _read_between(waveform: Tensor, ratio: Tensor) -> Tensor:
    """Return each row at `t * ratio`, with ratio float64 (rows, 1); those of 1 as they are."""
    width, device = waveform.shape[1], waveform.device
    before = next_fast_len(width + _SILENCE)
    spectrum = torch.fft.rfft(waveform, before)
    bins = torch.arange(spectrum.shape[1], device=device)
    spectrum = spectrum * (bins < before / 2 / ratio.clamp_min(1))
    n = _FINER * before
    fine = torch.fft.irfft(spectrum, n) * _FINER
    fine = torch.cat([fine[:, -2:], fine, fine[:, :3]], 1)  # it goes round
    place = torch.arange(width, device=device) * (ratio * _FINER)
    low = place.long().clamp_max(n - 1)
    powers = (place - low).clamp_max(1).float()[..., None] ** torch.arange(6, device=device)
    around = low[..., None] + torch.arange(6, device=device)
    values = fine.gather(1, around.flatten(1)).view(around.shape)
    read = (values * (powers @ torch.from_numpy(_LAGRANGE).to(device))).sum(-1)
    return torch.where(ratio == 1, waveform, read * (place < n))


def _lagrange(nodes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return `weights` (powers, nodes) such that `x ** powers @ weights` interpolates at x."""
    return np.linalg.inv(nodes[:, None] ** np.arange(len(nodes), dtype=float)).astype(np.float32)


_LAGRANGE = _lagrange(np.arange(-2, 4))


def fast_lengths(width: int, speeds: Array) -> NDArray[np.int64]:
    """Return, (speeds, 2), two lengths whose transforms are fast and whose ratio is the speed, to
    about 0.1 %.

    The first is at least `width` and some silence more, so that the end does not ring into the
    beginning: the first such that comes close enough, or the closest of those that are not much
    longer.

    >>> fast_lengths(16000, np.array([1.05])).tolist()
    [[16128, 15360]]
    """
    befores = _fast_between(width + _SILENCE, int(1.05 * (width + _SILENCE) + 256))
    wanted = np.maximum(1, np.rint(befores / speeds[:, None])).astype(np.int64)
    fast = _fast_between(1, 1 << int(wanted.max()).bit_length())  # few different ones
    below, above = np.searchsorted(fast, wanted, "right") - 1, np.searchsorted(fast, wanted)
    afters = fast[np.stack([below, above])]  # (2, speeds, befores)
    error = np.abs(befores / afters / speeds[:, None] - 1)
    least = error.min(0)
    near = least < _EXACT
    which = np.where(near.any(1), near.argmax(1), least.argmin(1))
    row = np.arange(len(speeds))
    side = error.argmin(0)[row, which]
    return np.stack([befores[which], afters[side, row, which]], 1)


@lru_cache(maxsize=64)
def _fast_between(least: int, most: int) -> NDArray[np.int64]:
    """Return the lengths from `least` to `most` whose transforms are fast, in order."""
    found = []
    n = next_fast_len(least)
    while n <= most:
        found.append(n)
        n = next_fast_len(n + 1)
    return np.array(found, np.int64)
