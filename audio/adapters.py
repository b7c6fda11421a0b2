"""LoRA (Hu et al., 2021) through peft: small matrices are fitted beside each layer's own.

They are folded into the layers when the fit ends, so that a saved model needs no peft.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from audio.settings import SettingsError

_IN_A_LAYER = re.compile(r"(^|\.)layers?\.\d+\.")


def add_lora(network: nn.Module, *, rank: int, alpha: float, seed: int) -> None:
    """Put a LoRA beside every linear map of the network's layers, in place.

    What is there is frozen. The change of a map is `alpha / rank * B @ A`, A drawn by the seed and
    B zero, so that nothing changes at first.

    Raises:
        SettingsError: peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise SettingsError(
            f"lora_rank={rank} needs peft; `pip install peft`, or set lora_rank=0."
        ) from None
    names = [
        name
        for name, module in network.named_modules()
        if type(module) is nn.Linear and _IN_A_LAYER.search(name)
    ]
    config: Any = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, network)


def merge_lora(network: nn.Module) -> None:
    """Fold every LoRA of the network into its map, in place."""
    changed: list[tuple[str, Any]] = [
        (name, module)
        for name, module in network.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "merge")
    ]
    for name, module in changed:
        parent, _, child = name.rpartition(".")
        module.merge()
        setattr(network.get_submodule(parent), child, module.get_base_layer())
