"""The loop: it learns, it resumes to the same numbers, and every setting means what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from audio.backbones import head_parameters
from audio.balance import make_balance
from audio.classifier import SpectrogramClassifier
from audio.examples import PictureExamples, SoundExamples, resolve
from audio.images import level_range, to_pixels
from audio.optimisation import learning_rate
from audio.settings import AugmentationSettings, Settings, SettingsError
from audio.spectrogram import LogMel
from audio.train import _loss, _varied, fine_tune, score

RATE = 8000
SMALL = {"sample_rate_hz": RATE, "clip_s": 0.2, "n_fft": 256, "win_length": 256}
SMALL |= {"hop_length": 128, "n_mels": 16, "epochs": 3, "batch_size": 8, "threads": 1}
SMALL |= {"device": "cpu"}
LABELS = ("low", "middle", "high")


def tones(n=24, seed=0, seconds=0.2, classes=3):
    """Return noisy tones around 400, 1000 and 2500 Hz, some shorter than a window."""
    rng = np.random.default_rng(seed)
    waves = []
    for i in range(n):
        length = round(seconds * RATE * rng.uniform(0.6, 1.3))
        hz = (400, 1000, 2500)[i % classes] * rng.uniform(0.9, 1.1)
        wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(length) / RATE)
        waves.append((wave + 0.02 * rng.standard_normal(length)).astype(np.float32))
    return SoundExamples(waves, np.arange(n) % classes)


def settings(**values):
    return Settings().with_values(SMALL | values)


def told(fit):
    """Return the learning curve without what the clock says."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in fit.history]


def weights(fit):
    return {name: w.clone() for name, w in fit.model.state_dict().items()}


# It learns


@pytest.mark.parametrize("backbone", ["whisper-scratch", "ast-scratch", "vit-scratch"])
def test_tones_are_told_apart_after_a_few_epochs(backbone):
    fit = fine_tune(tones(60), tones(30, seed=1), settings(epochs=8, backbone=backbone), LABELS)
    assert fit.history[-1]["train_loss"] < 0.7 * fit.history[0]["train_loss"]
    assert fit.history[-1]["validation_accuracy"] > 0.9
    assert not fit.stopped
    assert not fit.model.training


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_batch_with_one_value_a_channel_is_normalised_by_the_running_statistics(batch_size):
    """One clip of four frames, alone or the last of 13, is one cell after the convolutions."""
    wanted = settings(
        clip_s=0.03, hop_length=80, n_mels=8, n_fft=128, win_length=128, batch_size=batch_size
    )
    fit = fine_tune(tones(13), tones(9), wanted, LABELS)
    assert all(math.isfinite(row["train_loss"]) for row in fit.history)
    stem = [m for m in fit.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    maps = torch.randn(1, stem[-1].num_features, 1, 1, generator=torch.Generator().manual_seed(0))
    moved = [not torch.equal(m.running_mean, torch.zeros_like(m.running_mean)) for m in stem]
    assert moved == [True, True, batch_size > 1]
    with torch.no_grad():
        assert torch.equal(stem[-1].train()(maps), stem[-1].eval()(maps))


def test_the_history_holds_what_scoring_the_model_gives():
    fit = fine_tune(tones(), tones(9, seed=1), settings(), LABELS)
    assert [row["epoch"] for row in fit.history] == [1, 2, 3]
    scored = score(fit.model, tones(9, seed=1))
    assert scored["accuracy"] == fit.history[-1]["validation_accuracy"]
    assert scored["macro_f1"] == fit.history[-1]["validation_macro_f1"]
    probabilities = fit.model.predict(tones(9, seed=1).waveforms)
    expected = -np.log(probabilities[np.arange(9), np.arange(9) % 3]).mean()
    assert fit.history[-1]["validation_loss"] == pytest.approx(expected, rel=1e-4)


def test_a_fit_is_repeated_by_its_seed_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = fine_tune(tones(), tones(9), settings(dropout=0.3), LABELS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again = fine_tune(tones(), tones(9), settings(dropout=0.3), LABELS)
    assert told(one) == told(again)


def test_each_epoch_is_told_as_it_ends():
    rows = []
    fit = fine_tune(tones(), tones(9), settings(), LABELS, on_epoch=rows.append)
    assert tuple(rows) == fit.history


def test_scoring_on_the_way_changes_nothing_and_can_be_left_out():
    whole = fine_tune(tones(), tones(9), settings(epochs=4, dropout=0.3), LABELS)
    asked = []
    sparse = fine_tune(
        tones(), tones(9), settings(epochs=4, dropout=0.3), LABELS,
        wants_scores=lambda: asked.append(0) or len(asked) == 2,
    )  # fmt: skip
    assert len(asked) == 3  # the last epoch is scored anyway
    assert ["validation_loss" in row for row in sparse.history] == [False, True, False, True]
    for row, full in zip(told(sparse), told(whole), strict=True):
        assert row == {key: full[key] for key in row}
    patient = fine_tune(
        tones(), tones(9), settings(epochs=3, patience=2), LABELS, wants_scores=lambda: False
    )
    assert all("validation_macro_f1" in row for row in patient.history)


# Kill and resume

LIVELY = {"dropout": 0.2, "mixup_percent": 50.0, "noise_percent": 50.0, "speed_percent": 10.0}


@pytest.mark.parametrize("backbone", ["whisper-scratch", "vit-scratch"])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 8, 11])
def test_a_fit_that_was_killed_goes_on_to_the_same_numbers(tmp_path, backbone, steps):
    """24 clips in batches of 8: three steps an epoch; some kills fall within an epoch."""
    wanted = settings(epochs=4, backbone=backbone, **LIVELY)
    whole = fine_tune(tones(), tones(9), wanted, LABELS)
    path = tmp_path / "checkpoint.safetensors"
    asked = iter(range(100))
    killed = fine_tune(
        tones(), tones(9), wanted, LABELS, checkpoint=path, stop=lambda: next(asked) >= steps
    )
    assert killed.stopped
    assert len(killed.history) == steps // 3
    again = fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path)
    assert not again.stopped
    assert told(again) == told(whole)
    assert all(torch.equal(w, weights(whole)[name]) for name, w in weights(again).items())


