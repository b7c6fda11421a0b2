"""The classifier: waveform -> log-mel -> normalise -> network -> logits, as one saved model.

The mel transform is part of the model, so training and prediction cannot disagree, and a saved
folder needs nothing said about preprocessing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from audio.backbones import (
    build_network,
    freeze_fixed,
    load_checkpoint,
    network_logits,
    pickled_alone,
)
from audio.model_config import FORMAT, SpectrogramClassifierConfig
from audio.own_model import check_dropout, own_config
from audio.scratch import scratch_network
from audio.settings import Settings, UserError, is_scratch
from audio.spectrogram import LogMel
from audio.transfer import transferred
from audio.windows import (
    Waveform,
    batched_windows,
    fitted_windows,
    mean_by_clip,
    window_starts,
)

_WINDOWS_TOGETHER = 32


class ModelError(UserError):
    """A model folder cannot be used; the message gives the folder and the remedy."""


_SEVERAL = "multi_label_classification"  # as transformers calls it


class SpectrogramClassifier(PreTrainedModel):  # type: ignore[misc]
    """A transformers model from waveforms to logits over the labels."""

    config_class = SpectrogramClassifierConfig
    main_input_name = "input_values"
    base_model_prefix = "network"

    def __init__(self, config: SpectrogramClassifierConfig) -> None:
        super().__init__(config)
        self.settings = Settings.from_json(config.settings)
        self.log_mel = LogMel(self.settings.spectrogram)
        self.network = build_network(config.network)
        freeze_fixed(self.network)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the parts as their own classes made them."""

    @classmethod
    def from_settings(
        cls, settings: Settings, labels: Sequence[str], *, multi_label: bool = False
    ) -> Self:
        """Return a fresh model: a network from scratch, or a checkpoint or a model of melbandit's
        own fitted to the settings.

        multi_label: whether a clip may have several labels, or none.

        The weights follow from `settings.training.seed`; torch's own generator is left as it was.

        Raises:
            BackboneError: the backbone is unknown or does not fit.
            ModelError: it is a model of melbandit's own that cannot be loaded.
            SettingsError: a dropout for a checkpoint, which has its own.
        """
        spectrogram, training = settings.spectrogram, settings.training
        geometry = {"n_mels": spectrogram.n_mels, "n_frames": spectrogram.n_frames}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            if own_config(training.backbone) is not None:
                network, description = transferred(
                    cls.load(Path(training.backbone)),
                    labels,
                    dropout=training.dropout,
                    **geometry,
                )
            elif is_scratch(training.backbone):
                network = None
                description = scratch_network(
                    training.backbone,
                    n_labels=len(labels),
                    dropout=training.dropout,
                    size=training.size,
                    **geometry,
                )
            else:
                check_dropout(training)
                network, description = load_checkpoint(
                    training.backbone, n_labels=len(labels), **geometry
                )
            model = cls(
                SpectrogramClassifierConfig(
                    settings=settings.to_json(),
                    network=description,
                    id2label=dict(enumerate(labels)),
                    label2id={label: i for i, label in enumerate(labels)},
                    problem_type=_SEVERAL if multi_label else None,
                )
            )
            if network is not None:
                model.network.load_state_dict(network.state_dict())
        return model

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return a model that `save_pretrained` wrote, ready to predict.

        Raises:
            ModelError: the folder is no melbandit model, lacks a file, or is of a newer version.
        """
        config_path = folder / "config.json"
        if not config_path.exists():
            raise ModelError(f"{folder}: no config.json in it; give a folder that finetune wrote.")
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{config_path}: cannot be read ({error}).") from None
        if config.get("model_type") != "melbandit":
            raise ModelError(
                f"{folder}: holds a model of type {config.get('model_type')!r}, not melbandit's; "
                "fine-tune from it first (--backbone)."
            )
        if config.get("melbandit_format", 0) > FORMAT:
            raise ModelError(f"{folder}: written by a newer melbandit; upgrade to read it.")
        lacking = [name for name in ("settings", "network", "id2label") if not config.get(name)]
        if lacking:
            raise ModelError(f"{config_path}: lacks {', '.join(lacking)}; copy the whole folder.")
        if not (folder / "model.safetensors").exists():
            pickled = pickled_alone(folder)
            beside = (
                f" {pickled} is not read: unpickling runs whatever code is in it."
                if pickled
                else ""
            )
            raise ModelError(
                f"{folder}: model.safetensors is missing; copy the whole folder.{beside}"
            )
        try:
            model, loading = cls.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except SafetensorError as error:
            raise ModelError(
                f"{folder}/model.safetensors: cannot be read as safetensors ({error}); copy the "
                "whole folder."
            ) from None
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{folder}/model.safetensors: of another network than config.json tells of "
                f"({first}); copy the whole folder."
            ) from None
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:3])
            raise ModelError(f"{folder}: model.safetensors lacks {missing}; copy the whole folder.")
        freeze_fixed(model.network)
        return model.eval()  # type: ignore[no-any-return]

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several labels, or none."""
        return bool(self.config.problem_type == _SEVERAL)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """From which probability on each label counts as heard, where there may be several."""
        tuned = getattr(self.config, "thresholds", None)
        return (0.5,) * len(self.labels) if tuned is None else tuple(tuned)

    def heard(self, probabilities: NDArray[np.float32]) -> tuple[str, ...]:
        """Return the labels of one clip: the likeliest, or all that reach their thresholds.

        probabilities: (n_labels,).
        """
        if not self.is_multi_label:
            return (self.labels[int(probabilities.argmax())],)
        reached = probabilities >= np.array(self.thresholds)
        return tuple(self.labels[i] for i in np.flatnonzero(reached))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what logits (..., n_labels) say: shares of one, or each label's own chance."""
        return torch.sigmoid(logits) if self.is_multi_label else torch.softmax(logits, -1)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return tuple(self.config.id2label[i] for i in range(len(self.config.id2label)))

    def forward(
        self,
        input_values: Tensor,
        n_valid: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (batch, n_labels), and the cross-entropy where labels are given.

        input_values: float32 (batch, n_samples) in [-1, 1], windows of the model's `clip_s` at its
        sample rate, zeros past n_valid. n_valid: int (batch,); None says all. labels: int (batch,),
        or float (batch, n_labels) where there may be several.
        Of longer clips the logits are the logarithm of the mean probabilities over their windows.
        """
        if input_values.shape[-1] > self.settings.spectrogram.n_samples:
            logits = self._logits_over_windows(input_values, n_valid)
        else:
            level = self.log_mel(input_values, n_valid)
            logits = self.classify(self.log_mel.normalise(level, n_valid), n_valid)
        loss = None
        if labels is not None and self.is_multi_label:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def classify(self, features: Tensor, n_valid: Tensor | None = None) -> Tensor:
        """Return logits (batch, n_labels) of normalised features (batch, n_mels, n_frames).

        They are divided by the model's temperature, which is 1 until it is calibrated.
        """
        frames = None
        if n_valid is not None:
            frames = self.log_mel.valid_frames(n_valid).clamp_max(features.shape[-1])
        logits = network_logits(self.network, features, frames)
        temperature: float = self.config.calibration_temperature
        return logits if temperature == 1 else logits / temperature

    def _logits_over_windows(self, input_values: Tensor, n_valid: Tensor | None) -> Tensor:
        """Return what `predict` gives of clips longer than a window, as logits."""
        lengths = [input_values.shape[-1]] * len(input_values) if n_valid is None else n_valid
        n = self.settings.spectrogram.n_samples
        rows = []
        for clip, length in zip(input_values, map(int, lengths), strict=True):
            own = clip[: max(length, n)]
            starts = window_starts(len(own), n)
            total = torch.zeros((), device=clip.device)
            for first in range(0, len(starts), _WINDOWS_TOGETHER):
                some = starts[first : first + _WINDOWS_TOGETHER]
                valid = torch.tensor([min(n, length - start) for start in some], device=clip.device)
                batch = torch.stack([own[start : start + n] for start in some])
                logits = self(batch, n_valid=valid).logits
                total = total + self.probabilities(logits).sum(0)
            mean = (total / len(starts)).clamp_min(torch.finfo(total.dtype).tiny)
            rows.append(torch.logit(mean, 1e-7) if self.is_multi_label else mean.log())
        return torch.stack(rows)

    def save_pretrained(self, save_directory: str | Path, **more: Any) -> None:
        """Write the model's folder: weights, config, and the code that transformers needs to load
        it where melbandit is not installed (`trust_remote_code=True`)."""
        from audio.feature_extraction import SpectrogramFeatureExtractor
        from audio.portable import EXTRACTOR_AUTO_MAP, MODEL_AUTO_MAP, write_code

        spectrogram = self.settings.spectrogram
        self.config.auto_map = dict(MODEL_AUTO_MAP)
        super().save_pretrained(save_directory, **more)
        extractor = SpectrogramFeatureExtractor(
            sampling_rate=spectrogram.sample_rate_hz,
            n_samples=spectrogram.n_samples,
            clip_padding=spectrogram.padding,
        )
        extractor.auto_map = dict(EXTRACTOR_AUTO_MAP)
        extractor.save_pretrained(save_directory)
        write_code(Path(save_directory))

    def windows(self, waveform: Waveform) -> Iterator[tuple[Waveform, int]]:
        """Return the windows that cover a clip: (samples (n_samples,), how many are its own)."""
        spectrogram = self.settings.spectrogram
        return fitted_windows(waveform, spectrogram.n_samples, padding=spectrogram.padding)

    def predict(
        self, waveforms: Iterable[Waveform], *, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Return each clip's class probabilities, float32 (n_clips, n_labels).

        waveforms: float32 (n_samples,) each, any length, at the model's sample rate. A clip longer
        than a window gets the mean over as few windows as cover it.
        """
        return self.clip_probabilities(*self.window_logits(waveforms, batch_size=batch_size))

    @torch.inference_mode()
    def window_logits(
        self, waveforms: Iterable[Waveform], *, batch_size: int = 32
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the logits of the windows that cover the clips, float32 (n_windows, n_labels), and
        the clip that each is of."""
        self.eval()
        spectrogram = self.settings.spectrogram
        outputs = [np.zeros((0, len(self.labels)), np.float32)]
        owners = [np.zeros(0, np.int64)]
        for batch, n_valid, owner in batched_windows(
            waveforms, spectrogram.n_samples, padding=spectrogram.padding, batch_size=batch_size
        ):
            sound = torch.from_numpy(batch).to(self.device)
            own = torch.from_numpy(n_valid).to(self.device)
            outputs.append(self(sound, n_valid=own).logits.cpu().numpy())
            owners.append(owner)
        return np.concatenate(outputs), np.concatenate(owners)

    def clip_probabilities(
        self, logits: NDArray[np.float32], owner: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the mean over each clip's windows of what their logits say, (n_clips, n_labels);
        logits and owner as `window_logits` gives them."""
        return mean_by_clip(self.probabilities(torch.from_numpy(logits)).numpy(), owner)
