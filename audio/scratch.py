"""Networks to be trained from nothing: their sizes, and the convolutions in front of them.

A transformer would have to learn from many clips that a pattern may move a little in time and
pitch; convolutions have it built in (Xiao et al., 2021, "Early convolutions help transformers see
better"). `ast-scratch` has none, to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audio.pooling import MEAN_MAX
from audio.settings import SCRATCH, UserError, is_scratch

AST, VIT, WHISPER = "audio-spectrogram-transformer", "vit", "whisper"
PATCH = 16
_TIME_STRIDES = (2, 2, 1)

#: Width, layers, heads and inner width of the encoder, and the channels of the stem.
#: small is the encoder of openai/whisper-tiny with two layers more, base that of AST and ViT-B.
_WHISPER_SIZES = {
    "nano": (64, 2, 2, 192, (16, 32, 64)),
    "tiny": (128, 2, 4, 384, (16, 32, 64)),
    "small": (384, 6, 6, 1536, (32, 64, 128)),
    "base": (768, 12, 12, 3072, (32, 64, 128)),
}
_PATCH_SIZES = {
    "nano": (96, 2, 3, 384, (16, 32, 64)),
    "tiny": (192, 4, 3, 768, (32, 64, 128)),
    "small": (384, 6, 6, 1536, (32, 64, 128)),
    "base": (768, 12, 12, 3072, (32, 64, 128)),
}


class BackboneError(UserError):
    """A backbone cannot be had, or does not fit the settings; the message gives the remedy."""


def scratch_network(
    name: str, *, n_mels: int, n_frames: int, n_labels: int, dropout: float, size: str = "tiny"
) -> dict[str, Any]:
    """Return the description of a network to be trained from nothing.

    whisper-scratch: a Whisper encoder behind a stem of three 2-D convolutions; the head sees the
    mean over its tokens and the maximum, so that a bark among seconds of silence is not lost in
    their mean. ast-scratch:
    overlapping 16 x 16 patches, stride 10. vit-scratch: 16 x 16 cells, each seen through four
    convolutions. size: nano (about 0.2 million weights), tiny (0.6 to 2), small (12) or base (90).

    Raises:
        BackboneError: an unknown name.
    """
    if name == "whisper-scratch":
        width, layers, heads, inner, channels = _WHISPER_SIZES[size]
        bands, tokens = n_mels, n_frames
        for time_stride in _TIME_STRIDES:
            bands, tokens = -(-bands // 2), -(-tokens // time_stride)
        config: dict[str, Any] = {
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": inner,
            "decoder_layers": 1,
            "num_mel_bins": channels[-1] * bands,
            "max_source_positions": tokens,
            "classifier_proj_size": width,
            "dropout": dropout,
        }
        description = _describe(WHISPER, config, n_labels)
        return description | {"stem": list(channels), "strides": [1, 1], "pooling": MEAN_MAX}
    if not is_scratch(name):
        raise BackboneError(
            f"backbone={name!r} is not one of {', '.join(SCRATCH)}, nor a folder with a "
            "config.json, nor a hub id (owner/name)."
        )
    width, layers, heads, inner, channels = _PATCH_SIZES[size]
    shared: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    if name == "ast-scratch":
        config = {"num_mel_bins": max(n_mels, PATCH), "max_length": max(n_frames, PATCH)}
        return _describe(AST, config | shared, n_labels)
    image = [whole_patches(n_mels), whole_patches(n_frames)]
    config = {"image_size": image, "num_channels": 1, "patch_size": PATCH}
    return _describe(VIT, config | shared, n_labels) | {"stem": list(channels)}


def _describe(model_type: str, config: dict[str, Any], n_labels: int) -> dict[str, Any]:
    return {"type": model_type, "config": config | {"num_labels": n_labels}}


def whole_patches(n: int) -> int:
    """Return `n` raised to a whole number of patches."""
    return -(-n // PATCH) * PATCH


class BatchNorm(nn.BatchNorm2d):
    """Batch norm; a batch with one value a channel, which has no deviation, is normalised by the
    running statistics and does not move them."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, normalised."""
        if self.training and maps.numel() > self.num_features:
            return super().forward(maps)
        mean, variance = self.running_mean, self.running_var
        return nn.functional.batch_norm(maps, mean, variance, self.weight, self.bias, eps=self.eps)


def _convolution(before: int, after: int, stride: tuple[int, int]) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        BatchNorm(after),
        nn.GELU(),
    ]


class ConvStem(nn.Module):
    """Spectrogram to a sequence: 3 x 3 convolutions that see time and frequency alike.

    Each halves the bands; the first two halve the frames too.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for n, time_stride in zip(channels, _TIME_STRIDES, strict=True):
            layers += _convolution(before, n, (2, time_stride))
            before = n
        self.layers = nn.Sequential(*layers)
        self.time_stride = math.prod(_TIME_STRIDES)
        self.band_stride = 2 ** len(channels)
        self.channels = before

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, channels * bands, tokens) of features (batch, n_mels, n_frames)."""
        return self.maps(features).flatten(1, 2)

    def maps(self, features: Tensor) -> Tensor:
        """Return (batch, channels, bands, tokens), the channels together in memory."""
        # else oneDNN copies every map to such a layout and back: a sixth of a training step
        image = features[:, None].to(memory_format=torch.channels_last)
        maps: Tensor = self.layers(image)
        return maps


class ConvPatches(nn.Module):
    """Pictures (batch, 1, height, width) to one vector for each 16 x 16 cell, (batch, width,
    height / 16, width / 16): four convolutions of stride 2, in place of ViT's single one."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for n in channels:
            layers += _convolution(before, n, (2, 2))
            before = n
        last = nn.Conv2d(before, width, 3, stride=2, padding=1)
        self.cells = nn.Sequential(*layers, last)

    @property
    def weight(self) -> Tensor:
        """The last convolution's weight, whose type transformers' ViT asks for."""
        weight: Tensor = self.cells[-1].weight  # type: ignore[assignment]
        return weight

    def forward(self, image: Tensor) -> Tensor:
        """Return the cells' vectors."""
        made: Tensor = self.cells(image.to(memory_format=torch.channels_last))
        return made
