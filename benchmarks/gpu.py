"""A training step on a GPU: share of the chip's matrix rate, share of mel and augmentation.

`python -m benchmarks.gpu [--batch 32] [--compile] [--network ast-base whisper-scratch]`: AST-base
at 10.24 s clips with many augmentations, and the default network on clips of a second by default.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch

from audio.augment import (
    apply_spectrogram,
    apply_waveform,
    draw_spectrogram,
    draw_waveform,
    mix_targets,
)
from audio.classifier import SpectrogramClassifier, SpectrogramClassifierConfig
from audio.compiled import compiled
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
    options.add_argument("--network", nargs="+", default=["ast-base", "whisper-scratch"])
    options.add_argument("--rounds", type=int, default=10)
    given = options.parse_args()
    rate = matrix_rate()
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}: bf16 product {rate / 1e12:.0f} TFLOP/s", flush=True)
    for network in given.network:
        for batch in given.batch:
            one(network, batch, rate, given.compile, given.rounds)


def made(network: str) -> tuple[Settings, SpectrogramClassifier]:
    """Return the settings and the model of ast-base, or of a network from scratch."""
    if network != "ast-base":
        settings = Settings().with_values(
            {"backbone": network, "clip_s": 1.0, "precision": "bfloat16"}
        )
        return settings, SpectrogramClassifier.from_settings(settings, [str(i) for i in range(50)])
    settings = Settings(AST_PRESET, ALL_ON, TrainingSettings(precision="bfloat16"))
    description = {"type": "audio-spectrogram-transformer", "config": AST_BASE}
    config = SpectrogramClassifierConfig(settings=settings.to_json(), network=description)
    return settings, SpectrogramClassifier(config)


def one(network: str, batch: int, rate: float, is_compiled: bool, rounds: int) -> None:
    """Print the figures of one network and batch size."""
    settings, model = made(network)
    model.cuda().train()
    torch.cuda.reset_peak_memory_stats()
    classify = compiled(model) if is_compiled else model.classify
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    rng = np.random.default_rng(0)
    n = settings.spectrogram.n_samples
    sound = torch.randn(batch, n).pin_memory()
    lengths = torch.full((batch,), n, dtype=torch.int64)
    labels = torch.eye(50, device="cuda")[torch.randint(0, 50, (batch,), device="cuda")]
    features = targets = valid = torch.empty(0)

    def front() -> None:
        nonlocal features, targets, valid
        with torch.no_grad():
            waveform, n_valid = sound.cuda(non_blocking=True), lengths.cuda(non_blocking=True)
            drawn = draw_waveform(rng, settings.augmentation, batch)
            waveform, n_valid = apply_waveform(
                waveform, n_valid, drawn, sample_rate_hz=settings.spectrogram.sample_rate_hz
            )
            level = model.log_mel.normalise(model.log_mel(waveform, n_valid), n_valid)
            frames = model.log_mel.valid_frames(n_valid).clamp_max(level.shape[-1])
            masks = draw_spectrogram(rng, settings.augmentation, batch)
            features, valid = apply_spectrogram(level, frames, masks), n_valid
            targets = mix_targets(labels, masks)

    def learn() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            logits = classify(features, valid)
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
    share = ""
    if network == "ast-base":
        reached = step_flops(model, batch) / (learn_ms / 1e3) / rate
        share = f" = {100 * reached:.0f} % of the matrix rate"
    print(
        f"{network}, batch {batch}{', compiled' if is_compiled else ''}: step {both_ms:.1f} ms "
        f"({batch / both_ms * 1e3:.0f} clips/s), network and optimiser {learn_ms:.1f} ms{share}, "
        f"mel and augmentation {front_ms:.2f} ms = {100 * front_ms / both_ms:.1f} %; peak "
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
