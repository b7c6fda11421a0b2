"""Several processes that fit one network, each with a part of every batch.

`accelerate launch` starts them and says who each is; every process draws and varies the whole batch
alike, so that what is mixed across it is mixed as by one process, and works through its own part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from audio.devices import choose_device
from audio.settings import SettingsError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """Who this process is among `size`: rank 0 is the first, which writes and tells."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def parts(self, n: int, micro_batches: int) -> Iterator[slice]:
        """Yield this process's parts of n clips, in order; none is empty.

        >>> list(Team(torch.device("cpu"), rank=1, size=2).parts(10, 2))
        [slice(5, 7, None), slice(7, 10, None)]
        """
        whole = self.size * micro_batches
        for i in range(self.rank * micro_batches, (self.rank + 1) * micro_batches):
            first, last = i * n // whole, (i + 1) * n // whole
            if first < last:
                yield slice(first, last)

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients."""
        if self.size == 1:
            return
        mine = [p for p in parameters if p.requires_grad]
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in mine]
        )
        flat = self.add(flat)
        parts = torch.split(flat, [p.numel() for p in mine])
        for parameter, part in zip(mine, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def add(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' values."""
        if self.size == 1:
            return values
        from accelerate.utils import reduce

        summed: Tensor = reduce(values, reduction="sum")
        return summed

    def tell(self, value: T) -> T:
        """Return what the first process gives, in every process."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        told: list[T] = broadcast_object_list([value], from_process=0)
        return told[0]


@contextmanager
def open_team(device: str) -> Iterator[Team]:
    """Give this process's place among those that `accelerate launch` started; else it is alone.

    device: as `TrainingSettings.device`; of several processes each has the GPU of its own number.

    Raises:
        SettingsError: no such device here, or accelerate is not installed.
    """
    if processes() == 1:
        yield Team(choose_device(device))
        return
    try:
        from accelerate import PartialState
    except ImportError:
        raise SettingsError(
            f"WORLD_SIZE is {processes()}, and several processes need accelerate; "
            "`pip install accelerate`, or start one process."
        ) from None
    state = PartialState(cpu=choose_device(device).type == "cpu")
    try:
        yield Team(state.device, state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()


def processes() -> int:
    """Return how many processes `accelerate launch` started for this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))
