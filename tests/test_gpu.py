"""What a GPU computes is what the processor computes. Skipped where torch sees none."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audio.augment import apply_spectrogram, apply_waveform, draw_spectrogram, draw_waveform
from audio.classifier import SpectrogramClassifier
from audio.settings import (
    AST_PRESET,
    WHISPER_PRESET,
    AugmentationSettings,
    Settings,
    SpectrogramSettings,
)
from audio.spectrogram import LogMel
from audio.stack_training import fine_tune_many
from audio.train import fine_tune
from data.synthetic import SyntheticSettings, write_corpus
from scripts import convert, explain, finetune, landscape, predict, search
from tests.test_stack import LABELS, tones
from tests.test_stack import settings as on_processor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

GPU = torch.device("cuda")
RATE = 8000
OFF = AugmentationSettings.none()


def settings(**values: object) -> Settings:
    return on_processor(**{"device": "cuda", "epochs": 3} | values)


def sounds(n_samples: int, lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of these lengths, zeros after, and the lengths. It swells and fades and ends
    below the Nyquist frequency, for what is cut off rings as long as the transforms are."""
    rng = np.random.default_rng(seed)
    out = np.zeros((len(lengths), n_samples), np.float32)
    for row, length in zip(out, lengths, strict=True):
        bins = np.fft.rfft(rng.normal(0, 0.5, length))
        bins[round(0.7 * len(bins)) :] = 0
        row[:length] = np.fft.irfft(bins, length) * np.hanning(length)
    return torch.from_numpy(out), torch.tensor(lengths)


# The mel path and the augmentation