def test_a_finished_fit_is_read_back_and_not_run_again(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    done = fine_tune(tones(), tones(9), settings(), LABELS, checkpoint=path)

    def never():
        raise AssertionError("a step was taken")

    again = fine_tune(tones(), tones(9), settings(), LABELS, checkpoint=path, stop=never)
    assert again.history == done.history
    assert all(torch.equal(w, weights(done)[name]) for name, w in weights(again).items())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_of_other_settings_is_refused_by_its_path(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    fine_tune(tones(), tones(9), settings(epochs=1), LABELS, checkpoint=path)
    with pytest.raises(SettingsError, match=r"checkpoint\.safetensors: a checkpoint of other"):
        fine_tune(tones(), tones(9), settings(epochs=2), LABELS, checkpoint=path)


def test_resuming_with_a_frozen_backbone_gives_the_same_numbers(tmp_path):
    wanted = settings(epochs=2, freeze_backbone=True)
    whole = fine_tune(tones(), tones(9), wanted, LABELS)
    path = tmp_path / "c.safetensors"
    asked = iter(range(100))
    fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path, stop=lambda: next(asked) >= 4)
    assert told(fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path)) == told(whole)


# What the settings mean


@pytest.mark.parametrize("backbone", ["whisper-scratch", "ast-scratch", "vit-scratch"])
def test_a_frozen_backbone_stays_as_it_was_and_the_head_does_not(backbone):
    wanted = settings(epochs=1, freeze_backbone=True, backbone=backbone)
    before = SpectrogramClassifier.from_settings(wanted, LABELS).state_dict()
    fitted = fine_tune(tones(), tones(9), wanted, LABELS).model
    head = {id(p) for p in head_parameters(fitted.network)}
    heads = {name for name, p in fitted.named_parameters() if id(p) in head}
    after = fitted.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == heads  # running means of a batch norm would show here too


