"""How the weights are moved: which of them, and by how much."""

from __future__ import annotations

import math

import torch
from torch import nn

from audio.backbones import head_parameters
from audio.classifier import SpectrogramClassifier
from audio.settings import Settings

_WARM_UP = 0.1  # share of the steps
CLIP_NORM = 1.0


def make_optimiser(
    model: SpectrogramClassifier, settings: Settings
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Return the parameters that are fitted, and AdamW over them; the rest is frozen."""
    if settings.training.freeze_backbone:
        model.network.requires_grad_(False)
        for parameter in head_parameters(model.network):
            parameter.requires_grad_(True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "weight_decay": settings.training.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate = settings.training.learning_rate
    return parameters, torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def learning_rate(step: int, n_steps: int, settings: Settings) -> float:
    """Return the step size: linear warm-up, then half a cosine to zero."""
    peak, warm = settings.training.learning_rate, max(1, round(_WARM_UP * n_steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
