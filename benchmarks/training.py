"""Training and prediction beside transformers' way and bare loops. `python -m benchmarks.training`.

Everyone has the same network (the default, small preset), clips, batch size and threads.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from audio.settings import AugmentationSettings, Settings, SpectrogramSettings, TrainingSettings
from benchmarks.timing import print_race, race

_CLIPS = 320
_CLIP_S = 1.0
_LABELS = [str(i) for i in range(10)]
_STILL = AugmentationSettings(
    gain_db=0, shift_percent=0, frequency_mask_percent=0, time_mask_percent=0
)
_ALL_ON = AugmentationSettings(
    gain_db=6, shift_percent=10, speed_percent=10, noise_percent=50, filter_db=6
)


def _settings(augmentation: AugmentationSettings, threads: int) -> Settings:
    # Whisper's frames, as the peer's extractor makes them
    spectrogram = SpectrogramSettings(clip_s=_CLIP_S, n_fft=400, drop_last_frame=True)
    return Settings(
        spectrogram, augmentation, TrainingSettings(epochs=1, threads=threads, device="cpu")
    )


def _clips() -> tuple[list[Any], Any]:
    rng = np.random.default_rng(0)
    n_samples = round(_CLIP_S * 16000)
    waveforms = list(rng.standard_normal((_CLIPS, n_samples), np.float32) * 0.1)
    return waveforms, np.arange(_CLIPS) % 10


def ours(augmentation: AugmentationSettings, threads: int) -> Callable[[], None]:
    """Return one epoch of `fine_tune` from waveforms, with next to no validation."""
    from audio.examples import SoundExamples
    from audio.train import fine_tune

    waveforms, targets = _clips()
    settings = _settings(augmentation, threads)

    def work() -> None:
        # made anew, so that no level is kept from the round before
        train = SoundExamples(waveforms, targets)
        fine_tune(train, SoundExamples(waveforms[:1], targets[:1]), settings, _LABELS)

    return work


def bare(threads: int, *, by_transformers: bool) -> Callable[[], None]:
    """Return a bare loop of the same network over features that were computed beforehand."""
    import torch

    from audio.classifier import SpectrogramClassifier
    from benchmarks import peer

    settings = _settings(_STILL, threads)
    s = settings.spectrogram
    features = torch.randn(_CLIPS, s.n_mels, s.n_frames)
    targets = torch.arange(_CLIPS) % 10

    def work() -> None:
        model = SpectrogramClassifier.from_settings(settings, _LABELS).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
        order = torch.randperm(_CLIPS)
        for rows in order.split(settings.training.batch_size):
            if by_transformers:
                logits = peer.by_transformers(model.network, features[rows])
            else:
                logits = model.classify(features[rows])
            loss = torch.nn.functional.cross_entropy(logits, targets[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return work


def peers(threads: int) -> Callable[[], None]:
    """Return one epoch of the same network, transformers' way."""
    from audio.classifier import SpectrogramClassifier
    from benchmarks import peer

    settings = _settings(_STILL, threads)
    waveforms, targets = _clips()
    description = SpectrogramClassifier.from_settings(settings, _LABELS).config.network

    def work() -> None:
        peer.train(waveforms, targets, settings, description)

    return work


def prediction(threads: int) -> dict[str, Callable[[], None]]:
    """Return prediction from waveforms, ours and transformers' way."""
    from audio.classifier import SpectrogramClassifier
    from benchmarks import peer

    settings = _settings(_STILL, threads)
    waveforms, targets = _clips()
    model = SpectrogramClassifier.from_settings(settings, _LABELS)
    theirs = peer.ByTransformers(model.config.network)

    def ours_work() -> None:
        model.predict(waveforms)

    def theirs_work() -> None:
        peer.predict(theirs, waveforms, targets, settings)

    return {"melbandit's predict": ours_work, "extractor clip by clip, Trainer": theirs_work}


def peak_mib(who: str) -> float:
    """Return the most memory that one epoch took in a process of its own, in MiB."""
    command = [sys.executable, "-m", "benchmarks.training", "--memory-of", who]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def compare(threads: int, *, rounds: int = 3) -> None:
    """Print the tables of one number of threads: on one core, in seconds of it."""
    import torch

    torch.set_num_threads(threads)
    cores = "one core" if threads == 1 else f"{threads} cores"
    clock = time.process_time if threads == 1 else time.perf_counter
    contenders = {
        "fine_tune from waveforms, default": ours(AugmentationSettings(), threads),
        "... no augmentation": ours(_STILL, threads),
        "... everything on": ours(_ALL_ON, threads),
        "extractor clip by clip, Trainer": peers(threads),
        "bare loop, features ready, transformers": bare(threads, by_transformers=True),
        "bare loop, features ready, our calls": bare(threads, by_transformers=False),
    }
    title = f"Training the default network on {_CLIP_S:g} s clips, {cores}"
    print_race(title, race(contenders, rounds=rounds, clock=clock), _CLIPS, "clips")
    taken = race(prediction(threads), rounds=rounds, clock=clock)
    print_race(f"Prediction, {cores}", taken, _CLIPS, "clips")


def main() -> None:
    """Print the tables."""
    compare(2)
    compare(1)
    mine, theirs = peak_mib("ours"), peak_mib("peers")
    print(f"\nPeak memory of an epoch: melbandit {mine:,.0f} MiB, Trainer {theirs:,.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory-of", choices=("ours", "peers"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help="1 or 2; 0 is both, and memory")
    given = parser.parse_args()
    if given.memory_of is not None:
        {"ours": lambda: ours(AugmentationSettings(), 2), "peers": lambda: peers(2)}[
            given.memory_of
        ]()()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif given.threads:
        compare(given.threads)
    else:
        main()