def test_the_learning_rate_warms_up_over_a_tenth_and_falls_along_a_cosine_to_zero():
    wanted = settings(learning_rate=0.01)
    rates = [learning_rate(step, 100, wanted) for step in range(100)]
    assert rates[:10] == pytest.approx([0.001 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.005)  # half way down
    assert rates[99] < 1e-5
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(0.01)


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_a_fit_of_few_steps_still_takes_a_step(n_steps):
    rates = [learning_rate(step, n_steps, settings(learning_rate=0.01)) for step in range(n_steps)]
    assert max(rates) == pytest.approx(0.01)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("mixup_percent", [0.0, 100.0])
@pytest.mark.parametrize("balance", ["none", "weights", "root-weights", "logits"])
def test_the_loss_is_the_cross_entropy_of_smoothed_mixed_labels(smoothing, mixup_percent, balance):
    off = AugmentationSettings.none().to_json()
    wanted = settings(**(off | {"mixup_percent": mixup_percent, "label_smoothing": smoothing}))
    model = SpectrogramClassifier.from_settings(wanted, LABELS).eval()
    train, rows = tones(7, seconds=0.4), np.array([0, 1, 5, 6])
    train = replace(train, waveforms=[w[:1600] for w in train.waveforms])
    made = make_balance(train.targets, 3, balance)
    with torch.no_grad():
        batch = _varied(model, train, rows, wanted, np.random.default_rng(3))
        found = _loss(model.classify, batch, slice(0, 4), wanted, made)

    # by hand, with the same draws
    from audio.augment import draw_spectrogram, draw_waveform

    rng = np.random.default_rng(3)
    draw_waveform(rng, wanted.augmentation, 4)
    draw = draw_spectrogram(rng, wanted.augmentation, 4)
    wave = torch.from_numpy(np.stack([train.waveforms[i] for i in rows]))
    features = model.log_mel.normalise(model.log_mel(wave))
    shares = np.eye(3)[train.targets[rows]]
    if mixup_percent:
        assert draw.keep < 1
        features = draw.keep * features + (1 - draw.keep) * features[draw.mix_with]
        shares = draw.keep * shares + (1 - draw.keep) * shares[draw.mix_with]
    shares = (1 - smoothing) * shares + smoothing / 3
    with torch.no_grad():
        logits = model.classify(features).double().numpy()
    if balance == "logits":
        logits = logits + np.log(np.array([3, 2, 2]) / 7)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    factor = np.ones(3) if made.weight is None else made.weight.numpy()
    assert found.item() == pytest.approx(-(shares * factor * log_p).sum(1).mean(), abs=1e-4)


@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_a_loss_that_is_no_number_stops_the_fit_with_the_remedy(what):
    train = tones(8)
    train.waveforms[3][:] = what
    with pytest.raises(FloatingPointError, match=r"training loss is nan in epoch 1; lower"):
        fine_tune(train, tones(9), settings(), LABELS)


def test_a_loss_that_runs_away_stops_the_fit():
    wanted = settings(learning_rate=10.0, epochs=1)
    train = replace(tones(8), waveforms=[w * np.float32(1e30) for w in tones(8).waveforms])
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        fine_tune(train, tones(9), wanted.with_values({"top_db": None}), LABELS)


# What is measured on the training clips


def test_the_window_holds_95_percent_of_the_training_clips():
    waves = [np.zeros(1600, np.float32)] * 39 + [np.zeros(16000, np.float32)]
    wanted = Settings().with_values({"sample_rate_hz": RATE, "n_fft": 256, "win_length": 256})
    found = resolve(wanted, SoundExamples(waves, np.zeros(40, np.int64)))
    assert found.spectrogram.clip_s == 0.2


def test_mean_and_deviation_are_the_training_clips_own_unaugmented():
    """Against numpy, clip by clip, without any padding at all."""
    wanted = settings(normalisation="dataset", noise_percent=100.0, gain_db=30.0)
    train = tones(20)
    found = resolve(wanted, train).spectrogram
    log_mel = LogMel(wanted.spectrogram)
    cells = []
    for wave in train.waveforms:
        start = max(0, (len(wave) - 1600) // 2)
        own = torch.from_numpy(wave[start : start + 1600])[None]
        cells.append(log_mel(own).numpy().ravel())
    cells = np.concatenate(cells).astype(np.float64)
    assert found.mean_db == pytest.approx(cells.mean(), abs=1e-3)
    assert found.std_db == pytest.approx(cells.std(), abs=1e-3)


def test_mean_and_deviation_ignore_the_validation_clips():
    wanted = settings(normalisation="dataset", epochs=1)
    fits = [fine_tune(tones(), tones(9, seed=s), wanted, LABELS) for s in (1, 2)]
    found = [fit.model.settings.spectrogram for fit in fits]
    assert found[0] == found[1]
    assert found[0].mean_db is not None


def test_mean_and_deviation_that_are_given_are_kept():
    wanted = settings(normalisation="dataset", mean_db=-31.0, std_db=7.0)
    assert resolve(wanted, tones()) == wanted


@pytest.mark.parametrize("given", ["mean_db", "std_db"])
def test_one_of_mean_and_deviation_is_refused(given):
    with pytest.raises(SettingsError, match="give both mean_db and std_db"):
        resolve(settings(**{"normalisation": "dataset", given: 5.0}), tones())


# Windows


def test_training_takes_windows_at_random_and_scoring_the_middle():
    wave = np.arange(4000, dtype=np.float32)
    examples = SoundExamples([wave], np.zeros(1, np.int64))
    rows, wanted = np.zeros(200, np.int64), settings()
    taken, n_valid = examples.batch(rows, wanted, np.random.default_rng(0))
    starts = taken[:, 0].numpy()
    assert (n_valid == 1600).all()
    assert all(
        np.array_equal(w, np.arange(s, s + 1600)) for w, s in zip(taken, starts, strict=True)
    )
    assert starts.min() < 200
    assert starts.max() > 2200
    middle, _ = examples.batch(rows[:1], wanted, None)
    assert middle[0, 0] == 1200


def test_short_clips_are_padded_and_say_so():
    examples = SoundExamples([np.ones(1000, np.float32)], np.zeros(1, np.int64))
    batch, n_valid = examples.batch(np.zeros(1, np.int64), settings(), None)
    assert (batch.shape, n_valid.item()) == ((1, 1600), 1000)
    assert batch.sum() == 1000
    batch, n_valid = examples.batch(np.zeros(1, np.int64), settings(padding="repeat"), None)
    assert (batch.sum(), n_valid.item()) == (1600, 1600)


# Pictures


def pictures_of(sounds, wanted):
    """Return the sounds as 8-bit pictures, as convert makes them."""
    log_mel = LogMel(wanted.spectrogram)
    waveform, n_valid = sounds.batch(np.arange(len(sounds.targets)), wanted, None)
    levels = log_mel(waveform, n_valid).numpy()
    ranges = [level_range(level) for level in levels]
    pixels = np.stack([to_pixels(x, *r) for x, r in zip(levels, ranges, strict=True)])
    low, high = np.array(ranges, np.float32).T
    return PictureExamples(pixels, low, high, n_valid.numpy(), sounds.targets)


@pytest.mark.parametrize("normalisation", ["none", "active", "clip", "dataset"])
def test_pictures_give_the_features_of_the_sound_to_within_8_bits(normalisation):
    known = {"mean_db": -40.0, "std_db": 10.0} if normalisation == "dataset" else {}
    wanted = settings(normalisation=normalisation, **known)
    model = SpectrogramClassifier.from_settings(wanted, LABELS)
    sounds, rows = tones(6), np.arange(6)
    pictures = pictures_of(sounds, wanted)
    features = []
    for examples in (sounds, pictures):
        level, n_valid = examples.levels(rows, model, None)
        assert n_valid.tolist() == pictures.n_valid.tolist()
        features.append(model.log_mel.normalise(level, n_valid))
    half_step_db = (pictures.high - pictures.low).max() / 255 / 2
    # 1 / deviation, at most
    scale = {"none": 1.0, "active": 0.5, "clip": 0.5, "dataset": 0.1}[normalisation]
    assert (features[0] - features[1]).abs().max() < 1.1 * half_step_db * scale


def test_pictures_give_the_probabilities_of_the_sound():
    wanted = settings()
    model = SpectrogramClassifier.from_settings(wanted, LABELS).eval()
    sounds = tones(9)
    sounds = replace(sounds, waveforms=[w[:1600] for w in sounds.waveforms])
    found = pictures_of(sounds, wanted).probabilities(model)
    assert np.abs(found - sounds.probabilities(model)).max() < 0.02


def test_a_fit_on_pictures_learns_too():
    wanted = settings(epochs=8, normalisation="dataset")
    train, validation = pictures_of(tones(60), wanted), pictures_of(tones(30, seed=1), wanted)
    fit = fine_tune(train, validation, wanted, LABELS)
    assert fit.history[-1]["validation_accuracy"] > 0.9
    from_sound = resolve(wanted, tones(60)).spectrogram
    assert fit.model.settings.spectrogram.mean_db == pytest.approx(from_sound.mean_db, abs=0.05)


# From a checkpoint


@pytest.mark.parametrize("kind", ["ast", "vit", "whisper-asr"])
def test_a_checkpoint_is_fine_tuned_and_resumed(checkpoints, kind, tmp_path):
    wanted = settings(backbone=checkpoints[kind], epochs=2, n_fft=512, win_length=400)
    wanted = wanted.with_values({"n_mels": 80, "f_min_hz": 60.0, "n_fft": 2048, "batch_size": 12})
    whole = fine_tune(tones(), tones(9), wanted, LABELS)
    assert whole.history[1]["train_loss"] < whole.history[0]["train_loss"]
    path = tmp_path / "c.safetensors"
    asked = iter(range(100))
    fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path, stop=lambda: next(asked) >= 3)
    assert told(fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path)) == told(whole)
    whole.model.save_pretrained(tmp_path / "model")
    again = SpectrogramClassifier.load(tmp_path / "model")
    assert np.array_equal(
        again.predict(tones(3).waveforms), whole.model.predict(tones(3).waveforms)
    )


