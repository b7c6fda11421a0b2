"""Ranking scores against scikit-learn, calibration against slow sums and known temperatures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn import metrics as sk

from audio.calibration import (
    N_BINS,
    basic_interval,
    calibration_error,
    error_of_bins,
    fit_temperature,
    pooled_reliability,
    reliability,
    softened_loss,
)
from audio.calibration_report import reliability_section
from audio.classifier import SpectrogramClassifier
from audio.examples import PictureExamples, SoundExamples
from audio.metrics import evaluate
from audio.ranking import ranking_scores
from audio.settings import Settings, SpectrogramSettings, TrainingSettings
from audio.temperature import calibrate as calibrate_logits


@st.composite
def ranked(draw):
    """Return probabilities with many ties, and targets; some classes never occur."""
    k, n = draw(st.integers(2, 5)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    scores = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), (n, k)) + 0.0
    return softmax(scores / 3, axis=1).astype(np.float32), rng.integers(0, k, n), k


def sklearn_macro(p, targets, k, weight=None):
    """Return mAP and macro AUC over the classes that can be ranked, by scikit-learn."""
    precision, area = [], []
    for c in range(k):
        true = targets == c
        w = np.ones(len(true)) if weight is None else weight
        if not (w[true].sum() > 0 and w[~true].sum() > 0):
            continue
        precision.append(sk.average_precision_score(true, p[:, c], sample_weight=w))
        area.append(sk.roc_auc_score(true, p[:, c], sample_weight=w))
    return (np.mean(precision), np.mean(area)) if precision else (np.nan, np.nan)


@given(ranked())
@hypothesis_settings(max_examples=150)
def test_ranking_scores_are_scikit_learns(found):
    p, targets, k = found
    got = ranking_scores(p, np.arange(k) == targets[:, None])
    assert np.concatenate(got) == pytest.approx(sklearn_macro(p, targets, k), nan_ok=True)


@given(ranked())
@hypothesis_settings(max_examples=50)
def test_every_weighting_is_scored_as_scikit_learn_scores_it(found):
    p, targets, k = found
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(p), np.full(len(p), 1 / len(p)), 4).astype(float)
    got = np.stack(ranking_scores(p, np.arange(k) == targets[:, None], weights))
    for i, weight in enumerate(weights):
        expected = sklearn_macro(p, targets, k, weight)
        assert got[:, i] == pytest.approx(expected, nan_ok=True)


def test_balanced_clips_give_scikit_learns_own_macro_figures(rng):
    targets = np.repeat(np.arange(4), 25)
    p = softmax(rng.normal(0, 1, (100, 4)) + 1.5 * np.eye(4)[targets], axis=1).astype(np.float32)
    p /= p.sum(1, keepdims=True)
    told = evaluate(p, targets, "abcd")
    expected = sk.roc_auc_score(targets, p.astype(float) / p.astype(float).sum(1, keepdims=True),
                                multi_class="ovr", average="macro")  # fmt: skip
    assert told["roc_auc"]["value"] == pytest.approx(expected)
    expected = sk.average_precision_score(np.eye(4)[targets], p, average="macro")
    assert told["mean_average_precision"]["value"] == pytest.approx(expected)


def slow_error(p, targets):
    """Return the calibration error clip by clip and bin by bin, as Guo et al. (2017) write it."""
    total = 0.0
    for m in range(1, N_BINS + 1):
        low, high = (m - 1) / N_BINS, m / N_BINS
        inside = [i for i in range(len(p)) if low < float(p[i].max()) <= high]
        if inside:
            accuracy = sum(int(p[i].argmax()) == targets[i] for i in inside) / len(inside)
            confidence = sum(float(p[i].max()) for i in inside) / len(inside)
            total += len(inside) / len(p) * abs(accuracy - confidence)
    return total


@given(ranked())
@hypothesis_settings(max_examples=100)
def test_the_calibration_error_is_guos_sum(found):
    p, targets, _ = found
    assert calibration_error(p, targets)[0] == pytest.approx(slow_error(p, targets), abs=1e-6)
    bins = reliability(p, targets)
    assert sum(b["n"] for b in bins) == len(p)
    assert error_of_bins(bins) == pytest.approx(slow_error(p, targets), abs=1e-6)


@given(ranked(), st.data())
@hypothesis_settings(max_examples=50)
def test_bins_of_parts_are_pooled_to_those_of_all(found, data):
    p, targets, _ = found
    at = data.draw(st.integers(0, len(p)))
    parts = [reliability(p[:at], targets[:at]), reliability(p[at:], targets[at:])]
    pooled, whole = pooled_reliability(parts), reliability(p, targets)
    assert [b["n"] for b in pooled] == [b["n"] for b in whole]
    for mine, theirs in zip(pooled, whole, strict=True):
        assert mine == pytest.approx(theirs)


def test_weighted_units_are_repeated_clips(rng):
    p = softmax(rng.normal(0, 2, (30, 3)), axis=1).astype(np.float32)
    targets, units = rng.integers(0, 3, 30), np.repeat(np.arange(6), 5)
    weights = np.array([[2.0, 0, 1, 0, 3, 0]])
    times = weights[0][units].astype(int)
    expected = slow_error(np.repeat(p, times, 0), np.repeat(targets, times))
    assert calibration_error(p, targets, units, weights)[0] == pytest.approx(expected, abs=1e-6)


def told_by(temperature, n, seed, k=5, windows=1):
    """Return logits, owner and targets of which `temperature` is the right one."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, k))
    targets = np.array([rng.choice(k, p=row) for row in softmax(z, axis=1)])
    logits = np.repeat(z * temperature, windows, 0).astype(np.float32)
    return logits, np.repeat(np.arange(n), windows), targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("windows", [1, 3])
