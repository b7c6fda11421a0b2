"""What a saved model carries beside its weights, as a transformers config; needs no torch."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig

FORMAT = 1  # of the saved folder; raised when older code could no longer read it


class SpectrogramClassifierConfig(PretrainedConfig):  # type: ignore[misc]
    """What a saved model carries: its settings, its network's description, its labels, and the
    temperature that logits are divided by, fitted on validation clips; 1 leaves them."""

    model_type = "melbandit"

    def __init__(
        self,
        settings: dict[str, Any] | None = None,
        network: dict[str, Any] | None = None,
        melbandit_format: int = FORMAT,
        calibration_temperature: float = 1.0,
        **more: Any,
    ) -> None:
        self.settings = settings or {}
        self.network = network or {}
        self.melbandit_format = melbandit_format
        self.calibration_temperature = calibration_temperature
        super().__init__(**more)
