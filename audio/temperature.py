"""Fits a model's temperature to its validation clips, and measures what that changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio.calibration import fit_temperature
from audio.classifier import SpectrogramClassifier
from audio.examples import Examples, SoundExamples

_TOGETHER = 64


@torch.inference_mode()
def window_logits(
    model: SpectrogramClassifier, examples: Examples
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the logits of each window, (n_windows, n_labels), and the clip that it is of."""
    model.eval()
    outputs: list[NDArray[np.float32]] = []
    if isinstance(examples, SoundExamples):
        owner = []
        pieces: list[tuple[Any, int]] = []

        def run() -> None:
            sound = torch.from_numpy(np.stack([piece for piece, _ in pieces])).to(model.device)
            n_valid = torch.tensor([n for _, n in pieces], device=model.device)
            outputs.append(model(sound, n_valid=n_valid).logits.cpu().numpy())
            pieces.clear()

        for i, waveform in enumerate(examples.waveforms):
            for window in model.windows(waveform):
                pieces.append(window)
                owner.append(i)
                if len(pieces) == _TOGETHER:
                    run()
        if pieces:
            run()
        return np.concatenate(outputs), np.array(owner, np.int64)
    rows = np.arange(len(examples.targets))
    for first in range(0, len(rows), _TOGETHER):
        level, n_valid = examples.levels(rows[first : first + _TOGETHER], model, None)
        logits = model.classify(model.log_mel.normalise(level, n_valid), n_valid)
        outputs.append(logits.cpu().numpy())
    return np.concatenate(outputs), rows


def calibrate(model: SpectrogramClassifier, validation: Examples) -> float:
    """Fit the model's temperature on validation clips, set it, and return it.

    A model that has one already is fitted anew. Without validation clips it is 1.
    """
    model.config.calibration_temperature = 1.0
    if len(validation.targets):
        logits, owner = window_logits(model, validation)
        temperature = fit_temperature(logits, owner, validation.targets)
        model.config.calibration_temperature = round(temperature, 6)
    return float(model.config.calibration_temperature)
