"""A network compiled for training: `compiled`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from audio.classifier import SpectrogramClassifier

_OF_LIKE_LAYERS = ("audio-spectrogram-transformer", "vit")


def compiled(model: SpectrogramClassifier) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `model.classify` with its network compiled; the model itself stays as it is.

    The layers of AST and ViT are alike, so one is compiled and serves all of them, in seconds where
    the whole takes a minute. Other networks are compiled whole.
    """
    network: Any = model.network
    if network.config.model_type not in _OF_LIKE_LAYERS:
        return torch.compile(model.classify)
    layers = _like_layers(network)
    forwards = [torch.compile(layer.forward) for layer in layers]

    def classify(features: Tensor, n_valid: Tensor) -> Tensor:
        with _calling(layers, forwards):
            return model.classify(features, n_valid)

    return classify


def _like_layers(network: nn.Module) -> list[nn.Module]:
    """Return the longest list of modules of one class."""
    lists = [list(m) for m in network.modules() if isinstance(m, nn.ModuleList)]
    return max((m for m in lists if len({type(layer) for layer in m}) == 1), key=len, default=[])


@contextmanager
def _calling(layers: list[nn.Module], forwards: list[Callable[..., Any]]) -> Iterator[None]:
    """Let the layers call these in place of their own `forward`."""
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward
        yield
    finally:
        for layer, exchanged in zip(layers, before, strict=True):
            del layer.forward
            if exchanged is not None:  # by someone else, before
                layer.forward = exchanged
