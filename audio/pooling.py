"""Tokens of a clip to one vector."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN, MEAN_MAX = "mean", "mean-max"


def pool(tokens: Tensor, n: Tensor | None, pooling: str) -> Tensor:
    """Return one vector a clip of its tokens (..., n_tokens, width).

    n: int (...,), each clip's own tokens, at least 1; None for all. pooling: mean, (..., width), as
    Whisper's classifier has it; or mean-max, (..., 2 * width), the mean and beside it the maximum
    (Kong et al., 2020, "PANNs", add the two).
    """
    if n is None:
        mean = tokens.mean(-2)
    else:
        inside = torch.arange(tokens.shape[-2], device=tokens.device) < n[..., None]
        share = inside / n[..., None]  # of each token in the mean
        mean = (share[..., None, :].to(tokens.dtype) @ tokens)[..., 0, :]
        tokens = tokens.masked_fill(~inside[..., None], -torch.inf)
    return mean if pooling == MEAN else torch.cat([mean, tokens.amax(-2)], -1)


def own_tokens(frames: Tensor, n_tokens: int, stride: int) -> Tensor:
    """Return how many of a clip's tokens see the clip itself; stride: frames a token."""
    return torch.div(frames + stride - 1, stride, rounding_mode="floor").clamp(1, n_tokens)
