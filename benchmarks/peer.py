"""The same network fed as transformers' audio-classification example feeds it.

`run_audio_classification.py` of transformers: a random piece of each waveform, the feature
extractor on the CPU clip by clip as the clip is asked for, `Trainer` with its data loader's
defaults. The waveforms are in memory already, where the example decodes them anew each time.
"""

from __future__ import annotations

import random
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from audio.backbones import build_network
from audio.pooling import pool
from audio.settings import Settings
from audio.waveform import Waveform


def by_transformers(network: Any, features: Tensor) -> Tensor:
    """Return the logits by transformers' own calls."""
    hidden = network.encoder(network.stem(features)).last_hidden_state
    return network.classifier(network.projector(pool(hidden, None, network.pooling)))  # type: ignore[no-any-return]


class ByTransformers(nn.Module):
    """The network as `Trainer` expects it: features and labels in, loss and logits out."""

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        self.network = build_network(description)

    def forward(self, input_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss and the logits of features (batch, n_mels, n_frames)."""
        logits = by_transformers(self.network, input_features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class ClipByClip(Dataset[dict[str, Any]]):
    """A random piece of each waveform, through the extractor as it is asked for.

    The extractor pads each piece to the settings' `clip_s`, whole seconds, be it shorter.
    """

    def __init__(self, waveforms: list[Waveform], targets: Any, settings: Settings) -> None:
        from transformers import WhisperFeatureExtractor

        s = settings.spectrogram
        self.waveforms, self.targets, self.rate = waveforms, targets, s.sample_rate_hz
        seconds = int(s.n_samples / s.sample_rate_hz)
        self.n = s.n_samples
        self.extract = WhisperFeatureExtractor(
            feature_size=s.n_mels, hop_length=s.hop_length, n_fft=400, chunk_length=seconds
        )

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, i: int) -> dict[str, Any]:
        waveform = self.waveforms[i]
        start = random.randint(0, max(0, len(waveform) - self.n))
        made = self.extract(waveform[start : start + self.n], sampling_rate=self.rate)
        return {"input_features": made.input_features[0], "labels": int(self.targets[i])}


def trainer(data: ClipByClip, model: nn.Module, settings: Settings, folder: str) -> Any:
    """Return a `Trainer` with its defaults but for the batch, the rate and what it writes."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=settings.training.batch_size,
        learning_rate=settings.training.learning_rate,
        num_train_epochs=settings.training.epochs,
        warmup_steps=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    return Trainer(model=model, args=arguments, train_dataset=data)


def train(waveforms: list[Waveform], targets: Any, settings: Settings, description: Any) -> Any:
    """Train the peer's way; returns its model."""
    model = ByTransformers(description)
    with tempfile.TemporaryDirectory() as folder:
        trainer(ClipByClip(waveforms, targets, settings), model, settings, folder).train()
    return model


def predict(model: nn.Module, waveforms: list[Waveform], targets: Any, settings: Settings) -> Any:
    """Return logits the peer's way, `Trainer.predict`."""
    data = ClipByClip(waveforms, targets, settings)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        return trainer(data, model, settings, folder).predict(data).predictions