@pytest.mark.parametrize(
    "spectrogram",
    [
        SpectrogramSettings(clip_s=1.0),
        SpectrogramSettings(clip_s=1.0, normalisation="band", compression="pcen"),
        SpectrogramSettings(clip_s=1.0, normalisation="clip", compression="cube-root", power=1.0),
        replace(AST_PRESET, clip_s=1.0),
        replace(WHISPER_PRESET, clip_s=1.0),
    ],
    ids=["melbandit", "pcen", "cube-root", "ast", "whisper"],
)
def test_levels_and_features_are_the_processor_s(spectrogram):
    n = spectrogram.n_samples
    waveform, n_valid = sounds(n, [n, n // 2, n // 3, 40])
    here, there = LogMel(spectrogram), LogMel(spectrogram).to(GPU)
    levels, levels_there = here(waveform, n_valid), there(waveform.to(GPU), n_valid.to(GPU))
    assert levels_there.device.type == "cuda"
    torch.testing.assert_close(levels_there.cpu(), levels, atol=2e-3, rtol=1e-5)
    torch.testing.assert_close(
        there.normalise(levels_there, n_valid.to(GPU)).cpu(),
        here.normalise(levels, n_valid),
        atol=1e-3,
        rtol=1e-4,
    )


WAVEFORM = {
    "gain_db": 12.0,
    "shift_percent": 50.0,
    "speed_percent": 20.0,
    "filter_db": 12.0,
    "pitch_semitones": 4.0,
    "polarity_percent": 50.0,
    "low_pass_percent": 100.0,
    "high_pass_percent": 100.0,
    "other_clip_percent": 100.0,
}


@pytest.mark.parametrize("name", WAVEFORM)
def test_a_sound_is_varied_as_on_the_processor(name):
    waveform, n_valid = sounds(12000, [12000, 9000, 4000, 200])
    draw = draw_waveform(np.random.default_rng(1), replace(OFF, **{name: WAVEFORM[name]}), 4)
    here, length = apply_waveform(waveform, n_valid, draw, sample_rate_hz=RATE)
    there, length_there = apply_waveform(
        waveform.to(GPU), n_valid.to(GPU), draw, sample_rate_hz=RATE
    )
    assert not torch.equal(here, waveform)
    assert torch.equal(length_there.cpu(), length)
    worst = (there.cpu() - here).abs().max() / here.abs().max()
    assert worst < 1e-4


def test_noise_on_a_gpu_has_the_ratio_that_was_drawn():
    """Its samples are others than the processor's."""
    waveform, n_valid = sounds(12000, [12000, 9000])
    noisy = replace(OFF, noise_percent=100.0, noise_snr_db=5.0)
    draw = draw_waveform(np.random.default_rng(1), noisy, 2)
    there, _ = apply_waveform(waveform.to(GPU), n_valid.to(GPU), draw, sample_rate_hz=RATE)
    noise = there.cpu() - waveform
    ratio = 10 * np.log10(waveform.square().sum(1) / noise.square().sum(1))
    np.testing.assert_allclose(ratio, draw.noise_snr_db, atol=0.01)
    assert not noise[1, 9000:].any()


def test_a_room_on_a_gpu_keeps_length_and_power_in_bounds():
    waveform, n_valid = sounds(12000, [12000, 6000])
    draw = draw_waveform(np.random.default_rng(1), replace(OFF, reverb_percent=100.0), 2)
    there, _ = apply_waveform(waveform.to(GPU), n_valid.to(GPU), draw, sample_rate_hz=RATE)
    here, _ = apply_waveform(waveform, n_valid, draw, sample_rate_hz=RATE)
    assert not there[1, 6000:].any()
    powers = there.cpu().square().sum(1) / here.square().sum(1)
    assert ((powers > 0.5) & (powers < 2)).all()
    assert not torch.allclose(there.cpu(), waveform, atol=1e-3)


def test_a_picture_is_varied_as_on_the_processor():
    everything = replace(
        OFF, frequency_mask_percent=40.0, time_mask_percent=40.0, mixup_percent=100.0,
        time_warp_percent=20.0, erase_percent=30.0, cutmix_percent=100.0,
    )  # fmt: skip
    draw = draw_spectrogram(np.random.default_rng(1), everything, 5)
    features = torch.randn(5, 32, 60, generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([60, 50, 31, 7, 1])
    here = apply_spectrogram(features, frames, draw)
    there = apply_spectrogram(features.to(GPU), frames.to(GPU), draw)
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)


# Training

VARIED = {"speed_percent": 20.0, "filter_db": 12.0, "mixup_percent": 50.0, "shift_percent": 20.0}


@pytest.mark.parametrize("backbone", ["whisper-scratch", "ast-scratch", "vit-scratch"])
def test_a_fit_is_the_processor_s_but_for_rounding(backbone):
    """Convolutions on a GPU are in TF32, ten bits of mantissa, as torch has it by default."""
    here, there = (
        fine_tune(tones(), tones(9, 1), settings(backbone=backbone, device=d, **VARIED), LABELS)
        for d in ("cpu", "cuda")
    )
    assert there.model.device.type == "cuda"
    for mine, theirs in zip(there.history, here.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)
        assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_tones_are_told_apart_in_every_precision(precision):
    wanted = settings(epochs=12, precision=precision)
    fit = fine_tune(tones(60), tones(30, seed=1), wanted, LABELS)
    assert fit.history[-1]["train_loss"] < 0.75 * fit.history[0]["train_loss"]
    assert fit.history[-1]["validation_accuracy"] > 0.9


@pytest.mark.parametrize(
    "values",
    [{}, {"precision": "bfloat16"}, {"precision": "float16"}, {"ema_decay": 0.9, "patience": 9},
     {"micro_batches": 2}, {"backbone": "vit-scratch"}],
    ids=["float32", "bfloat16", "float16", "ema", "micro-batches", "vit"],
)  # fmt: skip
def test_a_fit_that_was_killed_goes_on_to_the_same_losses(tmp_path, values):
    """Dropout's and the noise's generators are the GPU's own."""
    wanted = settings(**{"dropout": 0.2, "noise_percent": 50.0} | VARIED | values)
    whole = fine_tune(tones(), tones(9, seed=1), wanted, LABELS)
    path, asked = tmp_path / "c.safetensors", iter(range(100))
    cut = fine_tune(
        tones(), tones(9, 1), wanted, LABELS, checkpoint=path, stop=lambda: next(asked) >= 4
    )
    assert cut.stopped
    again = fine_tune(tones(), tones(9, seed=1), wanted, LABELS, checkpoint=path)
    losses = [[row["train_loss"] for row in fit.history] for fit in (whole, again)]
    assert len(losses[1]) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("kind", ["ast", "vit", "whisper-asr", "whisper-layers"])
def test_a_checkpoint_gives_the_processor_s_logits_and_is_fitted_in_bfloat16(checkpoints, kind):
    preset = {"ast": AST_PRESET, "vit": SpectrogramSettings()}.get(kind, WHISPER_PRESET)
    base = Settings(replace(preset, clip_s=0.5), replace(OFF, mixup_percent=50.0))
    wanted = base.with_values({"backbone": checkpoints[kind], "epochs": 2, "batch_size": 8,
                               "precision": "bfloat16", "device": "cuda"})  # fmt: skip
    model = SpectrogramClassifier.from_settings(wanted, LABELS).eval()
    waveform, n_valid = sounds(wanted.spectrogram.n_samples, [wanted.spectrogram.n_samples, 3000])
    with torch.no_grad():
        here = model(waveform, n_valid=n_valid).logits
        there = model.to(GPU)(waveform.to(GPU), n_valid=n_valid.to(GPU)).logits
    torch.testing.assert_close(there.cpu(), here, atol=5e-3, rtol=5e-3)
    fit = fine_tune(tones(), tones(9), wanted, LABELS)
    assert all(math.isfinite(row["train_loss"]) for row in fit.history)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["whisper-scratch", "ast-scratch"])
def test_a_compiled_fit_is_the_plain_one_but_for_rounding(backbone):
    wanted = settings(backbone=backbone, **VARIED)
    plain, compiled = (
        fine_tune(tones(), tones(9), wanted.with_values({"torch_compile": on}), LABELS)
        for on in (False, True)
    )
    for mine, theirs in zip(compiled.history, plain.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)


PLAIN = [{}, VARIED, {"seed": 1}, {"normalisation": "band", "mixup_percent": 0.0}]
MORE = [*PLAIN, {"noise_percent": 50.0}, {"pitch_semitones": 3.0, "erase_percent": 30.0}]


@pytest.mark.parametrize("variants", [PLAIN, MORE], ids=["joined", "apart"])
def test_side_by_side_each_network_is_trained_as_alone(variants):
    many = [settings(**values) for values in variants]
    fits = fine_tune_many(tones(), {"validation": tones(9, seed=1)}, many, LABELS, device=GPU)
    for curve, one in zip(fits.curves, many, strict=True):
        alone = fine_tune(tones(), tones(9, seed=1), one, LABELS)
        for mine, theirs in zip(curve, alone.history, strict=True):
            assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)
            assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=0.05)


