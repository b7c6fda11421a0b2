"""Many small networks of one shape as one: every weight has a leading axis of models.

A small network leaves a GPU idle: its kernels are over before the next is launched. Hundreds of
them side by side, as batched matrix products, fill it. The stack computes what each
`whisper-scratch` network would compute alone; the convolutions become products over patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audio.backbones import build_network
from audio.pooling import own_tokens, pool
from audio.scratch import BackboneError

Weights = dict[str, Tensor]
_MOMENTUM = 0.1  # of batch norm's running statistics, as torch's default
_NORM_EPSILON = 1e-5


class _Patches(torch.autograd.Function):
    """Patches of channels-last maps (..., height, width, channels): (..., h, w, 9 * channels)."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, strides: tuple[int, int]) -> Tensor:  # type: ignore[override]
        ctx.size, ctx.strides = maps.shape, strides
        padded = nn.functional.pad(maps, (0, 0, 1, 1, 1, 1))
        if maps.shape[-1] == 1:  # one kernel that writes in order, not nine that scatter
            tall = padded[..., 0].unfold(-2, 3, strides[0])  # (..., h, width, 3)
            return tall.unfold(-2, 3, strides[1]).flatten(-2)
        return torch.cat([padded[place] for place in _places(maps.shape, strides)], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        *outer, height, width, channels = ctx.size
        padded = gradient.new_zeros(*outer, height + 2, width + 2, channels)
        parts = torch.split(gradient, channels, -1)
        for place, part in zip(_places(ctx.size, ctx.strides), parts, strict=True):
            padded[place] += part
        return padded[..., 1:-1, 1:-1, :], None


def _places(size: Sequence[int], strides: tuple[int, int]) -> list[tuple[Any, ...]]:
    """Return, for each tap of a 3 x 3 kernel, where it reads in maps padded by one."""
    height, width = size[-3:-1]
    down, right = strides
    return [
        (
            ...,
            slice(i, i + height - (height - 1) % down, down),
            slice(j, j + width - (width - 1) % right, right),
            slice(None),
        )
        for i in range(3)
        for j in range(3)
    ]


class NetworkStack:
    """Networks of one description, `weights[name]` float32 (n_models, ...).

    Args:
        description: as `scratch_network` gives it for whisper-scratch.
        states: the state dict of each network.

    Raises:
        BackboneError: the description is of another kind of network.
    """

    def __init__(
        self, description: Mapping[str, Any], states: Sequence[Mapping[str, Tensor]]
    ) -> None:
        if description.get("strides") != [1, 1]:
            raise BackboneError("only whisper-scratch networks can be stacked; train others alone.")
        self.description = description
        network: Any = build_network(dict(description))
        config = network.config
        self.n_layers, self.n_heads = config.encoder_layers, config.encoder_attention_heads
        self.dropout, self.pooling = config.dropout, network.pooling
        convolutions = [m for m in network.stem.layers if isinstance(m, nn.Conv2d)]
        self.strides = [(m.stride[0], m.stride[1]) for m in convolutions]
        self.time_stride = network.stem.time_stride
        fixed = {"encoder.embed_positions.weight"}
        fixed |= {name for name, _ in network.named_buffers()}
        self.weights: Weights = {}
        self.fixed: Weights = {}
        for name in network.state_dict():
            stacked = torch.stack([state[name] for state in states])
            (self.fixed if name in fixed else self.weights)[name] = stacked
        for weight in self.weights.values():
            weight.requires_grad_(True)

    def __len__(self) -> int:
        return len(self.fixed["encoder.embed_positions.weight"])

    def to(self, device: torch.device) -> NetworkStack:
        """Return itself with every weight on `device`."""
        self.weights = {
            n: w.detach().to(device).requires_grad_(True) for n, w in self.weights.items()
        }
        self.fixed = {n: w.to(device) for n, w in self.fixed.items()}
        return self

    def state(self, model: int) -> dict[str, Tensor]:
        """Return the state dict of one network."""
        both = self.weights | self.fixed
        return {name: both[name][model].detach().cpu().clone() for name in both}

    def logits(
        self,
        features: Tensor,
        frames: Tensor | None,
        *,
        training: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return the logits, float32 (n_models, batch, n_labels).

        features: (n_models, batch, n_mels, n_frames), normalised. frames: int (n_models, batch) or
        None, as in `network_logits`. training: dropout is on, and batch norm uses the batch and
        moves its running statistics. dtype: of the products.
        """
        w = {name: weight.to(dtype) if weight.ndim > 2 else weight[:, None].to(dtype)
             for name, weight in self.weights.items()}  # fmt: skip
        x = features.to(dtype)[..., None]  # (models, batch, bands, frames, channels)
        for i, strides in enumerate(self.strides):
            x = self._convolve(x, w[f"stem.layers.{3 * i}.weight"], strides)
            x = nn.functional.gelu(self._batch_norm(x, f"stem.layers.{3 * i + 1}", training))
        x = x.permute(0, 1, 3, 4, 2).flatten(3)  # (models, batch, tokens, channels * bands)
        for name in ("encoder.conv1", "encoder.conv2"):
            x = nn.functional.gelu(_convolve_1d(x, w[f"{name}.weight"], w[f"{name}.bias"]))
        x = x + self.fixed["encoder.embed_positions.weight"][:, None].to(dtype)
        x = self._drop(x, training)
        for i in range(self.n_layers):
            layer = f"encoder.layers.{i}."
            y = _layer_norm(x, w, layer + "self_attn_layer_norm")
            x = x + self._drop(self._attend(y, w, layer + "self_attn."), training)
            y = _layer_norm(x, w, layer + "final_layer_norm")
            y = _linear(nn.functional.gelu(_linear(y, w, layer + "fc1")), w, layer + "fc2")
            x = x + self._drop(y, training)
        x = _layer_norm(x, w, "encoder.layer_norm").float()
        n = None if frames is None else own_tokens(frames, x.shape[2], self.time_stride)
        pooled = pool(x, n, self.pooling).to(dtype)
        return _linear(_linear(pooled, w, "projector"), w, "classifier").float()

    def _convolve(self, x: Tensor, weight: Tensor, strides: tuple[int, int]) -> Tensor:
        """Return a 3 x 3 convolution; weight: (models, out, in, 3, 3)."""
        patches: Tensor = _Patches.apply(x, strides)  # type: ignore[no-untyped-call]
        kernel = weight.permute(0, 3, 4, 2, 1).flatten(1, 3)  # (models, 9 * in, out)
        made = torch.bmm(patches.flatten(1, 3), kernel)
        return made.view(*patches.shape[:4], -1)

    def _batch_norm(self, x: Tensor, name: str, training: bool) -> Tensor:
        mean, variance = self.fixed[name + ".running_mean"], self.fixed[name + ".running_var"]
        n = x[0, ..., 0].numel()
        if training and n > 1:  # as BatchNorm in audio/scratch.py
            # sums in float32 without a float32 copy of the maps
            mean_now = x.mean((1, 2, 3), dtype=torch.float32)
            norm = torch.linalg.vector_norm(x, dim=(1, 2, 3), dtype=torch.float32)
            variance_now = (norm.square() / n - mean_now.square()).clamp_min(0)
            with torch.no_grad():
                mean.lerp_(mean_now, _MOMENTUM)
                variance.lerp_(variance_now * (n / max(n - 1, 1)), _MOMENTUM)
                self.fixed[name + ".num_batches_tracked"] += 1
            mean, variance = mean_now, variance_now
        scale = self.weights[name + ".weight"] * torch.rsqrt(variance + _NORM_EPSILON)
        shift = self.weights[name + ".bias"] - mean * scale
        wide = (len(self), 1, 1, 1, -1)
        return torch.addcmul(shift.view(wide).to(x.dtype), x, scale.view(wide).to(x.dtype))

    def _attend(self, x: Tensor, w: Weights, name: str) -> Tensor:
        models, batch, tokens, width = x.shape

        def split(part: str) -> Tensor:
            heads = _linear(x, w, name + part).view(models * batch, tokens, self.n_heads, -1)
            return heads.transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            split("q_proj"), split("k_proj"), split("v_proj")
        )
        mixed = mixed.transpose(1, 2).reshape(models, batch, tokens, width)
        return _linear(mixed, w, name + "out_proj")

    def _drop(self, x: Tensor, training: bool) -> Tensor:
        return nn.functional.dropout(x, self.dropout, training) if self.dropout else x


def _linear(x: Tensor, w: Weights, name: str) -> Tensor:
    """Return `x W^T + b` for every model; x: (models, ..., in)."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    weight, bias = w[name + ".weight"].transpose(1, 2), w.get(name + ".bias")
    made = torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias, flat, weight)
    return made.view(*x.shape[:-1], -1)


def _convolve_1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a convolution of width 3 along the tokens; x: (models, batch, tokens, channels)."""
    before = nn.functional.pad(x, (0, 0, 1, 1))
    n = x.shape[2]
    taps = torch.cat([before[:, :, i : i + n] for i in range(3)], -1)
    kernel = weight.permute(0, 3, 2, 1).flatten(1, 2)  # (models, 3 * in, out)
    made = torch.baddbmm(bias, taps.flatten(1, 2), kernel)
    return made.view(*x.shape[:3], -1)


def _layer_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    normed = nn.functional.layer_norm(x, x.shape[-1:], eps=_NORM_EPSILON)
    # (models, 1, width) -> (models, 1, 1, width)
    return torch.addcmul(w[name + ".bias"][:, :, None], normed, w[name + ".weight"][:, :, None])
