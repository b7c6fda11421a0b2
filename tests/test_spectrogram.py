"""The mel transform against librosa, torchaudio and transformers' extractors."""

from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio.settings import AST_PRESET, WHISPER_PRESET, SettingsError, SpectrogramSettings
from audio.spectrogram import (
    LogMel,
    hz_to_mel,
    measure_mean_std,
    mel_centres_hz,
    mel_filter_bank,
    mel_to_hz,
)


def noise(n, seed=0, level=0.1):
    """Return pink-ish noise with a tone, so that bands differ by tens of dB."""
    rng = np.random.default_rng(seed)
    wave = np.cumsum(rng.standard_normal(n)) * 0.02 + rng.standard_normal(n) * 0.01
    wave += np.sin(np.arange(n) * 0.3)
    return (level * (wave - wave.mean()) / np.abs(wave).max()).astype(np.float32)


def levels(settings, *waves, n_valid=None):
    batch = torch.from_numpy(np.stack(waves))
    valid = None if n_valid is None else torch.tensor(n_valid)
    return LogMel(settings)(batch, valid).numpy()


def librosa_levels(s, wave):
    """Return librosa's log-mel levels of one clip, for what the settings have in common."""
    if s.edges == "inside":
        frames = {"center": False}
    else:
        frames = {"center": True, "pad_mode": {"zeros": "constant"}.get(s.edges, s.edges)}
    mel = librosa.feature.melspectrogram(
        y=wave,
        sr=s.sample_rate_hz,
        n_fft=s.n_fft,
        hop_length=s.hop_length,
        win_length=s.win_length,
        window=s.window,
        power=s.power,
        n_mels=s.n_mels,
        fmin=s.f_min_hz,
        fmax=s.f_max,
        htk=s.mel_scale == "htk",
        norm="slaney" if s.mel_norm == "slaney" else None,
        **frames,
    )
    in_db = librosa.power_to_db if s.power == 2 else librosa.amplitude_to_db
    least = 10 ** (s.floor_db * s.power / 20)
    return in_db(mel, ref=1.0, amin=least, top_db=s.top_db)


GEOMETRIES = {
    "8 kHz": {"sample_rate_hz": 8000, "n_fft": 256, "win_length": 200, "hop_length": 80}
    | {"n_mels": 32},
    "16 kHz": {},
    "22.05 kHz": {"sample_rate_hz": 22050, "n_fft": 2048, "win_length": 2048, "hop_length": 512}
    | {"n_mels": 128},
    "44.1 kHz": {"sample_rate_hz": 44100, "n_fft": 2048, "win_length": 1102, "hop_length": 441}
    | {"n_mels": 96, "f_min_hz": 50.0, "f_max_hz": 16000.0},
    "odd": {"n_fft": 601, "win_length": 400, "hop_length": 161, "n_mels": 40},
}
MANNERS = {
    "defaults": {},
    "htk": {"mel_scale": "htk", "n_mels": 24},
    "peak norm": {"mel_norm": "none"},
    "htk peak norm": {"mel_scale": "htk", "mel_norm": "none", "n_mels": 24},
    "amplitude": {"power": 1.0},
    "hamming": {"window": "hamming"},
    "blackman": {"window": "blackman"},
    "mirrored": {"edges": "reflect"},
    "all levels": {"top_db": None},
    "20 dB": {"top_db": 20.0},
}


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_levels_are_librosas(geometry, manner):
    settings = SpectrogramSettings(**(GEOMETRIES[geometry] | MANNERS[manner]))
    wave = noise(50 * settings.hop_length)  # a whole number: one frame more or less would show
    ours, theirs = levels(settings, wave)[0], librosa_levels(settings, wave)
    assert ours.shape == theirs.shape == (settings.n_mels, settings.frame_count(len(wave)))
    assert np.abs(ours - theirs).max() < 2e-3


