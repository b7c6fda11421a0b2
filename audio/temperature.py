"""The temperature of a fitted model: part of it, fitted to validation clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audio.calibration import fit_temperature
from audio.classifier import SpectrogramClassifier


def calibrate(
    model: SpectrogramClassifier,
    logits: NDArray[np.float32],
    owner: NDArray[np.int64],
    targets: NDArray[np.int64],
) -> float:
    """Fit the model's temperature to validation clips, set it, and return it.

    logits, owner: of the clips' windows, by a model whose temperature is 1. targets: (n_clips,).
    Without clips the temperature is 1.
    """
    temperature = round(fit_temperature(logits, owner, targets), 6) if len(targets) else 1.0
    model.config.calibration_temperature = temperature
    return temperature
