"""What the folder of a model that melbandit fitted tells of it; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audio.settings import Settings, SettingsError, TrainingSettings, is_scratch


def own_config(backbone: str) -> dict[str, Any] | None:
    """Return the config of the melbandit model in a folder; None where it holds none, and of a
    network from scratch, whatever folder has its name."""
    if is_scratch(backbone):
        return None
    try:
        config = json.loads((Path(backbone) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or config.get("model_type") != "melbandit":
        return None
    return config


def own_settings(backbone: str) -> Settings | None:
    """Return what the melbandit model in a folder was fitted with; None where it holds none.

    Raises:
        SettingsError: the settings are not legal.
    """
    config = own_config(backbone)
    return None if config is None else Settings.from_json(config.get("settings", {}))


def dropout_name(network_type: str) -> str:
    """Return what transformers calls a network's dropout in its config."""
    return "dropout" if network_type == "whisper" else "hidden_dropout_prob"


def own_dropout(backbone: str) -> float:
    """Return the dropout of the network of the melbandit model in a folder, whatever its settings
    say: one that was fitted from a checkpoint has the checkpoint's."""
    network = (own_config(backbone) or {}).get("network") or {}
    made: float = network.get("config", {}).get(dropout_name(network.get("type", "")), 0.0)
    return made


def check_dropout(training: TrainingSettings) -> None:
    """Hold a checkpoint to its own dropout.

    Raises:
        SettingsError: another was asked for.
    """
    if training.dropout == TrainingSettings().dropout or is_scratch(training.backbone):
        return
    if own_config(training.backbone) is None:
        raise SettingsError(
            f"dropout={training.dropout:g} belongs to a network from scratch or a model of "
            f"melbandit's, not to the checkpoint {training.backbone}, which keeps its own; leave "
            "it out."
        )