def test_a_known_temperature_is_found(temperature, windows):
    logits, owner, targets = told_by(temperature, 4000, seed=1, windows=windows)
    assert fit_temperature(logits, owner, targets) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_temperature_has_less_loss(seed, rng):
    logits, _, targets = told_by(2.0, 60, seed)
    more = rng.normal(0, 2, (60, 5)).astype(np.float32)
    logits, owner = np.concatenate([logits, more]), np.tile(np.arange(60), 2)
    found = fit_temperature(logits, owner, targets)
    least = min(softened_loss(logits, owner, targets, t) for t in np.geomspace(0.05, 20, 2000))
    assert softened_loss(logits, owner, targets, found) <= least + 1e-6


def test_the_loss_is_the_cross_entropy_where_clips_are_many():
    logits, owner, targets = told_by(1.5, 20_000, 3)
    expected = -log_softmax(logits.astype(float) / 1.5, axis=1)[np.arange(20_000), targets].mean()
    assert softened_loss(logits, owner, targets, 1.5) == pytest.approx(expected, abs=2e-3)


def test_a_network_that_is_always_right_is_not_made_infinitely_sure():
    logits = 4 * np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    found = fit_temperature(logits, np.arange(30), np.arange(30) % 3)
    confidence = softmax(logits / found, axis=1).max()
    assert confidence == pytest.approx(31 / 33, abs=1e-3)  # Platt: (n + 1) / (n + k)


def test_the_interval_of_the_calibration_error_holds_the_truth():
    """100 experiments of 150 clips of a network that is too sure; 86 or fewer of a true 94 % would
    come once in 500 times. The percentile interval holds it 62 times."""
    logits, _, targets = told_by(1.5, 30_000, seed=1000)
    truth = calibration_error(softmax(logits, axis=1), targets)[0]
    assert 0.09 < truth < 0.11
    holds = 0
    for seed in range(100):
        logits, owner, targets = told_by(1.5, 150, seed)
        p = softmax(logits, axis=1)
        weights = np.random.default_rng(seed).multinomial(150, np.full(150, 1 / 150), 1000)
        resampled = calibration_error(p, targets, owner, weights.astype(float))
        low, high = basic_interval(calibration_error(p, targets)[0], resampled)
        holds += low <= truth <= high
    assert holds > 86