@pytest.mark.parametrize("geometry", ["16 kHz", "22.05 kHz"])
def test_frames_that_stay_inside_are_librosas_uncentred_ones(geometry):
    values = GEOMETRIES[geometry] | {"edges": "inside"}
    values["win_length"] = values.get("n_fft", 512)
    settings = SpectrogramSettings(**values)
    wave = noise(settings.sample_rate_hz // 2)
    ours, theirs = levels(settings, wave)[0], librosa_levels(settings, wave)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 2e-3


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_levels_are_torchaudios(scale):
    import torchaudio

    settings = SpectrogramSettings(
        mel_scale=scale, mel_norm="slaney", n_mels=32, f_min_hz=20.0, top_db=None
    )
    theirs = torchaudio.transforms.MelSpectrogram(
        16000,
        n_fft=512,
        win_length=400,
        hop_length=160,
        f_min=20.0,
        n_mels=32,
        mel_scale=scale,
        norm="slaney",
        pad_mode="constant",
    )
    waves = torch.from_numpy(np.stack([noise(8000), noise(8000, seed=1)]))
    expected = 10 * torch.log10(theirs(waves).clamp_min(1e-10))
    assert (LogMel(settings)(waves) - expected).abs().max() < 2e-3


# Presets


def preset_features(preset, wave):
    """Return the normalised features of one clip, padded to the preset's window."""
    n = preset.n_samples
    padded = np.zeros(n, np.float32)
    padded[: len(wave)] = wave[:n]
    log_mel = LogMel(preset)
    n_valid = torch.tensor([min(len(wave), n)])
    level = log_mel(torch.from_numpy(padded)[None], n_valid)
    return log_mel.normalise(level, n_valid)[0].numpy()


@pytest.mark.parametrize(
    ("clip_s", "seconds"),
    [(10.255, 10.255), (10.255, 3.3), (10.255, 0.03), (0.635, 0.635), (0.635, 0.2), (2.0, 1.0)],
)
def test_the_ast_preset_is_transformers_ast_extractor(clip_s, seconds):
    from transformers import ASTFeatureExtractor

    preset = replace(AST_PRESET, clip_s=clip_s)
    extractor = ASTFeatureExtractor(max_length=preset.n_frames)
    wave = noise(round(seconds * 16000))
    expected = extractor(wave, sampling_rate=16000, return_tensors="np").input_values[0].T
    ours = preset_features(preset, wave)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1e-4


@pytest.mark.parametrize(("n_mels", "seconds"), [(80, 30.0), (80, 4.2), (128, 1.0)])
def test_the_whisper_preset_is_transformers_whisper_extractor(n_mels, seconds):
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    wave = noise(round(seconds * 16000))
    expected = extractor(wave, sampling_rate=16000, return_tensors="np").input_features[0]
    ours = preset_features(replace(WHISPER_PRESET, n_mels=n_mels), wave)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1e-4


# What else is in the batch, and how much padding there is, changes nothing

SETTINGS = {
    "default": SpectrogramSettings(n_mels=20),
    "band": SpectrogramSettings(n_mels=20, normalisation="band", top_db=30.0),
    "dataset": SpectrogramSettings(n_mels=20, normalisation="dataset", mean_db=-40.0, std_db=9.0),
    "none": SpectrogramSettings(n_mels=20, normalisation="none", past_end_db=-60.0),
    "inside": SpectrogramSettings(n_mels=20, edges="inside", preemphasis=0.97, remove_dc=True),
    "cube root": SpectrogramSettings(n_mels=20, compression="cube-root"),
    "whisper": replace(WHISPER_PRESET, n_mels=20),
    "ast": replace(AST_PRESET, n_mels=20),
}


def features(log_mel, batch, n_valid):
    batch, n_valid = torch.from_numpy(batch), torch.tensor(n_valid)
    return log_mel.normalise(log_mel(batch, n_valid), n_valid)


@pytest.mark.parametrize("name", SETTINGS)
@given(
    lengths=st.lists(st.integers(600, 4000), min_size=2, max_size=5),
    loudness=st.lists(st.sampled_from([1e-4, 0.1, 1.0]), min_size=5, max_size=5),
)
@hypothesis_settings(max_examples=15)
def test_what_else_is_in_the_batch_does_not_change_a_clip(name, lengths, loudness):
    log_mel = LogMel(SETTINGS[name])
    batch = np.zeros((len(lengths), 4000), np.float32)
    for i, n in enumerate(lengths):
        batch[i, :n] = noise(n, seed=i, level=loudness[i])
    together = features(log_mel, batch, lengths)
    for i, n in enumerate(lengths):
        alone = features(log_mel, batch[i : i + 1], [n])[0]
        assert (together[i] - alone).abs().max() < 1e-3


@pytest.mark.parametrize("name", SETTINGS)
@given(n=st.integers(600, 3000), more=st.integers(400, 3000))
@hypothesis_settings(max_examples=15)
def test_more_padding_does_not_change_a_clips_own_frames(name, n, more):
    """From 400 samples on, so that a mirrored edge mirrors padding."""
    log_mel = LogMel(SETTINGS[name])
    wave = noise(n)
    little = features(log_mel, np.pad(wave, (0, 400))[None], [n])[0]
    much = features(log_mel, np.pad(wave, (0, 400 + more))[None], [n])[0]
    own = int(log_mel.valid_frames(torch.tensor(n)))
    assert own <= little.shape[1]
    assert (little[:, :own] - much[:, :own]).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["default", "band", "inside"])