# The commands


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(folder, SyntheticSettings(clips_per_class=6, sessions=3, clip_s=0.5))
    return folder


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_convert_draws_the_processor_s_pictures(corpus, tmp_path):
    for device in ("cpu", "cuda"):
        assert convert.main([str(corpus), "--out", str(tmp_path / device), "--device", device]) == 0
    here = sorted((tmp_path / "cpu").glob("*/*/*.png"))
    assert len(here) == 60
    for path in here:
        there = tmp_path / "cuda" / path.relative_to(tmp_path / "cpu")
        one, other = (np.asarray(Image.open(p)).astype(int) for p in (path, there))
        assert np.abs(one - other).max() <= 1
        assert (one != other).mean() < 0.01


def test_finetune_predict_and_explain(corpus, tmp_path, capsys):
    model = str(tmp_path / "model")
    arguments = [str(corpus), "--out", model, "--epochs", "3", "--hop-length", "320"]
    assert finetune.main([*arguments, "--device", "auto", "--precision", "bfloat16"]) == 0
    assert told(capsys)["test"]
    rows = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.csv"
        clips = [str(corpus / "siren"), "--format", "csv", "--out", str(out), "--device", device]
        assert predict.main([model, *clips, "--overwrite"]) == 0
        rows[device] = list(csv.DictReader(out.open()))
    assert len(rows["cpu"]) == len(rows["cuda"]) == 6
    for one, other in zip(rows["cpu"], rows["cuda"], strict=True):
        assert one["path"] == other["path"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=5e-3)
    clip = next((corpus / "siren").glob("*.wav"))
    page = ["--out", str(tmp_path / "explained.html"), "--device", "cuda"]
    assert explain.main([model, str(clip), *page]) == 0


@pytest.mark.parametrize("how", [["--workers", "2"], ["--stack", "4"]])
def test_search_with_two_workers_or_a_stack_on_one_gpu(how, corpus, tmp_path):
    arguments = [str(corpus), "--out", str(tmp_path / "study"), "--space", "quick", "--trials", "4"]
    arguments += ["--epochs", "2", "--hop-length", "320", "--finalists", "1", "--replicates", "1"]
    assert search.main([*arguments, *how, "--device", "cuda"]) == 0
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert [trial["state"] for trial in results["trials"]] == ["complete"] * 4
    assert results["settings"]["stack"] == (4 if "--stack" in how else 1)


def test_landscape(corpus, tmp_path, capsys):
    (tmp_path / "space.toml").write_text(
        '[[knob]]\nname = "mixup_percent"\nvalues = [0.0, 50.0]\n'
        '[[knob]]\nname = "normalisation"\nvalues = ["active", "clip"]\n'
    )
    arguments = [str(corpus), "--out", str(tmp_path / "landscape"), "--seeds", "2"]
    arguments += ["--space", str(tmp_path / "space.toml"), "--epochs", "2", "--hop-length", "320"]
    assert landscape.main([*arguments, "--device", "cuda", "--precision", "bfloat16"]) == 0
    assert told(capsys)["settings"] == 4
