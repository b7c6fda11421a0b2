"""How the weights are moved: which of them, by how much, and which are evaluated."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from audio.adapters import add_lora, merge_lora
from audio.averages import WeightAverage
from audio.backbones import head_parameters
from audio.classifier import SpectrogramClassifier
from audio.settings import Settings
from audio.team import Team

_WARM_UP = 0.1  # share of the steps
CLIP_NORM = 1.0
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def layer_depths(model: SpectrogramClassifier) -> dict[str, int]:
    """Return how far each parameter of the network lies below the head.

    The head is at 0, the last layer, and the norm that follows it, at 1, and what comes before the
    first layer (patches, positions, convolutions) deepest.
    """
    network = model.network
    head = {id(parameter) for parameter in head_parameters(network)}
    # of the stem's layers the convolutions are numbered too; they come before all others
    number = {
        name: int(found.group(1))
        for name, _ in network.named_parameters()
        if not name.startswith("stem.") and (found := _LAYER.search(name))
    }
    n_layers = max(number.values(), default=-1) + 1
    depths = {}
    for name, parameter in network.named_parameters():
        if id(parameter) in head:
            depths[name] = 0
        elif name in number:
            depths[name] = n_layers - number[name]
        else:
            depths[name] = 1 if "norm" in name.split(".")[-2] else n_layers + 1
    return depths


class Weights:
    """The weights of a model as a fit moves them, and what it has to remember to go on.

    Those that are fitted, AdamW over them with a rate for each layer, their running mean, the scale
    of float16's loss, and the weights of the best epoch.
    """

    def __init__(self, model: SpectrogramClassifier, settings: Settings) -> None:
        self.model, self.training = model, settings.training
        training = self.training
        if training.lora_rank:
            add_lora(
                model.network,
                rank=training.lora_rank,
                alpha=training.lora_alpha,
                seed=training.seed,
            )
            model.network.to(model.device)
        elif training.freeze_backbone:
            model.network.requires_grad_(False)
        if training.lora_rank or training.freeze_backbone:
            for parameter in head_parameters(model.network):
                parameter.requires_grad_(True)
        depths = {f"network.{name}": depth for name, depth in layer_depths(model).items()}
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        self.optimiser = torch.optim.AdamW(
            list(_groups(named, depths, settings)),
            lr=training.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.depth = {name: depths[name] for name in named}
        self.scaler = torch.amp.GradScaler(
            model.device.type, enabled=training.precision == "float16"
        )
        self.average: WeightAverage | None = None
        if training.ema_decay:
            self.average = WeightAverage(model, set(named), decay=training.ema_decay)
        self.best: dict[str, Tensor] = {}

    def begin_epoch(self, epoch: int) -> None:
        """Make the model ready to train: what is thawed by now, dropout and batch norm."""
        self.model.train()
        every = self.training.unfreeze_epochs
        if every:
            by_name = dict(self.model.named_parameters())
            for name, depth in self.depth.items():
                by_name[name].requires_grad_(depth <= epoch // every)
        for module in self.model.modules():  # else a frozen batch norm's means would move
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()

    def step(self, rate: float, team: Team) -> None:
        """Move the weights by what `backward` gathered, and forget it."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        team.add_gradients(self.parameters)
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to what is there."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Give the model the weights that are scored and saved, while the context lasts."""
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    def keep(self) -> None:
        """Remember the weights as they are evaluated now: no epoch was better."""
        with self.evaluated():
            self.best = {name: t.clone() for name, t in self.model.state_dict().items()}

    def settle(self) -> SpectrogramClassifier:
        """Return the model with the weights that count, ready to predict and to save."""
        if self.best:
            self.model.load_state_dict(self.best)
        elif self.average is not None:
            self.average.settle()
        if self.training.lora_rank:
            merge_lora(self.model.network)
        self.model.eval()
        return self.model

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return all that `load` needs to go on as if nothing had happened: tensors and notes."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{i}.{name}"] = value
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in self.average.state().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        return tensors, {"scaler": json.dumps(self.scaler.state_dict())}

    def load(self, tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> None:
        """Go on from what `state` returned."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}

        self.model.load_state_dict(under("model."))
        for i, parameter in enumerate(self.parameters):
            state = under(f"optimiser.{i}.")
            if state:  # none of what was frozen so far
                # fused, so that `step` too lies where its parameter does
                self.optimiser.state[parameter] = {
                    n: t.to(parameter.device) for n, t in state.items()
                }
        if self.average is not None:
            self.average.load(under("average."))
        self.best = {name: t.to(self.model.device) for name, t in under("best.").items()}
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(json.loads(note["scaler"]))


def _groups(
    named: Mapping[str, nn.Parameter], depths: Mapping[str, int], settings: Settings
) -> Iterator[dict[str, object]]:
    """Yield AdamW's groups: matrices decay and the rest does not, and each depth has its rate."""
    decay = settings.training.layer_decay
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        scale = decay ** depths[name]
        groups.setdefault((scale, parameter.ndim >= 2), []).append(parameter)
    for (scale, decays), parameters in groups.items():
        weight_decay = settings.training.weight_decay if decays else 0.0
        yield {"params": parameters, "weight_decay": weight_decay, "scale": scale}


def learning_rate(step: int, n_steps: int, settings: Settings) -> float:
    """Return the step size: linear warm-up, then half a cosine to zero."""
    peak, warm = settings.training.learning_rate, max(1, round(_WARM_UP * n_steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