def test_a_padded_clip_is_the_clip_alone(name):
    log_mel = LogMel(SETTINGS[name])
    wave = noise(3000)
    whole = log_mel.normalise(log_mel(torch.from_numpy(wave)[None]))[0]
    padded = features(log_mel, np.pad(wave, (0, 5000))[None], [3000])[0]
    assert (padded[:, : whole.shape[1]] - whole).abs().max() < 1e-3


@pytest.mark.parametrize("edges", ["zeros", "reflect", "inside"])
@given(
    n=st.integers(1200, 5000),
    hop=st.integers(1, 300),
    drop=st.booleans(),
    n_fft=st.integers(400, 512),
)
@hypothesis_settings(max_examples=25)
def test_frames_are_as_many_as_the_settings_say(edges, n, hop, drop, n_fft):
    settings = SpectrogramSettings(
        n_mels=8, n_fft=n_fft, edges=edges, hop_length=hop, drop_last_frame=drop
    )
    log_mel = LogMel(settings)
    frames = log_mel(torch.zeros(1, n)).shape[2]
    assert frames == settings.frame_count(n) == int(log_mel.valid_frames(torch.tensor(n)))


# Normalisation


@pytest.mark.parametrize(("normalisation", "axes"), [("clip", (0, 1)), ("band", (1,))])
def test_a_clip_has_zero_mean_and_unit_deviation_over_its_own_frames(normalisation, axes):
    log_mel = LogMel(SpectrogramSettings(n_mels=20, normalisation=normalisation, top_db=None))
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    found = features(log_mel, np.pad(wave, (0, 8000))[None], [4000])[0].numpy()
    own = found[:, : 1 + 4000 // 160]
    assert np.abs(own.mean(axes)).max() < 1e-4
    assert np.abs(own.std(axes) - 1).max() < 1e-3


@pytest.mark.parametrize("compression", ["db", "cube-root"])
def test_active_frames_alone_have_zero_mean_and_unit_deviation(compression):
    """Whole weight down to 35 dB below the loudest frame, none from 45 dB on; no padding."""
    log_mel = LogMel(
        SpectrogramSettings(n_mels=20, normalisation="active", compression=compression)
    )
    decay = 10 ** (-np.arange(8000) / 8000 * 120 / 20)  # 120 dB down over half a second
    wave = noise(8000, seed=1, level=1.0) * decay.astype(np.float32)
    n_valid = torch.tensor([8000])
    level = log_mel(torch.from_numpy(np.pad(wave, (0, 4000)))[None], n_valid)
    found = log_mel.normalise(level, n_valid)[0, :, :51].numpy().astype(np.float64)
    loudness = level[0, :, :51].numpy().max(0).astype(np.float64)
    if compression == "cube-root":
        loudness = 10 * np.log10(np.maximum(loudness, 1e-9) ** 3)
    weight = np.interp(loudness - loudness.max(), [-45, -35], [0, 1])
    assert 10 < (weight > 0).sum() < 30
    mean = np.average(found.mean(0), weights=weight)
    assert abs(mean) < 1e-4
    assert abs(np.average(((found - mean) ** 2).mean(0), weights=weight) - 1) < 2e-3
    assert abs(found.mean()) > 0.1


@given(st.floats(1e-3, 0.3), st.integers(0, 100))
def test_rounding_moves_no_frame_in_or_out_of_the_active_ones(step_db, seed):
    log_mel = LogMel(SpectrogramSettings(n_mels=8))
    rng = np.random.default_rng(seed)
    frames = rng.uniform(-70, 0, (1, 1, 60)) + rng.uniform(-20, 0, (1, 8, 60))
    level = torch.from_numpy(frames.astype(np.float32))
    rounded = (level / step_db).round() * step_db
    moved = (log_mel.normalise(rounded) - log_mel.normalise(level)).abs().max()
    assert moved < 0.5 * step_db + 1e-4


def test_silence_about_a_sound_does_not_change_its_features_where_normalisation_is_active():
    sound = noise(3200, seed=2, level=0.3)
    alone = np.pad(sound, (1600, 1600))[None]
    amid = np.pad(sound, (1600, 16000))[None]
    moved = {}
    for normalisation in ("active", "clip"):
        log_mel = LogMel(SpectrogramSettings(n_mels=20, normalisation=normalisation))
        short = features(log_mel, alone, [alone.shape[1]])
        long = features(log_mel, amid, [amid.shape[1]])
        moved[normalisation] = float((long[..., :36] - short[..., :36]).abs().max())
    assert moved["active"] < 1e-3
    assert moved["clip"] > 0.5


def test_a_sound_without_soft_frames_is_active_throughout():
    wave = noise(16000, seed=3)[None]
    made = [
        features(LogMel(SpectrogramSettings(n_mels=20, normalisation=which)), wave, [16000])
        for which in ("active", "clip")
    ]
    assert torch.allclose(*made, atol=1e-5)


def test_dataset_normalisation_is_refused_before_it_is_measured():
    log_mel = LogMel(SpectrogramSettings(normalisation="dataset"))
    with pytest.raises(SettingsError, match="needs mean_db and std_db"):
        log_mel.normalise(torch.zeros(1, 64, 10))


@pytest.mark.parametrize("normalisation", ["active", "clip", "band", "dataset", "none"])
@pytest.mark.parametrize("compression", ["db", "cube-root"])
@pytest.mark.parametrize("top_db", [None, 80.0])
@pytest.mark.parametrize("edges", ["zeros", "inside"])
def test_a_silent_clip_is_finite_everywhere(normalisation, compression, top_db, edges):
    known = {"mean_db": -40.0, "std_db": 9.0} if normalisation == "dataset" else {}
    settings = SpectrogramSettings(
        normalisation=normalisation, compression=compression, top_db=top_db, edges=edges, **known
    )
    log_mel = LogMel(settings)
    for n_valid in (None, torch.tensor([8000, 1])):
        level = log_mel(torch.zeros(2, 8000), n_valid)
        found = log_mel.normalise(level, n_valid)
        assert torch.isfinite(found).all()
        if normalisation in ("active", "clip", "band"):
            assert found.abs().max() < 1e-3


def test_mean_and_deviation_are_those_of_the_clips_own_frames():
    log_mel = LogMel(SpectrogramSettings(n_mels=20))
    lengths = [4000, 2500, 900, 4000]
    batch = np.zeros((4, 4000), np.float32)
    for i, n in enumerate(lengths):
        batch[i, :n] = noise(n, seed=i, level=10.0**-i)
    level = log_mel(torch.from_numpy(batch), torch.tensor(lengths))
    batches = [(level[:3], torch.tensor(lengths[:3])), (level[3:], torch.tensor(lengths[3:]))]
    mean, std = measure_mean_std(log_mel, batches)
    own = np.concatenate(
        [level[i, :, : 1 + n // 160].numpy().ravel() for i, n in enumerate(lengths)]
    ).astype(np.float64)
    assert mean == pytest.approx(own.mean(), abs=1e-4)
    assert std == pytest.approx(own.std(), abs=1e-4)


# The bank, the scales, the errors


@pytest.mark.parametrize(("scale", "htk"), [("slaney", False), ("htk", True)])
def test_the_mel_scales_are_librosas_and_go_round(scale, htk):
    hz = np.linspace(0, 24000, 500)
    assert np.allclose(hz_to_mel(hz, scale), librosa.hz_to_mel(hz, htk=htk))
    assert np.allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz)


def test_a_tone_is_loudest_in_the_band_around_it():
    settings = SpectrogramSettings(n_mels=40)
    for hz in (200.0, 1000.0, 4000.0):
        wave = np.sin(2 * np.pi * hz * np.arange(8000) / 16000).astype(np.float32)
        loudest = levels(settings, wave)[0].mean(1).argmax()
        centres = mel_centres_hz(settings)
        assert loudest == np.abs(hz_to_mel(centres, "slaney") - hz_to_mel(hz, "slaney")).argmin()


def test_preemphasis_and_dc_are_taken_from_each_frame_as_by_hand():
    settings = SpectrogramSettings(
        n_mels=8, n_fft=64, win_length=64, hop_length=64, edges="inside", top_db=None
    )
    frame = noise(64).astype(np.float64) + 0.3
    changed = replace(settings, remove_dc=True, preemphasis=0.9)
    prepared = frame - frame.mean()
    prepared = prepared - 0.9 * np.concatenate([prepared[:1], prepared[:-1]])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    power = np.abs(np.fft.rfft(prepared * window)) ** 2
    expected = 10 * np.log10(power @ mel_filter_bank(settings))
    assert np.abs(levels(changed, frame.astype(np.float32))[0, :, 0] - expected).max() < 1e-2


def test_the_cube_root_is_that_of_the_bands_power():
    settings = SpectrogramSettings(n_mels=20, top_db=None)
    in_db = levels(settings, noise(4000))
    roots = levels(replace(settings, compression="cube-root"), noise(4000))
    assert np.allclose(roots, 10 ** (in_db / 30), rtol=1e-3)


def test_bands_without_a_bin_are_refused_with_the_remedy():
    settings = SpectrogramSettings(n_mels=128, n_fft=256, win_length=256)
    with pytest.raises(SettingsError, match=r"n_mels=128 leaves \d+ bands .*n_fft=256.*lower n_me"):
        LogMel(settings)
    assert np.isfinite(mel_filter_bank(replace(settings, mel_scale="kaldi"))).all()


@pytest.mark.parametrize(
    ("edges", "n"), [("inside", 399), ("reflect", 256), ("reflect", 1), ("inside", 0)]
)
def test_a_waveform_too_short_for_a_frame_is_refused_with_its_length(edges, n):
    with pytest.raises(ValueError, match=rf"^{n} samples are too short"):
        LogMel(SpectrogramSettings(edges=edges))(torch.zeros(1, n))


def test_the_transform_lets_gradients_through():
    wave = torch.from_numpy(noise(4000))[None].requires_grad_(True)
    log_mel = LogMel(SpectrogramSettings(n_mels=20))
    log_mel.normalise(log_mel(wave)).square().sum().backward()
    assert torch.isfinite(wave.grad).all()
