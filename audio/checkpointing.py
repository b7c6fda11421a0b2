"""The state of a fit after an epoch, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from audio.optimisation import Weights
from audio.schedule import Schedule
from audio.settings import Settings, SettingsError


def save_checkpoint(
    path: Path,
    weights: Weights,
    settings: Settings,
    history: list[dict[str, float]],
    schedule: Schedule,
) -> None:
    """Write weights, optimiser state, history and schedule as one safetensors file, whole or not
    at all."""
    tensors, note = weights.state()
    note |= {"settings": settings.fingerprint(), "history": json.dumps(history)}
    note |= {"schedule": schedule.fingerprint(), "schedule_state": json.dumps(schedule.state())}
    part = path.with_name(path.name + ".part")
    save_file({name: t.contiguous() for name, t in tensors.items()}, part, metadata=note)
    part.replace(path)


def load_checkpoint(
    path: Path, weights: Weights, settings: Settings, schedule: Schedule
) -> list[dict[str, float]]:
    """Fill weights and schedule from a checkpoint and return its history.

    Raises:
        SettingsError: the checkpoint is of other settings, or of another schedule.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        note = file.metadata()
    if note["settings"] != settings.fingerprint():
        raise SettingsError(f"{path}: a checkpoint of other settings; give another folder.")
    if note.get("schedule", Schedule().fingerprint()) != schedule.fingerprint():
        raise SettingsError(f"{path}: a checkpoint of another schedule; give another folder.")
    weights.load(load_file(path), note)
    schedule.restore(json.loads(note.get("schedule_state", "{}")))
    history: list[dict[str, float]] = json.loads(note["history"])
    return history
