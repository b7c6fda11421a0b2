"""Training and prediction beside transformers' way and bare loops. `python -m benchmarks.training`.

Everyone has the same network (the default, small preset), clips, batch size and threads. The
example leaves transformers' extractor at its defaults, and Whisper's pads every clip to 30 s; the
peer is told the clips' length, and a table of its own shows what the default costs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from audio.settings import AugmentationSettings, Settings, SpectrogramSettings, TrainingSettings
from benchmarks.timing import high_water_mib, print_race, race

_CLIPS = 320
_CLIP_S = 1.0
_PADDED_S, _PADDED_CLIPS = 30.0, 32  # as Whisper's extractor comes; few, for they take long
_LABELS = [str(i) for i in range(10)]
_STILL = AugmentationSettings.none()
_ALL_ON = AugmentationSettings(
    gain_db=6, shift_percent=10, speed_percent=10, noise_percent=50, filter_db=6
)


def _settings(
    augmentation: AugmentationSettings, threads: int, clip_s: float = _CLIP_S
) -> Settings:
    # Whisper's frames, as the peer's extractor makes them
    spectrogram = SpectrogramSettings(clip_s=clip_s, n_fft=400, drop_last_frame=True)
    return Settings(
        spectrogram, augmentation, TrainingSettings(epochs=1, threads=threads, device="cpu")
    )


def _clips(n: int = _CLIPS) -> tuple[list[Any], Any]:
    rng = np.random.default_rng(0)
    n_samples = round(_CLIP_S * 16000)
    waveforms = list(rng.standard_normal((n, n_samples), np.float32) * 0.1)
    return waveforms, np.arange(n) % 10


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


def peers(threads: int, *, clip_s: float = _CLIP_S, n: int = _CLIPS) -> Callable[[], None]:
    """Return one epoch of the same network, transformers' way; clip_s: what clips are padded to."""
    from audio.classifier import SpectrogramClassifier
    from benchmarks import peer

    settings = _settings(_STILL, threads, clip_s)
    waveforms, targets = _clips(n)
    description = SpectrogramClassifier.from_settings(settings, _LABELS).config.network

    def work() -> None:
        peer.train(waveforms, targets, settings, description)

    return work


def prediction(threads: int) -> Callable[[], None]:
    """Return prediction from waveforms."""
    from audio.classifier import SpectrogramClassifier

    model = SpectrogramClassifier.from_settings(_settings(_STILL, threads), _LABELS)
    waveforms, _ = _clips()

    def work() -> None:
        model.predict(waveforms)

    return work


def peers_prediction(
    threads: int, *, clip_s: float = _CLIP_S, n: int = _CLIPS
) -> Callable[[], None]:
    """Return prediction from waveforms, transformers' way; clip_s: what clips are padded to."""
    from audio.classifier import SpectrogramClassifier
    from benchmarks import peer

    settings = _settings(_STILL, threads, clip_s)
    model = SpectrogramClassifier.from_settings(settings, _LABELS)
    theirs = peer.ByTransformers(model.config.network)
    waveforms, targets = _clips(n)

    def work() -> None:
        peer.predict(theirs, waveforms, targets, settings)

    return work


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
    training = race(contenders, rounds=rounds, clock=clock)
    print_race(title, training, _CLIPS, "clips")
    both = {
        "melbandit's predict": prediction(threads),
        "extractor clip by clip, Trainer": peers_prediction(threads),
    }
    predicting = race(both, rounds=rounds, clock=clock)
    print_race(f"Prediction, {cores}", predicting, _CLIPS, "clips")
    print(f"\nThe same clips padded to {_PADDED_S:g} s, as Whisper's extractor comes, {cores}")
    as_it_comes = {
        "training": peers(threads, clip_s=_PADDED_S, n=_PADDED_CLIPS),
        "prediction": peers_prediction(threads, clip_s=_PADDED_S, n=_PADDED_CLIPS),
    }
    took = race(as_it_comes, rounds=1, clock=clock)
    for name, ours_took in (("training", training), ("prediction", predicting)):
        mine = _CLIPS / next(iter(ours_took.values()))
        theirs = _PADDED_CLIPS / took[name]
        who = f"{name}, clip by clip, Trainer"
        print(f"  {who:<44} {theirs:10,.1f} clips/s   ours is {mine / theirs:5.1f} x")


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
        print(high_water_mib())
    elif given.threads:
        compare(given.threads)
    else:
        main()
