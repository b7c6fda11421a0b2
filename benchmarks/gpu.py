"""Fine-tuning AST-base on a GPU: share of the chip's matrix rate, share of mel and augmentation.

`python -m benchmarks.gpu [--batch 32] [--compile]`
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch

from audio.augment import apply_spectrogram, apply_waveform, draw_spectrogram, draw_waveform
from audio.classifier import SpectrogramClassifier, SpectrogramClassifierConfig
from audio.settings import AST_PRESET, AugmentationSettings, Settings, TrainingSettings

AST_BASE = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "num_mel_bins": 128, "max_length": 1024,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 50,
}  # fmt: skip
ALL_ON = AugmentationSettings(speed_percent=10, noise_percent=50, filter_db=6, mixup_percent=50)


def milliseconds(work, rounds: int) -> float:
    """Return the median time of `work()` on the device, after three rounds that do not count."""
    times = []
    for i in range(rounds + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def matrix_rate() -> float:
    """Return the FLOP/s of a bf16 product of two 8192 x 8192 random matrices."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / (milliseconds(lambda: a @ b, 20) / 1e3)


def step_flops(model: SpectrogramClassifier, batch: int) -> float:
    """Return the operations of one training step: products of weights and of attention, times 3."""
    config = model.network.config
    n = 12 * 101 + 2
    weights = config.num_hidden_layers * (
        4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    )
    attention = config.num_hidden_layers * 2 * n * config.hidden_size
    patches = 16 * 16 * config.hidden_size
    return 3 * 2 * batch * n * (weights + attention + patches)


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batch", type=int, nargs="+", default=[48])
    options.add_argument("--compile", action="store_true")
    options.add_argument("--rounds", type=int, default=10)
    given = options.parse_args()
    rate = matrix_rate()
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}: bf16 product {rate / 1e12:.0f} TFLOP/s", flush=True)
    for batch in given.batch:
        one(batch, rate, given.compile, given.rounds)


def one(batch: int, rate: float, compiled: bool, rounds: int) -> None:
    """Print the figures of one batch size."""
    settings = Settings(AST_PRESET, ALL_ON, TrainingSettings(precision="bfloat16"))
    description = {"type": "audio-spectrogram-transformer", "config": AST_BASE}
    config = SpectrogramClassifierConfig(settings=settings.to_json(), network=description)
    model = SpectrogramClassifier(config).cuda().train()
    network = torch.compile(model.classify) if compiled else model.classify
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    rng = np.random.default_rng(0)
    n = settings.spectrogram.n_samples
    sound = torch.randn(batch, n).pin_memory()
    lengths = torch.full((batch,), n, dtype=torch.int64)
    targets = torch.randint(0, 50, (batch,), device="cuda")
    features = torch.empty(0)

    def front() -> None:
        nonlocal features
        with torch.no_grad():
            waveform, n_valid = sound.cuda(non_blocking=True), lengths.cuda(non_blocking=True)
            drawn = draw_waveform(rng, settings.augmentation, batch)
            waveform, n_valid = apply_waveform(
                waveform, n_valid, drawn, sample_rate_hz=settings.spectrogram.sample_rate_hz
            )
            level = model.log_mel(waveform, n_valid)
            made = model.log_mel.normalise(level, n_valid)
            frames = model.log_mel.valid_frames(n_valid).clamp_max(made.shape[-1])
            masks = draw_spectrogram(rng, settings.augmentation, batch)
            features = apply_spectrogram(made, frames, masks)

    def learn() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            logits = network(features)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    def both() -> None:
        front()
        learn()

    front()
    front_ms, learn_ms = milliseconds(front, rounds), milliseconds(learn, rounds)
    both_ms = milliseconds(both, rounds)
    share = step_flops(model, batch) / (learn_ms / 1e3) / rate
    print(
        f"batch {batch}{', compiled' if compiled else ''}: step {both_ms:.1f} ms "
        f"({batch / both_ms * 1e3:.0f} clips/s), network and optimiser {learn_ms:.1f} ms = "
        f"{100 * share:.0f} % of the matrix rate, mel and augmentation {front_ms:.2f} ms = "
        f"{100 * front_ms / both_ms:.1f} %; peak {torch.cuda.max_memory_allocated() / 2**30:.1f} "
        "GiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
