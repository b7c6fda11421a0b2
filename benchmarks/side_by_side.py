"""Small networks trained one after another and side by side, on one device: trainings a minute.

`python -m benchmarks.side_by_side [--device cuda] [--sizes 1 8 64 512] [--epochs 3]`: the default
network on 360 noises of .75 s at 8 kHz; the networks have three seeds, twelve augmentations and two
normalisations among them, and share what is drawn for these.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from audio.devices import choose_device, use_threads
from audio.examples import SoundExamples
from audio.settings import Settings
from audio.stack_training import fine_tune_many
from audio.train import fine_tune

LABELS = tuple("0123456789")
RATE, CLIP_S, N_CLIPS = 8000, 0.75, 360


def noises(n: int, seed: int) -> SoundExamples:
    """Return noise of .3 to .75 s."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(int(0.3 * RATE), int(CLIP_S * RATE), n)
    waves = [rng.normal(0, 0.1, k).astype(np.float32) for k in lengths]
    return SoundExamples(waves, np.arange(n) % len(LABELS))


def several(size: int, base: Settings) -> list[Settings]:
    """Return `size` settings that can be trained side by side: three seeds, several augmentations
    and normalisations."""
    return [
        base.with_values(
            {
                "seed": i % 3,
                "speed_percent": (8.0, 0.0, 16.0)[i // 3 % 3],
                "filter_db": (6.0, 0.0)[i // 9 % 2],
                "mixup_percent": (50.0, 0.0)[i // 18 % 2],
                "normalisation": ("active", "clip")[i // 36 % 2],
            }
        )
        for i in range(size)
    ]


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="auto")
    options.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 64, 512])
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--precision", default="bfloat16")
    given = options.parse_args()
    device = choose_device(given.device)
    use_threads(0)
    base = Settings().with_values(
        {"sample_rate_hz": RATE, "clip_s": CLIP_S, "n_fft": 512, "win_length": 256,
         "hop_length": 128, "n_mels": 48, "batch_size": 16, "precision": given.precision,
         "epochs": given.epochs, "device": given.device}
    )  # fmt: skip
    train, validation = noises(N_CLIPS, 0), noises(250, 1)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {given.epochs} epochs of {N_CLIPS} clips")
    # once before it counts: kernels are loaded and plans are made
    fine_tune(train, validation, several(1, base.with_values({"epochs": 1}))[0], LABELS)
    rates = {}
    for how, size in [("alone", 1), *(("side by side", n) for n in given.sizes)]:
        many = several(size, base)
        started = time.perf_counter()
        if how == "alone":
            fine_tune(train, validation, many[0], LABELS)
        else:
            fine_tune_many(train, {"validation": validation}, many, LABELS, device=device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        rates[how, size] = 60 * size / seconds
        ratio = rates[how, size] / rates["alone", 1]
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
        print(
            f"{how:>12} {size:5d}: {seconds:7.2f} s, {rates[how, size]:9.1f} trainings a minute, "
            f"{ratio:6.1f} times alone; peak so far {memory:.1f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
