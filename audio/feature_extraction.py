"""The way into a saved model from transformers: a waveform, made mono, at the model's rate.

The mel transform is in the model, so there is nothing else to extract.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from audio.windows import Waveform, fit_length


class SpectrogramFeatureExtractor(SequenceFeatureExtractor):  # type: ignore[misc]
    """Waveforms to what `SpectrogramClassifier` takes: padded to its window, longer ones whole.

    sampling_rate: the model's, in Hz. n_samples: in its window. clip_padding: what follows a
    shorter clip, as `SpectrogramSettings.padding` has it.
    """

    model_input_names = ["input_values", "n_valid"]  # noqa: RUF012 - transformers' own name

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        n_samples: int = 16000,
        clip_padding: str = "zeros",
        **more: Any,
    ) -> None:
        super().__init__(feature_size, sampling_rate, padding_value, **more)
        self.n_samples = n_samples
        self.clip_padding = clip_padding

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **more: Any,
    ) -> BatchFeature:
        """Return input_values, float32 (batch, n_samples or more), and n_valid, int64 (batch,).

        raw_speech: one clip (n,); several as a list, or (batch, n). In a list a clip may have
        channels, (n, channels) or (channels, n), whose mean is used. Samples are in [-1, 1].
        sampling_rate: of the samples, in Hz; None says the model's.

        Raises:
            ValueError: a clip without samples, with NaN, or of another shape.
        """
        del more  # what other extractors take
        clips = [self._fitted(clip, sampling_rate) for clip in _clips(raw_speech)]
        longest = max(len(clip) for clip, _ in clips)
        values = np.full((len(clips), longest), self.padding_value, np.float32)
        for row, (clip, _) in zip(values, clips, strict=True):
            row[: len(clip)] = clip
        n_valid = np.array([n for _, n in clips], np.int64)
        return BatchFeature(
            {"input_values": values, "n_valid": n_valid}, tensor_type=return_tensors
        )

    def _fitted(self, clip: ArrayLike, rate_hz: int | None) -> tuple[Waveform, int]:
        """Return a clip at the model's rate, padded to its window, and how much is its own."""
        mono = _mono(np.asarray(clip, np.float32))
        if rate_hz is not None and rate_hz != self.sampling_rate:
            mono = _resample(mono, rate_hz, self.sampling_rate)
        if len(mono) >= self.n_samples:
            return mono, len(mono)
        n = self.n_samples if self.clip_padding == "repeat" else len(mono)
        return fit_length(mono, self.n_samples, padding=self.clip_padding), n


def _clips(given: Any) -> Sequence[Any]:
    """Return a list of clips from one, from a list, or from a batch (batch, n)."""
    if isinstance(given, list | tuple) and len(given) and not np.isscalar(given[0]):
        return given
    whole = np.asarray(given)
    return list(whole) if whole.ndim > 1 else [whole]


def _mono(clip: Any) -> Waveform:
    if clip.ndim == 2:
        clip = clip.mean(int(np.argmin(clip.shape)))  # there are fewer channels than samples
    if clip.ndim != 1 or not clip.size:
        raise ValueError(
            f"a clip of shape {clip.shape} is no waveform; give (n,), or (n, channels) in a list."
        )
    if not np.isfinite(clip).all():
        raise ValueError("a clip has samples that are NaN or infinite.")
    return np.ascontiguousarray(clip)


def _resample(mono: Waveform, from_hz: int, to_hz: int) -> Waveform:
    try:
        import soxr
    except ImportError:
        raise ImportError(
            f"the model was trained at {to_hz} Hz and this clip has {from_hz} Hz; `pip install "
            "soxr` for the resampler that it was trained with, or give it at that rate."
        ) from None
    out: Waveform = soxr.resample(mono, from_hz, to_hz, quality="HQ")
    return out
