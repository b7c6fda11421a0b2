"""Which processor computes, and with how many threads."""

from __future__ import annotations

import torch

from audio.crew import cores
from audio.settings import SettingsError


def use_threads(threads: int, *, processes: int = 1) -> None:
    """Let torch use `threads` CPU threads; 0 is every core that this process may use, shared with
    so many processes."""
    torch.set_num_threads(threads or max(1, cores() // processes))


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; auto is the GPU where there is one.

    Raises:
        SettingsError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device={name!r} is not one of auto, cpu, cuda, cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device={name!r}, but torch sees no GPU here; use cpu or auto.")
    return device
