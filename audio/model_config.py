"""What a saved model carries beside its weights, as a transformers config; needs no torch."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig

FORMAT = 1  # of the saved folder; raised when older code could no longer read it


class SpectrogramClassifierConfig(PretrainedConfig):  # type: ignore[misc]
    """What a saved model carries: its settings, its network's description, its labels."""

    model_type = "melbandit"

    def __init__(
        self,
        settings: dict[str, Any] | None = None,
        network: dict[str, Any] | None = None,
        melbandit_format: int = FORMAT,
        **more: Any,
    ) -> None:
        self.settings = settings or {}
        self.network = network or {}
        self.melbandit_format = melbandit_format
        super().__init__(**more)
