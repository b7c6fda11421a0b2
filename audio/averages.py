"""A running mean of the weights (EMA), which generalises better than where the last step ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential mean of a model's fitted weights and of its batch norms' figures.

    decay: share that is kept at each step; less at first, `(1 + n) / (10 + n)` after n steps, so
    that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, fitted: set[str], *, decay: float) -> None:
        self.decay = decay
        self.n_steps = 0
        moving = {
            f"{name}.{buffer}" if name else buffer
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer in ("running_mean", "running_var")
        }
        state = model.state_dict()
        self.live = {name: state[name] for name in state if name in fitted | moving}
        self.mean = {name: value.clone() for name, value in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the mean towards the weights as they are now."""
        self.n_steps += 1
        keep = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        torch._foreach_lerp_(list(self.mean.values()), list(self.live.values()), 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the mean while the context lasts, then its own weights back."""
        own = {name: value.clone() for name, value in self.live.items()}
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.live[name].copy_(value)

    def settle(self) -> None:
        """Give the model the mean for good."""
        self._put(self.mean)

    def state(self) -> dict[str, Tensor]:
        """Return what `load` goes on from."""
        return {**self.mean, "n_steps": torch.tensor(self.n_steps)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.n_steps = int(state["n_steps"])
        for name, value in self.mean.items():
            value.copy_(state[name])