def test_the_basic_interval_is_turned_round_the_value():
    resampled = np.linspace(0.1, 0.3, 1001)
    low, high = basic_interval(0.15, resampled)
    assert (low, high) == pytest.approx((max(0, 0.3 - 0.295), 0.3 - 0.105))


# The model


SETTINGS = Settings(
    SpectrogramSettings(8000, clip_s=0.2, n_mels=16, n_fft=256, win_length=256),
    training=TrainingSettings(backbone="vit-scratch", size="nano"),
)


@pytest.fixture
def model() -> SpectrogramClassifier:
    made = SpectrogramClassifier.from_settings(SETTINGS, "abc").eval()
    with torch.no_grad():
        made.network.classifier.weight.mul_(30)
    return made


@pytest.fixture
def clips(rng) -> SoundExamples:
    waves = [
        (10 ** rng.uniform(-3, -1) * rng.standard_normal(n)).astype(np.float32)
        for n in rng.integers(500, 4000, 40)
    ]
    return SoundExamples(waves, rng.integers(0, 3, 40))


def calibrate(model, examples) -> float:
    """Calibrate a model on examples, as a fit does; anew where it was calibrated."""
    model.config.calibration_temperature = 1.0
    return calibrate_logits(model, *examples.window_logits(model), examples.targets)


def test_window_logits_are_those_of_predict(model, clips):
    logits, owner = clips.window_logits(model)
    assert len(logits) > len(clips.targets)  # some have two windows and more
    mean = np.stack([softmax(logits[owner == i], axis=1).mean(0) for i in range(40)])
    assert np.abs(mean - clips.probabilities(model)).max() < 1e-5


def test_pictures_have_a_window_each(model, rng):
    pixels = rng.integers(0, 256, (7, 16, 11)).astype(np.uint8)
    low, high = np.full(7, -80, np.float32), np.zeros(7, np.float32)
    pictures = PictureExamples(pixels, low, high, np.full(7, 1600), rng.integers(0, 3, 7))
    logits, owner = pictures.window_logits(model)
    assert list(owner) == list(range(7))
    assert np.abs(softmax(logits, axis=1) - pictures.probabilities(model)).max() < 1e-5


def test_calibrating_lowers_the_loss_and_is_part_of_the_saved_model(model, clips, tmp_path):
    before = clips.probabilities(model)
    temperature = calibrate(model, clips)
    assert temperature > 2  # random targets: much less sure is right
    after = clips.probabilities(model)

    def loss(p):
        return -np.log(p[np.arange(40), clips.targets]).mean()

    assert loss(after) < loss(before)
    assert calibrate(model, clips) == pytest.approx(temperature)  # anew, not on top
    model.save_pretrained(tmp_path)
    loaded = SpectrogramClassifier.load(tmp_path)
    assert loaded.config.calibration_temperature == temperature
    assert np.abs(loaded.predict(clips.waveforms) - after).max() < 1e-6
    wave = torch.from_numpy(clips.waveforms[0][None, :1600])
    with torch.inference_mode():
        sharp = loaded(wave).logits * temperature
        loaded.config.calibration_temperature = 1.0
        assert torch.allclose(loaded(wave).logits, sharp, atol=1e-5)


def test_without_validation_clips_the_temperature_is_one(model):
    assert calibrate(model, SoundExamples([], np.zeros(0, np.int64))) == 1


def test_the_section_says_what_was_measured():
    logits, _, targets = told_by(3.0, 400, 5)
    before = evaluate(softmax(logits, axis=1), targets, "abcde")
    after = evaluate(softmax(logits / 3, axis=1), targets, "abcde")
    assert after["calibration_error"]["value"] < before["calibration_error"]["value"] / 2
    section = reliability_section(before, after, temperatures=[3.0], split="test")
    for scores in (before, after):
        assert f"{scores['calibration_error']['value']:.3f}" in section.body
        for b in scores["reliability"]:
            assert f"accuracy {b['accuracy']:.3f}" in section.body
    assert "The temperature 3 " in section.lead
    of_folds = reliability_section(before, after, temperatures=[3.0, 0.5, 2.0], split="pooled")
    assert "Each fold's temperature (0.5 to 3) " in of_folds.lead
    json.dumps(after)
