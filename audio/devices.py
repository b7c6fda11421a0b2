"""Which processor computes, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from audio.crew import cores
from audio.settings import SettingsError


def use_threads(threads: int, *, processes: int = 1) -> None:
    """Let torch use `threads` CPU threads; 0 is every core that this process may use, shared with
    so many processes."""
    torch.set_num_threads(threads or max(1, cores() // processes))


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Let torch draw by a seed, on the device too, and leave its generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; auto is the GPU where there is one.

    Raises:
        SettingsError: no such device here, or one of another type.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device={name!r} is not one of auto, cpu, cuda, cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device={name!r}, but torch sees no GPU here; use cpu or auto.")
    n = torch.cuda.device_count()
    if device.type == "cuda" and device.index is not None and not 0 <= device.index < n:
        last = f"cuda:{n - 1}"
        raise SettingsError(f"device={name!r}, but the last GPU that torch sees here is {last}.")
    return device
