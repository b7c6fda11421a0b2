"""Kept levels are the levels of the one forward path, bounded, and change no number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from audio import levels
from audio.classifier import SpectrogramClassifier
from audio.examples import SoundExamples
from audio.levels import LevelCache, Levels, gather, leaves_waveforms, levels_only
from audio.settings import AugmentationSettings, Settings, SpectrogramSettings
from audio.train import fine_tune
from tests.conftest import randomise

RATE = 8000
#: No augmentation of the waveform.
STILL = {"gain_db": 0.0, "shift_percent": 0.0, "speed_percent": 0.0, "filter_db": 0.0}
SMALL = {"sample_rate_hz": RATE, "clip_s": 0.2, "n_fft": 256, "win_length": 256}
SMALL |= {"hop_length": 128, "n_mels": 16, "epochs": 3, "batch_size": 8, "threads": 1}
SMALL |= {"device": "cpu"}
LABELS = ("low", "middle", "high")


def settings(**values: object) -> Settings:
    return Settings().with_values(SMALL | values)


def tones(n: int = 150, seed: int = 0) -> SoundExamples:
    """Return noisy tones of three pitches; some are shorter, some up to three windows long."""
    rng = np.random.default_rng(seed)
    waves = []
    for i in range(n):
        t = np.arange(round(0.2 * RATE * rng.choice([0.5, 0.8, 1.0, 1.2, 2.9]))) / RATE
        wave = 0.3 * np.sin(2 * np.pi * (400, 1000, 2500)[i % 3] * t)
        waves.append((wave + 0.02 * rng.standard_normal(len(t))).astype(np.float32))
    return SoundExamples(waves, np.arange(n) % 3)


def model_of(wanted: Settings) -> SpectrogramClassifier:
    model = SpectrogramClassifier.from_settings(wanted, LABELS).eval()
    randomise(model.network, 0)
    return model


def told(fit) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in fit.history]


def some(n: int) -> Levels:
    return Levels(torch.zeros(n, 4, 5), torch.ones(n, dtype=torch.int64), np.zeros(n, np.int64))


def test_the_cache_forgets_what_was_used_longest_ago_and_stays_within_its_bytes():
    cache = LevelCache(most_bytes=3 * some(2).n_bytes)
    for key in "abc":
        cache.get(key, lambda: some(2))
    kept = cache.get("a", lambda: pytest.fail("a is kept"))
    cache.get("d", lambda: some(2))
    assert cache.get("a", lambda: pytest.fail("a was used after b")) is kept
    cache.get("c", lambda: pytest.fail("c was made after b"))
    made = []
    cache.get("b", lambda: made.append(1) or some(2))
    assert made
    assert len(cache) == 3
    assert cache.n_bytes <= cache.most_bytes
    assert len(cache.get("large", lambda: some(7)).owner) == 7  # given, not kept
    assert len(cache) == 3


def test_batches_are_gathered_in_order():
    parts = [(torch.full((2, 3, 4), 1.0), torch.tensor([5, 6])), (torch.ones(1, 3, 4) * 2,) * 2]
    parts[1] = (parts[1][0], torch.tensor([7]))
    made = gather(parts, np.array([0, 0, 1]))
    assert made.level[:, 0, 0].tolist() == [1, 1, 2]
    assert made.n_valid.tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match="no windows"):
        gather([], np.zeros(0, np.int64))


@pytest.mark.parametrize("padding", ["zeros", "repeat"])
@pytest.mark.parametrize("normalisation", ["active", "clip", "band", "none"])
def test_scores_from_kept_levels_are_those_of_predict(padding, normalisation):
    examples = tones()
    model = model_of(settings(padding=padding, normalisation=normalisation))
    direct = model.predict(examples.waveforms, batch_size=64)
    for _ in range(2):  # made, then kept
        assert np.array_equal(examples.probabilities(model), direct)
    assert len(examples.cache) == 1
    examples.cache.most_bytes = 1  # and where there is no room
    assert np.array_equal(examples.probabilities(model), direct)


def test_levels_of_other_settings_are_told_apart_and_those_of_other_normalisation_shared():
    examples = tones(20)
    for n_mels in (16, 20):
        for normalisation in ("active", "clip", "band", "none"):
            model = model_of(settings(n_mels=n_mels, normalisation=normalisation))
            assert np.array_equal(
                examples.probabilities(model), model.predict(examples.waveforms, batch_size=64)
            )
    assert len(examples.cache) == 2


def test_other_clips_have_other_levels():
    examples = tones(20)
    model = model_of(settings())
    examples.probabilities(model)
    other = replace(examples, waveforms=tones(20, seed=1).waveforms)
    assert np.array_equal(other.probabilities(model), model.predict(other.waveforms, batch_size=64))


@pytest.mark.parametrize("padding", ["zeros", "repeat"])
def test_training_levels_are_those_of_the_forward_path(padding):
    examples = tones()
    wanted = settings(padding=padding, **STILL)
    model = model_of(wanted)
    rows = np.random.default_rng(1).permutation(150)[:40]
    one, two = np.random.default_rng(2), np.random.default_rng(2)
    level, n_valid = examples.levels(rows, model, one)
    examples.cache.most_bytes = 1
    direct, n_direct = examples.levels(rows, model, two)
    assert any(len(examples.waveforms[row]) > model.settings.spectrogram.n_samples for row in rows)
    torch.testing.assert_close(level, direct, atol=1e-5, rtol=1e-6)
    assert torch.equal(n_valid, n_direct)
    assert one.random() == two.random()  # as much was drawn


@pytest.mark.parametrize("normalisation", ["active", "clip", "dataset"])
@pytest.mark.parametrize("augmentation", [STILL, {}])
def test_a_fit_gives_the_same_numbers_after_other_fits_to_the_same_clips(
    normalisation, augmentation
):
    wanted = settings(normalisation=normalisation, **augmentation)
    fresh = fine_tune(tones(48), tones(12, seed=1), wanted, LABELS)
    train, validation = tones(48), tones(12, seed=1)
    fine_tune(train, validation, settings(n_mels=20, normalisation="band", **STILL), LABELS)
    fine_tune(train, validation, settings(normalisation="band", epochs=1, **STILL), LABELS)
    again = fine_tune(train, validation, wanted, LABELS)
    assert told(again) == told(fresh)
    assert again.model.settings == fresh.model.settings
    train.cache.most_bytes = validation.cache.most_bytes = 1
    uncached = fine_tune(train, validation, wanted, LABELS)
    for mine, theirs in zip(told(uncached), told(fresh), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_validation_levels_are_computed_once(monkeypatch):
    train, validation = tones(24), tones(12, seed=1)
    asked = []
    whole = SoundExamples.windows
    monkeypatch.setattr(
        SoundExamples, "windows", lambda self, model: asked.append(whole(self, model)) or asked[-1]
    )
    fine_tune(train, validation, settings(), LABELS)
    assert len(asked) == 3
    assert all(levels is asked[0] for levels in asked)


@pytest.mark.parametrize(
    "name",
    ["gain_db", "shift_percent", "speed_percent", "noise_percent", "filter_db", "pitch_semitones",
     "polarity_percent", "low_pass_percent", "high_pass_percent", "reverb_percent",
     "background_percent", "other_clip_percent"],
)  # fmt: skip
def test_whatever_touches_a_waveform_is_computed_anew(name):
    still = replace(AugmentationSettings(), **STILL)
    assert leaves_waveforms(still)
    assert not leaves_waveforms(replace(still, background_folder="noise", **{name: 5.0}))


def test_whatever_is_left_varies_pictures_alone():
    """A new setting is of one kind or the other; cut-offs and the like belong to their switch."""
    of_waveforms = set(levels._OF_WAVEFORMS)
    of_pictures = {"frequency_mask_percent", "time_mask_percent", "mixup_percent"}
    of_pictures |= {"time_warp_percent", "erase_percent", "cutmix_percent"}
    of_switches = {"noise_snr_db", "low_pass_hz", "high_pass_hz", "reverb_s"}
    of_switches |= {"background_folder", "background_snr_db"}
    assert of_waveforms | of_pictures | of_switches == set(AugmentationSettings().to_json())


def test_only_normalisation_is_left_out_of_what_levels_depend_on():
    one = SpectrogramSettings(normalisation="dataset", mean_db=-30.0, std_db=10.0)
    assert levels_only(one) == levels_only(SpectrogramSettings(normalisation="band"))
    assert levels_only(one) != levels_only(replace(one, top_db=60.0))
