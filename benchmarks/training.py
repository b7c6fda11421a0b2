"""What mel and augmentation cost inside the training loop. `python -m benchmarks.training`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from audio.settings import AugmentationSettings, Settings, SpectrogramSettings, TrainingSettings
from benchmarks.timing import print_race, race

_CLIPS = 320
_CLIP_S = 1.0


def _settings(augmentation: AugmentationSettings) -> Settings:
    return Settings(
        SpectrogramSettings(clip_s=_CLIP_S), augmentation, TrainingSettings(epochs=1, threads=1)
    )


def ours(settings: Settings) -> Callable[[], None]:
    """Return one epoch of `fine_tune` from waveforms, with next to no validation."""
    from audio.train import SoundExamples, fine_tune

    rng = np.random.default_rng(0)
    waveforms = list(
        rng.standard_normal((_CLIPS, settings.spectrogram.n_samples), np.float32) * 0.1
    )
    targets = np.arange(_CLIPS) % 10
    train = SoundExamples(waveforms, targets)
    validation = SoundExamples(waveforms[:1], targets[:1])
    labels = [str(i) for i in range(10)]

    def work() -> None:
        fine_tune(train, validation, settings, labels)

    return work


def bare(settings: Settings) -> Callable[[], None]:
    """Return a bare loop of the same network over features that were computed beforehand."""
    import torch

    from audio.classifier import SpectrogramClassifier

    labels = [str(i) for i in range(10)]
    s = settings.spectrogram
    features = torch.randn(_CLIPS, s.n_mels, s.n_frames)
    targets = torch.arange(_CLIPS) % 10

    def work() -> None:
        model = SpectrogramClassifier.from_settings(settings, labels).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
        order = torch.randperm(_CLIPS)
        for rows in order.split(settings.training.batch_size):
            loss = torch.nn.functional.cross_entropy(model.classify(features[rows]), targets[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return work


def main() -> None:
    """Print the table."""
    import torch

    torch.set_num_threads(1)
    off = AugmentationSettings(
        gain_db=0, shift_percent=0, frequency_mask_percent=0, time_mask_percent=0
    )
    full = replace(off, gain_db=6, shift_percent=10, speed_percent=10, noise_percent=50)
    full = replace(full, filter_db=6, frequency_mask_percent=15, time_mask_percent=15)
    contenders = {
        "bare loop over precomputed features": bare(_settings(off)),
        "fine_tune from waveforms, no augmentation": ours(_settings(off)),
        "fine_tune from waveforms, default": ours(_settings(AugmentationSettings())),
        "fine_tune from waveforms, everything on": ours(_settings(full)),
    }
    title = f"Training the default network on {_CLIP_S:g} s clips, one core"
    print_race(title, race(contenders, rounds=3), _CLIPS, "clips")


if __name__ == "__main__":
    main()