@pytest.mark.slow
def test_spoken_digits_are_learnt_from_speakers_apart(shared):
    """FSDD, two speakers held out; anchors.md: 76 % with 0.39 M parameters in 6 epochs."""
    from audio.splits import SplitSettings, assign_splits
    from audio.waveform import read_clip
    from data.corpus import CorpusSettings, open_corpus

    found = next(iter(shared.glob("**/*_jackson_0.wav")), None)
    if found is None:
        pytest.skip("no spoken digits (FSDD) among the shared corpora")
    manifest = open_corpus(found.parent, CorpusSettings(pattern="{label}_{group}_{take}"))
    groups = sorted({str(clip.group) for clip in manifest.clips})
    split = assign_splits(
        manifest, SplitSettings(test_groups=(groups[0],), validation_groups=(groups[1],))
    )

    def examples(side):
        clips = split.in_split(side).clips
        targets = np.array([int(clip.label) for clip in clips])
        return SoundExamples([read_clip(clip, RATE) for clip in clips], targets)

    values = {"sample_rate_hz": RATE, "n_mels": 40, "n_fft": 256, "win_length": 200}
    values |= {"hop_length": 80, "clip_s": 0.6, "epochs": 8, "threads": 1, "device": "cpu"}
    fit = fine_tune(
        examples("train"), examples("validation"), Settings().with_values(values), "0123456789"
    )
    assert fit.history[-1]["validation_accuracy"] > 0.5
    assert math.isfinite(fit.history[-1]["validation_loss"])
