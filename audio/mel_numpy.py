"""The mel transform for conversion: the levels of `audio.spectrogram.LogMel`, without torch.

Importing torch costs 2 s, which is more than converting thousands of clips does. The work is
library calls over a few hundred frames at a time, so that they stay in the processor's cache:
one product with the window, one real FFT (scipy's pocketfft, which takes several frames at once),
one product with the mel bands (their zeros left out), one logarithm, all in float32. Every clip
goes through the same calls whatever else is in the batch, so its levels are the same to the bit.
`tests/test_mel_numpy.py` holds this path and LogMel equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from audio.mel import (
    PCEN_EPS,
    PCEN_SCALE,
    analysis_window,
    band_blocks,
    mel_filter_bank,
    smoother_weights,
    smoothing,
)
from audio.settings import SpectrogramSettings

Levels = NDArray[np.float32]

# Samples in the frames that are worked on at once: 0.5 MB of float32 fits the second-level cache
# of one core. The fastest of 16384 to 262144 for FFTs of 512, 1024 and 2048 on an EPYC.
_BLOCK_SAMPLES = 131072


class NumpyLogMel:
    """Waveforms to log-mel levels, by one `SpectrogramSettings`. Any number of threads may call it.

    >>> NumpyLogMel(SpectrogramSettings())(np.zeros((2, 16000), np.float32)).shape
    (2, 64, 101)
    """

    def __init__(self, settings: SpectrogramSettings) -> None:
        """Make window and bands.

        Raises:
            SettingsError: a band without any bin.
        """
        self.settings = settings
        self.window = analysis_window(settings)
        self.blocks = band_blocks(mel_filter_bank(settings))

    def __call__(
        self, waveform: NDArray[np.float32], n_valid: NDArray[Any] | None = None
    ) -> Levels:
        """Return the level of each band and frame, not normalised: as `LogMel.forward`.

        waveform: float32 (batch, n_samples), in [-1, 1]. n_valid: int (batch,), samples before the
        padding; None says all. Returns float32 (batch, n_mels, n_frames), a view: its frames are
        whole in memory.

        Raises:
            ValueError: a waveform too short for one frame.
        """
        s = self.settings
        n_samples = waveform.shape[-1]
        if s.frame_count(n_samples) < 1 or (s.edges == "reflect" and n_samples <= s.n_fft // 2):
            raise ValueError(
                f"{n_samples} samples are too short for a frame of {s.frame_length}; pad the clip, "
                "or lower n_fft and win_length."
            )
        level = self._mel(waveform)  # (batch, n_frames, n_mels)
        if s.compression == "cube-root":
            level **= np.float32(2 / (3 * s.power))
        elif s.compression == "pcen":
            level = self._pcen(level)
        else:
            np.maximum(level, np.float32(10 ** (s.floor_db * s.power / 20)), out=level)
            np.log10(level, out=level)
            level *= np.float32(20 / s.power)
        frames = None if n_valid is None else self.valid_frames(np.asarray(n_valid))
        if s.top_db is not None and s.compression == "db":
            self._limit(level, frames)
        if s.past_end_db is not None and frames is not None:
            for clip, own in zip(level, frames, strict=True):
                clip[own:] = s.past_end_db
        return level.transpose(0, 2, 1)

    def valid_frames(self, n_valid: NDArray[Any]) -> NDArray[np.int64]:
        """Return how many frames a clip of `n_valid` samples has of itself, int (batch,)."""
        s = self.settings
        if s.edges == "inside":
            n = 1 + (n_valid - s.frame_length) // s.hop_length
        else:
            n = 1 + (n_valid - s.n_fft % 2) // s.hop_length
        n = np.maximum(n - int(s.drop_last_frame), 1)
        return np.asarray(n, np.int64)

    def _limit(self, level: Levels, frames: NDArray[np.int64] | None) -> None:
        """Raise what lies more than top_db below the clip's peak, in place."""
        # peak per clip, so a batch never changes a clip
        if frames is None or (frames >= level.shape[1]).all():
            peaks = level.max(axis=(1, 2))
        else:
            peaks = np.array(
                [clip[:own].max() for clip, own in zip(level, frames, strict=True)], np.float32
            )
        np.maximum(level, (peaks - np.float32(self.settings.top_db))[:, None, None], out=level)

    def _mel(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the bands of |STFT| ** power, float32 (batch, n_frames, n_mels)."""
        s = self.settings
        frames = self._frames(waveform)
        n_clips, n_frames, length = frames.shape
        mel = np.empty((n_clips, n_frames, s.n_mels), np.float32)
        most = max(1, _BLOCK_SAMPLES // s.n_fft)  # frames at once: of some clips, or of one
        clips, step = max(1, most // n_frames), min(most, n_frames)
        windowed = np.zeros((min(clips, n_clips), step, s.n_fft), np.float32)
        squares = np.empty((min(clips, n_clips), step, 2 * (s.n_fft // 2 + 1)), np.float32)
        power = np.empty((min(clips, n_clips), step, s.n_fft // 2 + 1), np.float32)
        for i in range(0, n_clips, clips):
            for t in range(0, n_frames, step):
                block = frames[i : i + clips, t : t + step]
                here = (slice(block.shape[0]), slice(block.shape[1]))
                if s.remove_dc or s.preemphasis:
                    block = self._prepared(block)
                np.multiply(block, self.window, out=windowed[here][..., :length])
                spectrum = scipy.fft.rfft(windowed[here], overwrite_x=True)
                square, p = squares[here], power[here]
                np.square(spectrum.view(np.float32), out=square)
                np.add(square[..., ::2], square[..., 1::2], out=p)
                if s.power == 1:
                    np.sqrt(p, out=p)
                elif s.power != 2:
                    p **= np.float32(s.power / 2)
                out = mel[i : i + clips, t : t + step]
                for bands in self.blocks:
                    np.matmul(p[..., bands.bins], bands.weights, out=out[..., bands.bands])
        return mel

    def _frames(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a view of overlapping frames, (batch, n_frames, frame_length)."""
        s = self.settings
        if s.edges != "inside":
            half = s.n_fft // 2
            mode: Any = {"zeros": "constant", "reflect": "reflect"}[s.edges]
            waveform = np.pad(waveform, ((0, 0), (half, half)), mode)
        waveform = np.ascontiguousarray(waveform, np.float32)
        n = 1 + (waveform.shape[1] - s.frame_length) // s.hop_length - int(s.drop_last_frame)
        row, one = waveform.strides
        return np.lib.stride_tricks.as_strided(
            waveform,
            (len(waveform), n, s.frame_length),
            (row, s.hop_length * one, one),
            writeable=False,
        )

    def _prepared(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        s = self.settings
        if s.remove_dc:
            frames = frames - frames.mean(-1, keepdims=True)
        if s.preemphasis:
            before = np.concatenate([frames[..., :1], frames[..., :-1]], -1)
            frames = np.subtract(frames, np.float32(s.preemphasis) * before, dtype=np.float32)
        return frames

    def _pcen(self, mel: NDArray[np.float32]) -> Levels:
        """Return what `LogMel._pcen` does, of (batch, n_frames, n_mels)."""
        s = self.settings
        energy = mel * np.float32(PCEN_SCALE)
        weights, fading = smoother_weights(smoothing(s))
        smooth = np.empty_like(energy)
        carried = np.ones_like(energy[:, :1])
        for t in range(0, energy.shape[1], len(fading)):
            block = energy[:, t : t + len(fading)]
            n = block.shape[1]
            out = smooth[:, t : t + n]
            np.matmul(weights[:n, :n].T, block, out=out)
            out += fading[:n, None] * carried
            carried = out[:, -1:]
        gain = np.exp(np.float32(-s.pcen_gain) * np.log(np.float32(PCEN_EPS) + smooth))
        shifted = energy * gain + np.float32(s.pcen_bias)
        return shifted ** np.float32(s.pcen_power) - np.float32(s.pcen_bias**s.pcen_power)
