"""Two paths compute the mel transform: the conversion's and the model's are held equal here."""

from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio.mel import band_blocks, mel_filter_bank
from audio.mel_numpy import NumpyLogMel
from audio.settings import AST_PRESET, WHISPER_PRESET, SettingsError, SpectrogramSettings
from audio.spectrogram import LogMel

MANNERS = {
    "default": {},
    "htk, peak norm": {"mel_scale": "htk", "mel_norm": "none", "n_mels": 24},
    "amplitude": {"power": 1.0},
    "power 1.5": {"power": 1.5},
    "hamming": {"window": "hamming"},
    "blackman": {"window": "blackman", "symmetric_window": True},
    "mirrored": {"edges": "reflect"},
    "inside": {"edges": "inside"},
    "dc, pre-emphasis": {"remove_dc": True, "preemphasis": 0.97},
    "all levels": {"top_db": None},
    "20 dB": {"top_db": 20.0},
    "past the end": {"past_end_db": -55.0},
    "last frame dropped": {"drop_last_frame": True},
    "cube root": {"compression": "cube-root"},
    "pcen": {"compression": "pcen", "power": 1.0},
    "pcen, gentle": {"compression": "pcen", "pcen_gain": 0.5, "pcen_time_constant_s": 0.06},
    "odd": {"n_fft": 601, "win_length": 400, "hop_length": 161, "n_mels": 40},
    "44.1 kHz": {"sample_rate_hz": 44100, "n_fft": 2048, "win_length": 1102, "hop_length": 441}
    | {"n_mels": 128},
    "8 kHz": {"sample_rate_hz": 8000, "n_fft": 256, "win_length": 200, "hop_length": 80}
    | {"n_mels": 32},
}


