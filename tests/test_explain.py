"""Maps find evidence whose place is known, and add up."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from scipy.ndimage import uniform_filter

from audio.backbones import preset_for
from audio.classifier import SpectrogramClassifier
from audio.examples import SoundExamples
from audio.explain import (
    attention_map,
    eager_attention,
    explain,
    integrated_gradients,
    log_odds,
    rollout,
    spread,
)
from audio.explain_report import pictures_of
from audio.mel import mel_centres_hz
from audio.settings import Settings, SpectrogramSettings, TrainingSettings
from audio.train import fine_tune
from scripts import cli
from tests.conftest import randomise

RATE = 8000
SPECTROGRAM = SpectrogramSettings(
    RATE, clip_s=0.6, n_mels=32, n_fft=256, win_length=256, hop_length=80
)
BANDS_HZ = {"low": 700.0, "high": 2500.0}
LABELS = (*BANDS_HZ, "none")  # so that each tone needs evidence, not the other one's absence


def burst(label: str, at_s: float, seed: int) -> np.ndarray:
    """Return noise with a tone of 0.1 s in it: what tells the classes apart, and nothing else."""
    rng = np.random.default_rng(seed)
    out = 0.02 * rng.standard_normal(SPECTROGRAM.n_samples)
    if label == "none":
        return out.astype(np.float32)
    first, n = round(at_s * RATE), RATE // 10
    hz = BANDS_HZ[label] * rng.uniform(0.95, 1.05)
    out[first : first + n] += 0.2 * np.hanning(n) * np.sin(2 * np.pi * hz / RATE * np.arange(n))
    return out.astype(np.float32)


@pytest.fixture(scope="module")
def heard() -> SpectrogramClassifier:
    """Return a network that was trained to tell the two tones apart."""
    rng = np.random.default_rng(0)
    targets = np.arange(96) % 3
    waves = [burst(LABELS[t], rng.uniform(0.02, 0.48), i) for i, t in enumerate(targets)]
    training = TrainingSettings(epochs=20, batch_size=8, size="nano", threads=1, dropout=0.0)
    settings = Settings(SPECTROGRAM, training=training).with_values(
        {"frequency_mask_percent": 0, "time_mask_percent": 0, "gain_db": 0}
    )
    train = SoundExamples(waves, targets)
    fit = fine_tune(train, SoundExamples(waves[:9], targets[:9]), settings, LABELS)
    assert fit.history[-1]["validation_accuracy"] == 1
    return fit.model


def level_of(model, wave, n_valid=None):
    n_valid = torch.tensor([len(wave) if n_valid is None else n_valid])
    with torch.no_grad():
        return model.log_mel(torch.from_numpy(wave)[None], n_valid), n_valid


@pytest.mark.parametrize("label", list(BANDS_HZ))
@pytest.mark.parametrize("at_s", [0.05, 0.25, 0.45])
def test_the_evidence_is_where_the_tone_is(heard, label, at_s):
    found = explain(heard, *level_of(heard, burst(label, at_s, seed=100)))
    assert heard.labels[found.label] == label
    time_s = np.arange(found.level.shape[1]) * SPECTROGRAM.hop_length / RATE
    hz = mel_centres_hz(SPECTROGRAM)
    in_time = (time_s > at_s - 0.03) & (time_s < at_s + 0.13)
    in_band = (hz > 0.75 * BANDS_HZ[label]) & (hz < 1.3 * BANDS_HZ[label])
    box = in_band[:, None] & in_time
    assert box.mean() < 0.08
    for_it = np.maximum(found.evidence, 0)
    assert for_it[box].sum() / for_it.sum() > 1.8 * box.mean()  # 8 times for the low tone
    for kind in (for_it, uniform_filter(found.evidence, 5)):
        assert box[np.unravel_index(kind.argmax(), kind.shape)]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", ["whisper-scratch", "ast-scratch", "vit-scratch"])
def test_the_evidence_adds_up_to_the_log_odds(name, several):
    settings = Settings(SPECTROGRAM, training=TrainingSettings(backbone=name, size="nano"))
    model = SpectrogramClassifier.from_settings(settings, "abc", multi_label=several).eval()
    model.config.calibration_temperature = 0.5
    randomise(model.network)
    wave = burst("low", 0.2, 3)
    wave[3000:] = 0
    level, n_valid = level_of(model, wave, 3000)
    found = explain(model, level, n_valid, label=1)
    p = found.probabilities.astype(np.float64)
    assert several or p.sum() == pytest.approx(1)
    assert found.log_odds == pytest.approx(np.log(p[1] / (1 - p[1])), abs=1e-4)
    span = abs(found.log_odds - found.baseline_log_odds)
    assert span > 0.01
    assert abs(found.gap) < 0.02 * span + 1e-3
    assert not found.evidence[:, found.n_frames :].any()
    assert not found.attention[:, found.n_frames :].any()
    assert all(p.requires_grad for p in model.network.classifier.parameters())


def test_of_a_linear_network_the_evidence_is_weight_times_input(heard, rng, monkeypatch):
    """Sundararajan et al. (2017): there the integral is exact, with a single step."""
    weight = torch.from_numpy(rng.normal(0, 1, (32, 61)).astype(np.float32))

    def linear(features, n_valid=None):
        odds = (features * weight).sum((1, 2))
        return torch.stack([odds, torch.zeros_like(odds)], 1)  # two classes: the odds are linear

    monkeypatch.setattr(heard, "classify", linear)
    features = torch.from_numpy(rng.normal(0, 1, (1, 32, 61)).astype(np.float32))
    n_valid = torch.tensor([4800])
    evidence, ends = integrated_gradients(heard, features, n_valid, label=0, frames=61, steps=1)
    expected = (weight * (features - features.min()))[0].numpy()
    assert np.abs(evidence - expected).max() < 1e-4
    assert ends[0] == pytest.approx(float((features * weight).sum()), abs=1e-3)


def test_log_odds_are_of_the_probability():
    logits = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    p = torch.softmax(logits, 1)[0]
    for label in range(3):
        expected = torch.log(p[label] / (1 - p[label]))
        assert log_odds(logits, label)[0] == pytest.approx(float(expected))


# Attention


def test_rollout_is_the_product_of_layers_with_what_goes_past_them(rng):
    layers = [torch.from_numpy(rng.dirichlet(np.ones(5), (1, 3, 5))) for _ in range(4)]
    flow = rollout(layers)
    assert np.allclose(flow.sum(1), 1)
    paths = np.zeros((5, 5))  # by walking: from a token at the end back to the start
    for start in range(5):
        holds = {start: 1.0}
        for layer in reversed(layers):
            mean, nxt = layer[0].mean(0).numpy(), {}
            for token, share in holds.items():
                for other in range(5):
                    part = share * (0.5 * mean[token, other] + 0.5 * (token == other))
                    nxt[other] = nxt.get(other, 0.0) + part
            holds = nxt
        paths[start] = [holds[i] for i in range(5)]
    assert np.allclose(flow, paths)


def test_patches_are_spread_over_what_they_see():
    grid = np.array([[1.0, 0.0], [0.0, 2.0]])
    out = spread(grid, 16, (10, 10), (26, 26))
    assert out.sum() == pytest.approx(3)
    assert out[0, 0] == pytest.approx(1 / 256)
    assert out[25, 25] == pytest.approx(2 / 256)
    assert out[12, 12] == pytest.approx(3 / 256)  # both see it
    assert out[0, 20] == 0


def look_at_bright(network) -> None:
    """Set the weights so that every token attends to bright patches and nothing else moves."""
    width = network.config.hidden_size
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "layernorm" in name or "layer_norm" in name:
                continue
            weight.zero_()
            if name.endswith("projection.weight"):
                weight[0] = 1 / weight[0].numel()  # a token's first number is its mean brightness
                weight[1] = -1 / weight[0].numel()
            if re.search(r"(k_proj|key)\.weight$", name):
                for head in range(network.config.num_attention_heads):
                    weight[head * width // network.config.num_attention_heads, 0] = 4.0
            if re.search(r"(q_proj|query)\.bias$", name):
                weight.fill_(4.0)


@pytest.mark.parametrize("name", ["ast", "vit"])
def test_the_attention_is_on_the_patch_that_is_looked_at(name, checkpoints):
    backbone = checkpoints[name]
    spectrogram = replace(preset_for(backbone), clip_s=1.0, n_mels=64)
    settings = Settings(spectrogram, training=TrainingSettings(backbone=backbone))
    model = SpectrogramClassifier.from_settings(settings, "ab").eval()
    look_at_bright(model.network)
    features = torch.full((1, 64, spectrogram.n_frames), -1.0)
    # one whole patch of either grid: strides 16 and 10 meet at 32 to 48 only nearly
    low, first = (32, 48) if name == "vit" else (30, 50)
    features[0, low : low + 16, first : first + 16] = 5.0
    found = attention_map(model, features, spectrogram.n_frames)
    assert found.sum() == pytest.approx(1, abs=1e-4)
    peak = np.unravel_index(found.argmax(), found.shape)
    assert low <= peak[0] < low + 16
    assert first <= peak[1] < first + 16
    assert found[low : low + 16, first : first + 16].sum() > 0.4
    assert found[low - 16 : low + 32, first - 16 : first + 32].sum() > 0.9


def test_the_attention_of_weighted_layers_is_weighted_as_they_are(checkpoints):
    maps = []
    for kind in ("whisper-classifier", "whisper-layers", "whisper-layers"):
        backbone = checkpoints[kind]
        settings = Settings(
            replace(preset_for(backbone), clip_s=1.0), training=TrainingSettings(backbone=backbone)
        )
        model = SpectrogramClassifier.from_settings(settings, "ab").eval()
        if not maps:
            encoder = model.network.encoder.state_dict()
            features = torch.randn(1, 80, 100, generator=torch.Generator().manual_seed(0))
        else:
            model.network.encoder.load_state_dict(encoder)
            one = 2 if len(maps) == 1 else 0  # the last layer alone, or its input alone
            weights = torch.full((3,), -99.0)
            weights[one] = 99.0
            model.network.layer_weights.data = weights
        maps.append(attention_map(model, features, 100))
    assert np.allclose(maps[1], maps[0])
    assert not np.allclose(maps[2], maps[0])
    assert np.allclose(maps[2], 1 / maps[2].size)


def test_tokens_of_the_stem_are_where_their_frames_are(heard):
    """By gradient: the frames that a token sees have their middle in the frames it stands for."""
    network = heard.network
    features = torch.zeros(1, 32, SPECTROGRAM.n_frames, requires_grad=True)
    hidden = network.encoder.conv2(network.encoder.conv1(network.stem(features)))
    stride = network.stem.time_stride
    for token in range(2, hidden.shape[2] - 2, 3):
        (gradient,) = torch.autograd.grad(hidden[0, :, token].square().sum(), features,
                                          retain_graph=True)  # fmt: skip
        size = gradient[0].abs().sum(0).numpy()
        middle = (size * np.arange(len(size))).sum() / size.sum()
        assert token * stride - stride / 2 <= middle <= (token + 1) * stride + stride / 2


@pytest.mark.parametrize("name", ["whisper-classifier", "ast", "vit"])
def test_every_kind_of_network_gives_its_attention(name, checkpoints):
    backbone = checkpoints[name]
    spectrogram = replace(preset_for(backbone), clip_s=0.6)
    settings = Settings(spectrogram, training=TrainingSettings(backbone=backbone))
    model = SpectrogramClassifier.from_settings(settings, "ab").eval()
    before = model.network.config._attn_implementation
    wave = np.random.default_rng(0).normal(0, 0.1, spectrogram.n_samples).astype(np.float32)
    found = explain(model, *level_of(model, wave), steps=2)
    assert found.attention.shape == found.level.shape == found.evidence.shape
    assert found.attention.min() >= 0
    assert found.attention.sum() == pytest.approx(1, abs=1e-4)
    assert model.network.config._attn_implementation == before
    with eager_attention(model.network), torch.no_grad():
        eager = model(torch.from_numpy(wave)[None]).logits
    assert torch.allclose(eager, model(torch.from_numpy(wave)[None]).logits, atol=1e-4)


def test_mistakes_in_the_call_are_told(heard):
    level, n_valid = level_of(heard, burst("low", 0.1, 0))
    with pytest.raises(ValueError, match="steps=0"):
        explain(heard, level, n_valid, steps=0)
    with pytest.raises(ValueError, match="label=3 must be from 0 to 2"):
        explain(heard, level, n_valid, label=3)


# The command and the report


@pytest.fixture(scope="module")
def saved(heard, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heard")
    heard.save_pretrained(folder)
    return folder


def test_explain_writes_pictures_numbers_and_a_page(saved, tmp_path, capsys):
    clip, out = tmp_path / "clip & co.wav", tmp_path / "out"
    # 3.0 s of noise, the tone at 2.0 s: only its window says low
    rng = np.random.default_rng(1)
    wave = np.concatenate([0.02 * rng.standard_normal(RATE * 9 // 5), burst("low", 0.2, 5)])
    soundfile.write(clip, np.append(wave, 0.02 * rng.standard_normal(RATE * 3 // 5)), RATE)
    command = ["explain", str(saved), str(clip), "--out", str(out), "--threads", "1"]
    assert cli.main([*command, "--label", "low"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["label"] == "low"
    assert told["start_s"] == pytest.approx(1.8)
    assert 1.95 < told["evidence_time_s"] < 2.15
    with np.load(out / "maps.npz") as maps:
        assert maps["level"].shape == maps["evidence"].shape == maps["attention"].shape
        total = float(maps["evidence"].sum(dtype=float))
        assert maps["time_s"][0] == pytest.approx(1.8)
        assert len(maps["frequency_hz"]) == SPECTROGRAM.n_mels
    span = told["log_odds"] - told["silence_log_odds"]
    assert total == pytest.approx(span, abs=abs(told["gap"]) + 1e-3)
    assert abs(told["gap"]) < 0.02 * abs(span) + 0.01
    for name in ("spectrogram", "attention", "evidence"):
        with Image.open(out / f"{name}.png") as image:
            image.load()
            assert image.mode == "RGB"
            assert image.height >= 256
    page = (out / "explain.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "clip &amp; co.wav" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # nothing outside the file
    assert cli.main(command) == 1
    assert "is there already; give --overwrite" in capsys.readouterr().err


def test_low_frequencies_are_at_the_bottom_of_the_pictures(heard):
    found = explain(heard, *level_of(heard, burst("low", 0.2, 7)))
    with Image.open(io.BytesIO(pictures_of(found)["evidence"])) as image:
        pixels = np.asarray(image).astype(int)
    orange = np.maximum(pixels[..., 0] - pixels[..., 2], 0).sum(1)
    middle = (orange * np.arange(len(orange))).sum() / orange.sum()
    assert middle > 0.5 * len(orange)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--label", "middle"],
            "label='middle' is no class of the model; there are: low, high, none",
        ),
        (["--start-s", "99"], "start_s=99 must be from 0 to below 0.600"),
        (["--steps", "0"], "steps=0 must be from 1 to 4096"),
    ],
)
def test_mistakes_are_told(saved, arguments, words, tmp_path, capsys):
    clip = tmp_path / "x.wav"
    soundfile.write(clip, burst("low", 0.2, 0), RATE)
    out = tmp_path / "out"
    assert cli.main(["explain", str(saved), str(clip), "--out", str(out), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()
