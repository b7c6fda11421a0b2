"""The saved model: one forward, whole clips, and folders that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from audio.classifier import ModelError, SpectrogramClassifier
from audio.model_config import FORMAT
from audio.settings import Settings, SettingsError, SpectrogramSettings, TrainingSettings
from audio.spectrogram import LogMel

SETTINGS = Settings(
    SpectrogramSettings(clip_s=0.2, n_mels=16), training=TrainingSettings(backbone="vit-scratch")
)


@pytest.fixture(scope="module")
def model() -> SpectrogramClassifier:
    return SpectrogramClassifier.from_settings(SETTINGS, ("low", "mid", "high")).eval()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


def sound(n, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


def test_the_forward_is_log_mel_then_normalise_then_network(model):
    wave = torch.from_numpy(np.stack([sound(3200), sound(3200, 1)]))
    log_mel = LogMel(SETTINGS.spectrogram)
    features = log_mel.normalise(log_mel(wave))
    assert torch.allclose(model.classify(features), model(wave).logits, atol=1e-5)


def test_labels_are_in_the_order_of_the_logits(model, saved):
    assert model.labels == ("low", "mid", "high")
    assert SpectrogramClassifier.load(saved).labels == ("low", "mid", "high")
    assert json.loads((saved / "config.json").read_text())["id2label"]["1"] == "mid"


def test_more_than_ten_labels_stay_in_order(tmp_path):
    names = [f"label {i}" for i in range(23)]
    SpectrogramClassifier.from_settings(SETTINGS, names).save_pretrained(tmp_path)
    assert SpectrogramClassifier.load(tmp_path).labels == tuple(names)


def test_the_saved_folder_carries_the_settings(saved):
    assert SpectrogramClassifier.load(saved).settings == SETTINGS


def test_nothing_is_pickled(saved):
    names = {path.name for path in saved.iterdir()}
    assert names >= {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {Path(name).suffix for name in names} == {".json", ".safetensors", ".py"}


def test_a_loaded_model_is_ready_to_predict(saved):
    assert not SpectrogramClassifier.load(saved).training


# Whole clips


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_prediction_does_not_depend_on_the_batch_or_the_other_clips(model, batch_size):
    clips = [sound(n, seed=n) for n in (3200, 1000, 9000, 3201, 400)]
    together = model.predict(clips, batch_size=batch_size)
    for clip, row in zip(clips, together, strict=True):
        assert np.abs(model.predict([clip])[0] - row).max() < 1e-5


def test_probabilities_are_softmaxed_logits_that_sum_to_one(model):
    clip = sound(3200)
    found = model.predict([clip])
    assert found.dtype == np.float32
    logits = model(torch.from_numpy(clip)[None]).logits.detach().double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum()
    assert np.abs(found - expected).max() < 1e-5
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_a_long_clip_gets_the_mean_over_windows_that_cover_it(model):
    clip = sound(8000)
    pieces = [clip[:3200], clip[3200:6400], clip[4800:]]  # by hand: the last flush with the end
    assert np.abs(model.predict([clip])[0] - model.predict(pieces).mean(0)).max() < 1e-5


def test_a_short_clip_is_padded_and_its_padding_left_out(model):
    ((fitted, n_valid),) = model.windows(sound(1000))
    assert (len(fitted), n_valid) == (3200, 1000)
    assert not fitted[1000:].any()


def test_a_repeated_clip_is_all_its_own():
    spectrogram = SpectrogramSettings(clip_s=0.2, n_mels=16, padding="repeat")
    model = SpectrogramClassifier.from_settings(Settings(spectrogram), "ab")
    ((fitted, n_valid),) = model.windows(sound(1000))
    assert n_valid == 3200
    assert np.array_equal(fitted[1000:2000], fitted[:1000])


def test_no_clips_give_no_rows(model):
    assert model.predict([]).shape == (0, 3)


def test_predicting_leaves_no_gradient_and_no_dropout_behind(model):
    model.train()
    one, again = (model.predict([sound(3200)]) for _ in range(2))
    assert np.array_equal(one, again)
    assert all(p.grad is None for p in model.parameters())


def test_settings_without_a_window_cannot_make_a_model():
    with pytest.raises(SettingsError, match="clip_s is not known yet"):
        SpectrogramClassifier.from_settings(Settings(), "ab")


# Folders that cannot be used


def copy(saved, folder, *, weights=True, **config):
    told = json.loads((saved / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(told))
    if weights:
        (folder / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    return folder


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json.*finetune"):
        SpectrogramClassifier.load(tmp_path)
    with pytest.raises(ModelError, match=r"no config\.json"):
        SpectrogramClassifier.load(tmp_path / "gone")


def test_a_broken_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        SpectrogramClassifier.load(tmp_path)


def test_a_foreign_model_is_refused_by_its_type(saved, tmp_path):
    with pytest.raises(ModelError, match=r"type 'whisper', not melbandit's; .*--backbone"):
        SpectrogramClassifier.load(copy(saved, tmp_path, model_type="whisper"))


def test_a_newer_format_is_refused(saved, tmp_path):
    with pytest.raises(ModelError, match="newer melbandit; upgrade"):
        SpectrogramClassifier.load(copy(saved, tmp_path, melbandit_format=FORMAT + 1))


def test_missing_weights_are_refused(saved, tmp_path):
    with pytest.raises(ModelError, match=r"model\.safetensors is missing; copy the whole folder"):
        SpectrogramClassifier.load(copy(saved, tmp_path, weights=False))


def test_cut_weights_are_refused(saved, tmp_path):
    copy(saved, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        SpectrogramClassifier.load(tmp_path)


def test_weights_that_lack_a_tensor_are_refused_not_drawn_at_random(saved, tmp_path):
    copy(saved, tmp_path)
    tensors = load_file(saved / "model.safetensors")
    tensors.pop("network.classifier.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"network\.classifier\.weight"):
        SpectrogramClassifier.load(tmp_path)


def test_a_setting_of_a_newer_version_is_refused(saved, tmp_path):
    settings = SETTINGS.to_json()
    settings["spectrogram"]["colour"] = 1
    with pytest.raises(SettingsError, match="no field colour"):
        SpectrogramClassifier.load(copy(saved, tmp_path, settings=settings))