def sounds(n=9000):
    """Return a batch of unlike clips, (5, n), and their valid lengths: pink noise, a chirp, a
    click, silence, very quiet noise. A tone in less noise would compare float32 FFTs' rounding."""
    rng = np.random.default_rng(1)
    t = np.arange(n) / 16000
    pink = np.cumsum(rng.standard_normal(n)) * 0.01 + 1e-3 * rng.standard_normal(n)
    batch = np.stack(
        [
            pink - pink.mean(),
            0.3 * np.sin(2 * np.pi * (100 + 6000 * t) * t) + 0.1 * rng.standard_normal(n),
            np.where(np.arange(n) == 4000, 1.0, 0.0) + 1e-4 * rng.standard_normal(n),
            np.zeros(n),
            1e-5 * rng.standard_normal(n),
        ]
    ).astype(np.float32)
    lengths = np.array([n, n - 1000, n // 2, n, 700])
    for clip, length in zip(batch, lengths, strict=True):
        clip[length:] = 0
    return batch, lengths


def both(settings, batch, lengths):
    """Return what the network would see of either path's levels."""
    log_mel, valid = LogMel(settings), torch.from_numpy(lengths)
    theirs = log_mel(torch.from_numpy(batch), valid)
    ours = torch.from_numpy(np.ascontiguousarray(NumpyLogMel(settings)(batch, lengths)))
    return log_mel.normalise(ours, valid).numpy(), log_mel.normalise(theirs, valid).numpy()


@pytest.mark.parametrize("manner", MANNERS)
def test_the_conversions_levels_are_the_models(manner):
    settings = SpectrogramSettings(**MANNERS[manner])
    ours, theirs = both(settings, *sounds())
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("preset", [AST_PRESET, WHISPER_PRESET], ids=["ast", "whisper"])
def test_the_conversions_levels_are_the_presets(preset):
    preset = replace(preset, clip_s=1.0)
    ours, theirs = both(preset, *sounds(16000))
    # AST keeps all levels: those 80 dB below the peak are float32's rounding on either path
    heard = theirs * preset.std_db > (theirs * preset.std_db).max((1, 2), keepdims=True) - 80
    assert heard.mean() > 0.9
    assert np.abs(ours - theirs)[heard].max() < 1e-4


def test_the_conversions_levels_are_the_models_on_real_recordings(shared):
    paths = sorted((shared / "data" / "fsdd" / "recordings").glob("*.wav"))[::150]
    assert len(paths) >= 10
    batch, lengths = np.zeros((len(paths), 6000), np.float32), []
    for row, path in zip(batch, paths, strict=True):
        wave = soundfile.read(path, dtype="float32")[0][:6000]
        row[: len(wave)] = wave
        lengths.append(len(wave))
    for values in ({}, {"compression": "pcen"}, {"edges": "inside", "normalisation": "band"}):
        settings = SpectrogramSettings(sample_rate_hz=8000, n_mels=40, **values)
        ours, theirs = both(settings, batch, np.array(lengths))
        assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("manner", MANNERS)
def test_what_else_is_in_the_batch_changes_no_bit_of_a_clip(manner):
    log_mel = NumpyLogMel(SpectrogramSettings(**MANNERS[manner]))
    batch, lengths = sounds()
    together = log_mel(batch, lengths)
    for i in range(len(batch)):
        alone = log_mel(batch[i : i + 1], lengths[i : i + 1])
        assert np.array_equal(together[i], alone[0])


@given(n=st.integers(600, 60000), clips=st.integers(1, 4), hop=st.integers(20, 700))
@hypothesis_settings(max_examples=25)
def test_blocks_of_frames_join_up_whatever_their_number(n, clips, hop):
    """Long clips are worked on by parts of one clip, short ones several at once."""
    settings = SpectrogramSettings(n_mels=12, hop_length=hop, top_db=None)
    batch = np.random.default_rng(n).normal(0, 0.1, (clips, n)).astype(np.float32)
    ours = NumpyLogMel(settings)(batch)
    theirs = LogMel(settings)(torch.from_numpy(batch)).numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 2e-3


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("values", [{}, {"pcen_gain": 0.7, "pcen_bias": 10.0, "pcen_power": 0.25}])
@pytest.mark.parametrize("time_constant_s", [0.03, 0.4, 3.0])
def test_pcen_is_librosas(power, values, time_constant_s):
    settings = SpectrogramSettings(
        compression="pcen", power=power, pcen_time_constant_s=time_constant_s, n_mels=40, **values
    )
    batch, _ = sounds(50000)  # 313 frames: more than two blocks of the smoother
    for wave in batch[:3]:
        mel = librosa.feature.melspectrogram(
            y=wave, sr=16000, n_fft=512, hop_length=160, win_length=400, power=power, n_mels=40,
            pad_mode="constant",
        )  # fmt: skip
        expected = librosa.pcen(
            mel * 2**31, sr=16000, hop_length=160, gain=settings.pcen_gain,
            bias=settings.pcen_bias, power=settings.pcen_power, time_constant=time_constant_s,
        )  # fmt: skip
        ours = LogMel(settings)(torch.from_numpy(wave)[None])[0].numpy()
        scale = np.abs(expected).max()
        assert scale > 0.1
        assert np.abs(ours - expected).max() < 1e-3 * scale


def test_blocks_of_bands_are_the_bank():
    bank = mel_filter_bank(SpectrogramSettings(n_mels=50))
    again = np.zeros_like(bank)
    for block in band_blocks(bank):
        again[block.bins, block.bands] = block.weights
    assert np.array_equal(again, bank)


def test_bands_without_a_bin_are_refused_here_too():
    with pytest.raises(SettingsError, match=r"n_mels=128 leaves \d+ bands"):
        NumpyLogMel(SpectrogramSettings(n_mels=128, n_fft=256, win_length=256))


@pytest.mark.parametrize(("edges", "n"), [("inside", 399), ("reflect", 256), ("reflect", 1)])
def test_a_waveform_too_short_for_a_frame_is_refused_here_too(edges, n):
    with pytest.raises(ValueError, match=rf"^{n} samples are too short"):
        NumpyLogMel(SpectrogramSettings(edges=edges))(np.zeros((1, n), np.float32))
