"""What the folder of a model that melbandit fitted tells of it; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audio.settings import Settings, is_scratch


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
