"""A model that melbandit fitted before as the start of another fit: of other clips, other classes,
another length of clip."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from audio.backbones import build_network, fit_ast, fit_vit, frames_a_token
from audio.own_model import dropout_name
from audio.scratch import AST, VIT, WHISPER, BackboneError

if TYPE_CHECKING:
    from audio.classifier import SpectrogramClassifier

_BY_LABEL = (
    "classifier.weight",
    "classifier.bias",
    "classifier.dense.weight",
    "classifier.dense.bias",
)
"""What has a row a label; AST has its classifier within another."""


def transferred(
    model: SpectrogramClassifier,
    labels: Sequence[str],
    *,
    n_mels: int,
    n_frames: int,
    dropout: float,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a fitted model's network for other labels and another geometry, and its description.

    Labels that the model knows keep what it has learnt of them; the head's rows of others are drawn
    from torch's generator. Positions are cropped and stretched as a checkpoint's are; Whisper's,
    which are sinusoids, go on as far as they are needed.

    Raises:
        BackboneError: a Whisper encoder's bands are to change, which its first layer is made for.
    """
    network: Any = model.network
    description: dict[str, Any] = copy.deepcopy(model.config.network)
    config = description["config"]
    if description["type"] == WHISPER:
        own = model.settings.spectrogram.n_mels
        if n_mels != own:
            raise BackboneError(
                f"n_mels={n_mels}, but the model that this fit starts from has {own} bands; set "
                f"n_mels={own}."
            )
        config["max_source_positions"] = -(-n_frames // frames_a_token(network))
    elif description["type"] == AST:
        fit_ast(network, n_mels, n_frames)
        fitted = network.config
        config |= {"num_mel_bins": fitted.num_mel_bins, "max_length": fitted.max_length}
    elif description["type"] == VIT:
        fit_vit(network, n_mels, n_frames)
        config["image_size"] = list(network.config.image_size)
    config["num_labels"] = len(labels)
    config[dropout_name(description["type"])] = dropout
    made = build_network(description)
    old = network.state_dict()
    row = {label: i for i, label in enumerate(model.labels)}
    known = [(i, row[label]) for i, label in enumerate(labels) if label in row]
    new_rows, old_rows = [i for i, _ in known], [i for _, i in known]
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if name in _BY_LABEL:
                value[new_rows] = old[name][old_rows]
            elif name == "encoder.embed_positions.weight":
                n = min(len(value), len(old[name]))
                value[:n] = old[name][:n]
            else:
                value.copy_(old[name])
    return made, description
