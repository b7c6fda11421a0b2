"""The `whisper-scratch` network's arithmetic in few calls.

A small network spends much of a step in front of its products: in Python, in copies between memory
layouts, in drawing dropout number by number. What is computed is what transformers'
`WhisperEncoder` computes, to rounding; `tests/test_encoder.py` holds the two together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio.pooling import own_tokens, pool


def is_plain(network: Any) -> bool:
    """Return whether the encoder is as its classes made it: no hooks, no exchanged layers.

    Adapters (LoRA), quantised layers and whoever listens to a layer need transformers' own calls.
    """
    for layer in network.encoder.layers:
        attention = layer.self_attn
        products = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
        if any(type(part) is not nn.Linear for part in (*products, layer.fc1, layer.fc2)):
            return False
    return not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def pooled_tokens(network: Any, maps: Tensor, frames: Tensor | None, stride: int) -> Tensor:
    """Return what the encoder's tokens of each clip are pooled to: (batch, width), or twice that.

    maps: (batch, channels, bands, tokens) of the stem. frames: int (batch,), each clip's own
    frames, or None for all. stride: frames a token.
    """
    encoder = network.encoder
    x = _tokens(encoder, maps)
    shape, width = x.shape, x.shape[-1]
    drop = _Dropout(encoder.dropout if network.training else 0.0, x, 1 + 2 * len(encoder.layers))
    x = drop(x + encoder.embed_positions.weight)
    for layer in encoder.layers:
        attention, norm = layer.self_attn, layer.self_attn_layer_norm
        y = F.layer_norm(x, (width,), norm.weight, norm.bias, norm.eps)
        q, k, v = _heads(attention, y)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(shape)
        x = drop.add(x, attention.out_proj(y))
        norm = layer.final_layer_norm
        y = F.layer_norm(x, (width,), norm.weight, norm.bias, norm.eps)
        x = drop.add(x, layer.fc2(layer.activation_fn(layer.fc1(y))))
    norm = encoder.layer_norm
    x = F.layer_norm(x, (width,), norm.weight, norm.bias, norm.eps)
    n = None if frames is None else own_tokens(frames, shape[1], stride)
    return pool(x, n, network.pooling)


def _tokens(encoder: Any, maps: Tensor) -> Tensor:
    """Return the two 1-D convolutions over a stem's maps, (batch, tokens, width).

    As 2-D convolutions over maps whose channels lie together in memory, they read what the stem
    wrote and write what the layers read, without a copy.
    """
    weight = encoder.conv1.weight
    wide = weight.view(len(weight), maps.shape[1], maps.shape[2], -1)
    x = F.gelu(F.conv2d(maps, wide, encoder.conv1.bias, padding=(0, 1)))
    x = F.gelu(F.conv2d(x, encoder.conv2.weight[:, :, None], encoder.conv2.bias, padding=(0, 1)))
    return x[:, :, 0].transpose(1, 2)


def _heads(attention: Any, x: Tensor) -> Tensor:
    """Return queries, keys and values from one product, (3, batch, heads, tokens, width)."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    none = torch.zeros_like(attention.q_proj.bias)  # Whisper's keys have no bias
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([none if part.bias is None else part.bias for part in parts])
    made = F.linear(x, weight, bias)
    return made.view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)


class _Dropout:
    """Dropout of tensors of one shape, drawn at once: 16 random bits a number.

    p: share that is dropped, met to 1 / 65536; 0 is no dropout. n: how often it is asked for.
    """

    def __init__(self, p: float, like: Tensor, n: int) -> None:
        self.p = p
        if p:
            words = torch.empty((like.numel() * n + 3) // 4, dtype=torch.int64, device=like.device)
            bits = words.random_(-(2**63), None).view(torch.int16)[: like.numel() * n]
            keep = (bits >= round(p * 65536) - 32768).to(like.dtype)
            self.masks = iter(keep.view(n, *like.shape))

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x` with dropout."""
        return x * (next(self.masks) / (1 - self.p)) if self.p else x

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `x` plus `y` with dropout."""
        return torch.addcmul(x, y, next(self.masks), value=1 / (1 - self.p)) if self.p else x + y
