"""The state of a fit after an epoch, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from audio.classifier import SpectrogramClassifier
from audio.settings import Settings, SettingsError


def save_checkpoint(
    path: Path,
    model: SpectrogramClassifier,
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    history: list[dict[str, float]],
) -> None:
    """Write weights, optimiser state and history as one safetensors file, whole or not at all."""
    tensors = {f"model.{name}": t.contiguous() for name, t in model.state_dict().items()}
    for i, parameter in enumerate(parameters):
        for name, value in optimiser.state[parameter].items():
            tensors[f"optimiser.{i}.{name}"] = value.contiguous()
    note = {"settings": settings.fingerprint(), "history": json.dumps(history)}
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata=note)
    part.replace(path)


def load_checkpoint(
    path: Path,
    model: SpectrogramClassifier,
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    settings: Settings,
) -> list[dict[str, float]]:
    """Fill model and optimiser from a checkpoint and return its history.

    Raises:
        SettingsError: the checkpoint is of other settings.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        note = file.metadata()
    if note["settings"] != settings.fingerprint():
        raise SettingsError(f"{path}: a checkpoint of other settings; give another folder.")
    tensors = load_file(path)
    weights = {n[6:]: t for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(weights)
    for i, parameter in enumerate(parameters):
        prefix = f"optimiser.{i}."
        state = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
        moved = {n: t if n == "step" else t.to(parameter.device) for n, t in state.items()}
        optimiser.state[parameter] = moved
    history: list[dict[str, float]] = json.loads(note["history"])
    return history
