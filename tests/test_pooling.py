"""Pooling against loops over clips, and what a model of an earlier version is read as."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from audio.classifier import SpectrogramClassifier
from audio.pooling import MEAN, MEAN_MAX, own_tokens, pool
from audio.settings import Settings, SpectrogramSettings


@pytest.mark.parametrize("pooling", [MEAN, MEAN_MAX])
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 2**31))
def test_each_clip_s_own_tokens_are_pooled(pooling, lengths, seed):
    x = np.random.default_rng(seed).normal(0, 3, (len(lengths), 7, 4)).astype(np.float32)
    found = pool(torch.from_numpy(x), torch.tensor(lengths), pooling).numpy()
    for row, n, mine in zip(x, lengths, found, strict=True):
        mean = row[:n].mean(0)
        expected = mean if pooling == MEAN else np.concatenate([mean, row[:n].max(0)])
        np.testing.assert_allclose(mine, expected, atol=1e-5)
    everything = pool(torch.from_numpy(x), None, pooling)
    full = pool(torch.from_numpy(x), torch.full((len(x),), 7), pooling)
    torch.testing.assert_close(everything, full)


def test_tokens_past_a_clip_s_end_get_no_gradient():
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pool(x, torch.tensor([2, 5]), MEAN_MAX).sum().backward()
    assert (x.grad[0, 2:] == 0).all()
    assert x.grad[0, :2].abs().min() > 0
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(x.grad.sum(1), torch.full((2, 3), 2.0))  # the mean's and the max's


def test_a_token_that_has_one_frame_of_the_clip_is_its_own():
    frames = torch.tensor([0, 1, 4, 5, 99])
    assert own_tokens(frames, 10, 4).tolist() == [1, 1, 1, 2, 10]


def test_a_model_saved_before_there_was_a_choice_pools_by_the_mean(tmp_path):
    settings = Settings(spectrogram=SpectrogramSettings(clip_s=0.5, n_mels=16))
    model = SpectrogramClassifier.from_settings(settings, ("a", "b")).eval()
    sound = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)) / 9
    model.save_pretrained(tmp_path)
    assert SpectrogramClassifier.load(tmp_path).network.pooling == MEAN_MAX
    config = json.loads((tmp_path / "config.json").read_text())
    del config["network"]["pooling"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    weights["network.projector.weight"] = weights["network.projector.weight"][:, :128].clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    earlier = SpectrogramClassifier.load(tmp_path)
    assert earlier.network.pooling == MEAN
    with torch.no_grad():
        hidden = earlier.network.encoder(
            earlier.network.stem(earlier.log_mel.normalise(earlier.log_mel(sound), None))
        ).last_hidden_state
        expected = earlier.network.classifier(earlier.network.projector(hidden.mean(1)))
        torch.testing.assert_close(earlier(sound).logits, expected, atol=1e-5, rtol=1e-5)
        assert (earlier(sound).logits - model(sound).logits).abs().max() > 1e-4
