"""The settings: every rule speaks, JSON goes round, and no field is dead."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import MISSING, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import audio.settings as module
from audio.augment import (
    apply_spectrogram,
    apply_waveform,
    draw_spectrogram,
    draw_waveform,
    mix_targets,
)
from audio.backgrounds import Backgrounds
from audio.devices import choose_device
from audio.examples import SoundExamples, resolve
from audio.settings import (
    AST_PRESET,
    WHISPER_PRESET,
    AugmentationSettings,
    Settings,
    SettingsError,
    SpectrogramSettings,
    TrainingSettings,
)
from audio.spectrogram import LogMel
from audio.train import fine_tune

GROUPS = (SpectrogramSettings, AugmentationSettings, TrainingSettings)
SMALL = {"clip_s": 0.1, "n_fft": 256, "win_length": 256, "hop_length": 128, "n_mels": 16}


def every_field():
    return [pytest.param(g, f, id=f"{g.__name__}.{f.name}") for g in GROUPS for f in fields(g)]


def ranged_fields():
    return [p for p in every_field() if p.values[1].metadata.get("low") is not None]


# Rules


@pytest.mark.parametrize(("group", "spec"), ranged_fields())
def test_a_value_out_of_range_is_refused_with_field_value_and_remedy(group, spec):
    low, high = spec.metadata["low"], spec.metadata["high"]
    step = 1 if spec.type.startswith("int") else 1e-9 + 1e-3 * (high - low)
    with pytest.raises(SettingsError) as least:
        group(**{spec.name: low - step})
    with pytest.raises(SettingsError) as most:
        group(**{spec.name: high + step})
    for error, value, bound, remedy in (
        (least, low - step, low, "raise it"),
        (most, high + step, high, "lower it"),
    ):
        text = str(error.value)
        assert f"{spec.name}={value}" in text
        assert str(bound) in text
        assert remedy in text


@pytest.mark.parametrize(("group", "spec"), every_field())
def test_a_value_of_another_kind_is_refused_with_field_and_value(group, spec):
    with pytest.raises(SettingsError, match=rf"^{spec.name}=\[1\]"):
        group(**{spec.name: [1]})


@pytest.mark.parametrize(("group", "spec"), ranged_fields())
@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), "5"])
def test_a_number_must_be_a_finite_number(group, spec, value):
    with pytest.raises(SettingsError, match=rf"^{spec.name}={value!r} must be"):
        group(**{spec.name: value})


@pytest.mark.parametrize(("group", "spec"), every_field())
def test_none_is_legal_only_where_the_type_says_so(group, spec):
    if "None" in spec.type:
        assert getattr(group(**{spec.name: None}), spec.name) is None
    else:
        with pytest.raises(SettingsError, match=spec.name):
            group(**{spec.name: None})


@pytest.mark.parametrize("spec", [f for f in fields(SpectrogramSettings) if "int" in f.type])
def test_a_count_must_be_whole(spec):
    with pytest.raises(SettingsError, match=rf"{spec.name}=100\.5 must be a whole number"):
        SpectrogramSettings(**{spec.name: 100.5})


def test_a_whole_float_of_a_count_is_the_same_setting():
    """JSON and tables of measured trials write 64.0; it must not become another fingerprint."""
    settings = SpectrogramSettings(n_mels=64.0)
    assert settings.fingerprint() == SpectrogramSettings(n_mels=64).fingerprint()
    assert LogMel(settings)(torch.zeros(1, 1600)).shape == (1, 64, 11)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"win_length": 600}, ("win_length=600", "n_fft=512", "lower it")),
        ({"f_max_hz": 9000.0}, ("f_max_hz=9000", "8000 Hz", "raise sample_rate_hz")),
        ({"f_min_hz": 8000.0}, ("f_min_hz=8000", "f_max_hz=8000", "lower it")),
        ({"f_min_hz": 300.0, "f_max_hz": 200.0}, ("f_min_hz=300", "f_max_hz=200", "lower it")),
        (
            {"clip_s": 0.02, "edges": "reflect"},
            ("clip_s=0.02", "320 samples", "n_fft=512", "raise clip_s"),
        ),
        ({"mean_db": -30.0}, ("mean_db", "normalisation=dataset", "leave them out")),
        ({"std_db": 3.0, "normalisation": "none"}, ("std_db", "not none")),
        (
            {"pcen_gain": 0.5, "compression": "cube-root"},
            ("pcen_gain=0.5", "compression=pcen", "not cube-root", "leave it out"),
        ),
        ({"window": "boxcar"}, ("window='boxcar'", "hann, hamming, blackman")),
    ],
)
def test_a_broken_rule_gives_rule_value_and_remedy(values, words):
    with pytest.raises(SettingsError) as error:
        SpectrogramSettings(**values)
    for word in words:
        assert word in str(error.value)


def test_the_window_is_not_known_before_it_is_fitted():
    with pytest.raises(SettingsError, match="clip_s is not known yet"):
        _ = SpectrogramSettings().n_frames


@pytest.mark.parametrize(
    ("values", "n_samples", "frames"),
    [
        # by hand: 1 + n // hop centred; 1 + (n - win) // hop inside
        ({}, 16000, 101),
        ({"drop_last_frame": True}, 16000, 100),
        ({"edges": "inside"}, 16000, 98),
        ({"edges": "inside"}, 400, 1),
        ({"edges": "inside"}, 399, 0),
        ({"edges": "inside", "win_length": 512}, 16000, 97),
    ],
)
def test_frames_are_counted_as_by_hand(values, n_samples, frames):
    assert SpectrogramSettings(**values).frame_count(n_samples) == frames


def test_the_presets_have_the_frames_their_checkpoints_expect():
    assert (AST_PRESET.n_mels, AST_PRESET.n_frames) == (128, 1024)
    assert (WHISPER_PRESET.n_mels, WHISPER_PRESET.n_frames) == (80, 3000)


# JSON, names, fingerprints


def legal_values(spec):
    """Return a strategy of legal values of one field, as far as its own range goes."""
    kind = spec.type
    if kind.startswith("Literal"):
        return st.sampled_from(ast.literal_eval(kind[len("Literal") :]))
    if kind == "bool":
        return st.booleans()
    if kind == "str":
        return st.text(min_size=1)
    low, high = spec.metadata["low"], spec.metadata["high"]
    if kind == "int":
        return st.integers(low, high)
    numbers = st.floats(low, high, allow_nan=False)
    return st.none() | numbers if "None" in kind else numbers


@st.composite
def any_settings(draw):
    """Return settings whose fields are drawn one by one; rules between fields are kept."""
    settings = Settings()
    specs = [f for g in GROUPS for f in fields(g)]
    for spec in draw(st.lists(st.sampled_from(specs), max_size=8, unique_by=lambda f: f.name)):
        try:
            settings = settings.with_values({spec.name: draw(legal_values(spec))})
        except SettingsError:
            continue  # against a rule between fields
    return settings


@given(any_settings())
@hypothesis_settings(max_examples=40)
def test_json_gives_the_same_settings_back(settings):
    text = json.dumps(settings.to_json())
    again = Settings.from_json(json.loads(text))
    assert again == settings
    assert again.fingerprint() == settings.fingerprint()


def test_fields_that_json_lacks_keep_their_defaults():
    assert Settings.from_json({"spectrogram": {"n_mels": 40}}) == Settings(
        spectrogram=SpectrogramSettings(n_mels=40)
    )


@pytest.mark.parametrize("group", ["spectrogram", "augmentation", "training"])
def test_an_unknown_field_is_refused_by_name(group):
    with pytest.raises(SettingsError, match=r"no field colour.*newer melbandit"):
        Settings.from_json({group: {"colour": 1}})


def test_with_values_routes_each_name_to_its_group():
    before = Settings()
    after = before.with_values({"n_mels": 40, "gain_db": 1.0, "epochs": 3})
    assert after.spectrogram == replace(before.spectrogram, n_mels=40)
    assert after.augmentation == replace(before.augmentation, gain_db=1.0)
    assert after.training == replace(before.training, epochs=3)


def test_with_values_changes_several_fields_of_a_group_at_once():
    """One by one, n_fft=128 would break win_length <= n_fft."""
    assert Settings().with_values({"n_fft": 128, "win_length": 100}).spectrogram.win_length == 100


def test_with_values_refuses_a_name_that_no_group_has():
    with pytest.raises(SettingsError, match=r"no setting is called n_mel; there are: .*n_mels"):
        Settings().with_values({"n_mel": 40})


def test_value_of_finds_every_field():
    settings = Settings()
    for group in fields(settings):
        for spec in fields(getattr(settings, group.name)):
            expected = getattr(getattr(settings, group.name), spec.name)
            assert settings.value_of(spec.name) == expected
    with pytest.raises(SettingsError, match="no setting is called colour"):
        settings.value_of("colour")


def test_no_field_name_is_in_two_groups():
    names = [f.name for g in GROUPS for f in fields(g)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("group", GROUPS)
def test_every_field_has_a_default_and_a_docstring(group):
    source = ast.parse(inspect.getsource(module))
    body = next(n for n in source.body if isinstance(n, ast.ClassDef) and n.name == group.__name__)
    documented = {
        a.target.id
        for a, b in zip(body.body, body.body[1:], strict=False)
        if isinstance(a, ast.AnnAssign)
        and isinstance(b, ast.Expr)
        and isinstance(b.value, ast.Constant)
        and len(str(b.value.value)) > 10
    }
    assert documented == {f.name for f in fields(group)}
    assert all(f.default is not MISSING for f in fields(group))


# No dead setting: (what else must be set, one value, another)

SPECTROGRAM_CASES = {
    "sample_rate_hz": ({}, 8000, 16000),
    "clip_s": ({}, 0.1, 0.15),
    "padding": ({}, "zeros", "repeat"),
    "n_fft": ({}, 256, 300),
    "win_length": ({}, 200, 256),
    "hop_length": ({}, 128, 100),
    "window": ({}, "hann", "blackman"),
    "symmetric_window": ({}, False, True),
    "edges": ({}, "zeros", "reflect"),
    "drop_last_frame": ({}, False, True),
    "remove_dc": ({}, False, True),
    "preemphasis": ({}, 0.0, 0.97),
    "power": ({}, 1.0, 2.0),
    "n_mels": ({}, 12, 16),
    "f_min_hz": ({}, 0.0, 100.0),
    "f_max_hz": ({}, None, 3000.0),
    "mel_scale": ({"mel_norm": "none"}, "htk", "kaldi"),
    "mel_norm": ({}, "slaney", "none"),
    "compression": ({}, "db", "cube-root"),
    "pcen_gain": ({"compression": "pcen"}, 0.98, 0.5),
    "pcen_bias": ({"compression": "pcen"}, 2.0, 10.0),
    "pcen_power": ({"compression": "pcen"}, 0.5, 0.25),
    "pcen_time_constant_s": ({"compression": "pcen"}, 0.4, 0.05),
    "floor_db": ({"top_db": None}, -100.0, -20.0),
    "top_db": ({}, 80.0, 5.0),
    "past_end_db": ({}, None, 0.0),
    "normalisation": ({}, "clip", "band"),
    "mean_db": ({"normalisation": "dataset", "std_db": 10.0}, -30.0, -20.0),
    "std_db": ({"normalisation": "dataset", "mean_db": -30.0}, 10.0, 20.0),
}

AUGMENTATION_CASES = {
    "gain_db": ({}, 0.0, 6.0),
    "shift_percent": ({}, 0.0, 30.0),
    "speed_percent": ({}, 0.0, 20.0),
    "noise_percent": ({}, 0.0, 100.0),
    "noise_snr_db": ({"noise_percent": 100.0}, 0.0, 20.0),
    "filter_db": ({}, 0.0, 12.0),
    "frequency_mask_percent": ({}, 0.0, 60.0),
    "time_mask_percent": ({}, 0.0, 60.0),
    "mixup_percent": ({}, 0.0, 100.0),
    "pitch_semitones": ({}, 0.0, 4.0),
    "polarity_percent": ({"noise_percent": 100.0}, 0.0, 100.0),
    "low_pass_percent": ({}, 0.0, 100.0),
    "low_pass_hz": ({"low_pass_percent": 100.0}, 100.0, 200.0),
    "high_pass_percent": ({}, 0.0, 100.0),
    "high_pass_hz": ({"high_pass_percent": 100.0}, 500.0, 2000.0),
    "reverb_percent": ({}, 0.0, 100.0),
    "reverb_s": ({"reverb_percent": 100.0}, 0.1, 0.5),
    "background_percent": ({"background_folder": "noise"}, 0.0, 100.0),
    "background_folder": ({"background_percent": 100.0}, "noise", "street"),
    "other_clip_percent": ({}, 0.0, 100.0),
    "background_snr_db": ({"other_clip_percent": 100.0}, 0.0, 20.0),
    "time_warp_percent": ({}, 0.0, 40.0),
    "erase_percent": ({}, 0.0, 60.0),
    "cutmix_percent": ({}, 0.0, 100.0),
}

TRAINING_CASES = {
    "backbone": ({}, "whisper-scratch", "vit-scratch"),
    "size": ({}, "tiny", "nano"),
    "epochs": ({}, 1, 2),
    "batch_size": ({}, 2, 3),
    "learning_rate": ({}, 1e-3, 1e-2),
    "weight_decay": ({"learning_rate": 0.01}, 0.0, 1.0),
    "label_smoothing": ({}, 0.0, 0.2),
    "dropout": ({}, 0.0, 0.5),
    "balance": ({}, "none", "weights"),
    "freeze_backbone": ({}, False, True),
    "unfreeze_epochs": ({}, 0, 1),
    "layer_decay": ({}, 1.0, 0.5),
    "lora_rank": ({}, 0, 2),
    "lora_alpha": ({"lora_rank": 2}, 4.0, 32.0),
    "ema_decay": ({}, 0.0, 0.9),
    "patience": ({"epochs": 8, "learning_rate": 0.05}, 0, 1),
    "micro_batches": ({}, 1, 2),  # a batch norm sees each part by itself
    "seed": ({}, 0, 1),
    "precision": ({}, "float32", "bfloat16"),
}
#: Checked one by one below: what they change is no number of the training.
TRAINING_ELSEWHERE = {"device", "threads", "torch_compile", "tune_thresholds"}


def test_every_field_has_a_case_that_shows_it_alive():
    assert set(SPECTROGRAM_CASES) == {f.name for f in fields(SpectrogramSettings)}
    assert set(AUGMENTATION_CASES) == {f.name for f in fields(AugmentationSettings)}
    assert set(TRAINING_CASES) | TRAINING_ELSEWHERE == {f.name for f in fields(TrainingSettings)}


def few_sounds(n=5):
    """Return clips of 0.08 s with an offset, so each is padded, and an unbalanced labelling."""
    rng = np.random.default_rng(0)
    t = np.arange(1280) / 16000
    waves = [
        np.sin(2 * np.pi * (300 + 500 * (i % 2)) * t) * 0.3
        + 0.02 * rng.standard_normal(len(t))
        + 0.05
        for i in range(n)
    ]
    targets = np.array([0, 1, 0, 1, 0][:n])
    return SoundExamples([w.astype(np.float32) for w in waves], targets)


@pytest.mark.parametrize("name", SPECTROGRAM_CASES)
def test_no_spectrogram_setting_is_dead(name):
    others, one, another = SPECTROGRAM_CASES[name]

    def features(value):
        spectrogram = SpectrogramSettings(**(SMALL | others | {name: value}))
        settings = resolve(Settings(spectrogram=spectrogram), few_sounds())
        log_mel = LogMel(settings.spectrogram)
        waveform, n_valid = few_sounds().batch(np.arange(2), settings, None)
        return log_mel.normalise(log_mel(waveform, n_valid), n_valid).numpy()

    before, after = features(one), features(another)
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-3
    assert np.array_equal(before, features(one))


def heard_in(folder):
    """Return a recording of white noise for the folder noise, and of a hum for any other."""
    rng = np.random.default_rng(0)
    hum = np.sin(np.arange(4000) / 20).astype(np.float32)
    wave = rng.standard_normal(4000).astype(np.float32) if folder == "noise" else hum
    return Backgrounds(torch.from_numpy(wave), np.array([0]), np.array([4000]))


@pytest.mark.parametrize("name", AUGMENTATION_CASES)
def test_no_augmentation_setting_is_dead(name):
    others, one, another = AUGMENTATION_CASES[name]

    def varied(value):
        settings = replace(AugmentationSettings.none(), **(others | {name: value}))
        rng = np.random.default_rng(3)
        spectrogram = SpectrogramSettings(**SMALL)
        log_mel = LogMel(spectrogram)
        waveform, n_valid = few_sounds().batch(np.arange(4), Settings(spectrogram), None)
        waveform, n_valid = apply_waveform(
            waveform,
            n_valid,
            draw_waveform(rng, settings, 4),
            sample_rate_hz=16000,
            backgrounds=heard_in(settings.background_folder),
        )
        draw = draw_spectrogram(rng, settings, 4)
        level = log_mel(waveform)
        frames = log_mel.valid_frames(n_valid)
        shares = mix_targets(torch.eye(4), draw, frames, level.shape[1:])
        level = apply_spectrogram(level, frames, draw)
        return np.concatenate([level.flatten(1).numpy(), shares.numpy()], axis=1)

    before, after = varied(one), varied(another)
    assert np.abs(before - after).max() > 1e-3
    assert np.array_equal(before, varied(one))


@pytest.mark.parametrize("name", TRAINING_CASES)
def test_no_training_setting_is_dead(name):
    others, one, another = TRAINING_CASES[name]

    def losses(value):
        fit = fine_tune(few_sounds(), few_sounds(), trained_with(**(others | {name: value})), "ab")
        return [row["validation_loss"] for row in fit.history] + [
            row["train_loss"] for row in fit.history
        ]

    assert losses(one) != losses(another)
    assert losses(one) == losses(one)


def trained_with(**values):
    """Return settings of a fit that takes a fraction of a second."""
    values = {"epochs": 2, "batch_size": 2, "threads": 1, "device": "cpu"} | values
    return Settings(SpectrogramSettings(**SMALL), training=TrainingSettings(**values))


def test_device_decides_where_the_network_is():
    settings = trained_with(device="cuda", epochs=1)
    if torch.cuda.is_available():
        fit = fine_tune(few_sounds(), few_sounds(), settings, "ab")
        assert fit.model.device.type == "cuda"
    else:
        with pytest.raises(SettingsError, match="device='cuda', but torch sees no GPU"):
            fine_tune(few_sounds(), few_sounds(), settings, "ab")
    with pytest.raises(SettingsError, match="device='toaster' is not one of"):
        fine_tune(few_sounds(), few_sounds(), trained_with(device="toaster"), "ab")


def test_a_window_without_a_frame_is_refused():
    dropped = {"clip_s": 0.2, "hop_length": 4000, "drop_last_frame": True}
    with pytest.raises(SettingsError, match=r"clip_s=0\.2 gives one frame at hop_length=4000, whi"):
        Settings().with_values(dropped)
    assert Settings().with_values(dropped | {"hop_length": 3200}).spectrogram.n_frames == 1
    with pytest.raises(SettingsError, match="leaves out; raise clip_s or lower hop_length"):
        replace(SpectrogramSettings(**dropped | {"clip_s": None}), clip_s=0.2)


@pytest.mark.parametrize("name", ["mps", "meta", "xpu", "", "cuda:-1", "cuda:x"])
def test_a_device_of_another_type_is_refused(name):
    with pytest.raises(SettingsError, match=f"device='{name}' is not one of auto, cpu, cuda, cuda"):
        choose_device(name)


def test_a_gpu_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda")
    with pytest.raises(SettingsError, match=r"device='cuda:2', but the last GPU .* is cuda:1"):
        choose_device("cuda:2")


def test_threads_decides_how_many_torch_uses():
    try:
        for threads in (2, 1):
            settings = trained_with(threads=threads, epochs=1)
            fine_tune(few_sounds(2), few_sounds(2), settings, "ab")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", [*SPECTROGRAM_CASES, *AUGMENTATION_CASES, *TRAINING_CASES])
def test_the_fingerprint_changes_with_every_field(name):
    others, one, another = (SPECTROGRAM_CASES | AUGMENTATION_CASES | TRAINING_CASES)[name]
    first = Settings().with_values(SMALL | others | {name: one})
    second = Settings().with_values(SMALL | others | {name: another})
    assert first.fingerprint() != second.fingerprint()


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "cpu"), ("threads", 1), ("torch_compile", True), ("tune_thresholds", True)],
)
def test_the_fingerprint_changes_with_what_changes_no_number(name, value):
    assert Settings().with_values({name: value}).fingerprint() != Settings().fingerprint()
