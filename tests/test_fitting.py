"""Ways to fit: each option does what it says, and a fit that was killed goes on under all."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audio.averages import WeightAverage
from audio.backbones import head_parameters
from audio.classifier import SpectrogramClassifier
from audio.optimisation import Weights, layer_depths, learning_rate
from audio.settings import SettingsError
from audio.team import Team
from audio.train import best_epoch, fine_tune
from tests.test_train import LABELS, LIVELY, settings, told, tones, weights

ROOT = Path(__file__).parents[1]
#: Nothing drawn but the order, no batch norm: what is left is the same sums in another order.
STILL = {
    "gain_db": 0.0,
    "shift_percent": 0.0,
    "speed_percent": 0.0,
    "dropout": 0.0,
    "backbone": "ast-scratch",
}


# Kill and resume

OPTIONS = {
    "patience": {"patience": 2, "epochs": 6, "learning_rate": 0.01},
    "ema": {"ema_decay": 0.9},
    "micro batches": {"micro_batches": 3},
    "layer decay": {"layer_decay": 0.7},
    "unfreezing": {"unfreeze_epochs": 1},
    "lora": {"lora_rank": 4, "lora_alpha": 8.0},
    "lora, ema and patience": {"lora_rank": 2, "ema_decay": 0.8, "patience": 1},
    "sampling": {"balance": "sampling"},
    "root sampling": {"balance": "root-sampling"},
    "logits": {"balance": "logits"},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "new augmentation": {
        "pitch_semitones": 2.0, "reverb_percent": 50.0, "other_clip_percent": 50.0,
        "low_pass_percent": 50.0, "time_warp_percent": 20.0, "cutmix_percent": 50.0,
        "erase_percent": 20.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("steps", [4, pytest.param(9, marks=pytest.mark.slow)])
def test_a_fit_that_was_killed_goes_on_to_the_same_numbers_with(tmp_path, option, steps):
    """Three steps an epoch: killed within one, and where one ends."""
    wanted = settings(**({"epochs": 4} | LIVELY | OPTIONS[option]))
    whole = fine_tune(tones(), tones(9, seed=1), wanted, LABELS)
    path = tmp_path / "checkpoint.safetensors"
    asked = iter(range(100))
    killed = fine_tune(
        tones(), tones(9, seed=1), wanted, LABELS,
        checkpoint=path, stop=lambda: next(asked) >= steps,
    )  # fmt: skip
    assert killed.stopped or len(whole.history) <= steps // 3
    again = fine_tune(tones(), tones(9, seed=1), wanted, LABELS, checkpoint=path)
    assert told(again) == told(whole)
    assert again.epoch == whole.epoch
    assert weights(again).keys() == weights(whole).keys()
    assert all(torch.equal(w, weights(whole)[name]) for name, w in weights(again).items())


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_resumed_optimiser_s_state_lies_where_torch_puts_it():
    """On the parameter's device, the step count of a fused AdamW too; `meta` stands for a GPU."""
    wanted = settings(**STILL, size="nano")
    fitted = Weights(SpectrogramClassifier.from_settings(wanted, LABELS), wanted)
    fitted.backward(sum(p.sum() for p in fitted.parameters))
    fitted.step(1e-3, Team(torch.device("cpu")))
    elsewhere = SpectrogramClassifier.from_settings(wanted, LABELS).to("meta")
    again, expected = Weights(elsewhere, wanted), Weights(elsewhere, wanted)
    again.load(*fitted.state())
    expected.optimiser.load_state_dict(fitted.optimiser.state_dict())
    for parameter in again.parameters:
        one, other = (w.optimiser.state[parameter] for w in (again, expected))
        assert {n: (t.device, t.dtype) for n, t in one.items()} == {
            n: (t.device, t.dtype) for n, t in other.items()
        }
        assert one["step"].device.type == "meta"


# Early stopping


def test_patience_keeps_the_best_epoch_and_says_which():
    wanted = settings(patience=2, epochs=30, learning_rate=0.03)
    validation = tones(9, seed=1)
    fit = fine_tune(tones(), validation, wanted, LABELS)
    assert not fit.stopped
    assert len(fit.history) == fit.epoch + 2 < 30
    assert fit.epoch == best_epoch(fit.history)
    row = fit.history[fit.epoch - 1]
    assert (row["validation_macro_f1"], -row["validation_loss"]) == max(
        (r["validation_macro_f1"], -r["validation_loss"]) for r in fit.history
    )
    probabilities = validation.probabilities(fit.model)
    loss = -np.log(probabilities[np.arange(9), validation.targets]).mean()
    assert loss == pytest.approx(row["validation_loss"], rel=1e-5)
    assert loss != pytest.approx(fit.history[-1]["validation_loss"], rel=1e-5)


def test_without_patience_the_last_epoch_counts():
    fit = fine_tune(tones(), tones(9, seed=1), settings(learning_rate=0.03), LABELS)
    assert fit.epoch == len(fit.history) == 3


def test_patience_changes_nothing_of_the_epochs_before_it_stops():
    one, other = (
        fine_tune(tones(), tones(9, seed=1), settings(patience=p, epochs=4), LABELS) for p in (0, 3)
    )
    shared = min(len(one.history), len(other.history))
    assert told(one)[:shared] == told(other)[:shared]


# Running mean


def test_the_running_mean_is_that_of_a_loop_by_hand():
    """Over the weights after each step, with the stated warm-up of its memory."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = WeightAverage(model, {n for n, _ in model.named_parameters()}, decay=0.8)
    expected = {name: t.clone().double() for name, t in model.state_dict().items()}
    rng = np.random.default_rng(0)
    for n in range(1, 40):
        with torch.no_grad():
            for t in model.state_dict().values():
                if t.is_floating_point():
                    t.add_(torch.from_numpy(rng.normal(size=t.shape)).float())
        keep = min(0.8, (1 + n) / (10 + n))
        average.update()
        for name, t in model.state_dict().items():
            expected[name] = keep * expected[name] + (1 - keep) * t.double()
    assert keep == 0.8
    own = {name: t.clone() for name, t in model.state_dict().items()}
    with average.in_place():
        for name, t in model.state_dict().items():
            if t.is_floating_point():
                torch.testing.assert_close(t.double(), expected[name], atol=1e-5, rtol=1e-5)
    assert all(torch.equal(t, own[name]) for name, t in model.state_dict().items())


def test_the_running_mean_is_what_is_scored_and_returned_and_training_goes_on_beside_it():
    validation = tones(9, seed=1)
    plain, averaged = (
        fine_tune(tones(), validation, settings(ema_decay=decay), LABELS) for decay in (0.0, 0.9)
    )
    for one, other in zip(told(plain), told(averaged), strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert one["validation_loss"] != other["validation_loss"]
    probabilities = validation.probabilities(averaged.model)
    loss = -np.log(probabilities[np.arange(9), validation.targets]).mean()
    assert loss == pytest.approx(averaged.history[-1]["validation_loss"], rel=1e-6)


# Batches in parts


def close(fit, other, tolerance=1e-3):  # Adam makes much of a small gradient's rounding
    for one, two in zip(told(fit), told(other), strict=True):
        assert one == pytest.approx(two, rel=tolerance, abs=tolerance)
    for name, w in weights(fit).items():
        # Adam divides by the gradient's size: where that is rounding alone, so is the step
        torch.testing.assert_close(w, weights(other)[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("more", [{}, {"mixup_percent": 60.0, "cutmix_percent": 60.0},
                                  {"noise_percent": 100.0, "balance": "weights"}])  # fmt: skip
@pytest.mark.parametrize("parts", [2, 3, 50])
def test_a_batch_in_parts_moves_the_weights_as_the_whole_does(parts, more):
    """23 clips: batches that no number of parts divides; 50 parts are a clip each."""
    whole, split = (
        fine_tune(tones(23), tones(9), settings(**STILL, **more, micro_batches=n), LABELS)
        for n in (1, parts)
    )
    close(whole, split)


def test_parts_cover_a_batch_once_whoever_works_through_them():
    for size in (1, 2, 3):
        for micro in (1, 2, 5):
            for n in (1, 2, 7, 16):
                rows = [
                    row
                    for rank in range(size)
                    for part in Team(torch.device("cpu"), rank, size).parts(n, micro)
                    for row in range(n)[part]
                ]
                assert rows == list(range(n))


# Which layers, and by how much


@pytest.mark.parametrize("backbone", ["whisper-scratch", "ast-scratch", "vit-scratch"])
def test_layers_are_counted_from_the_head_down(backbone):
    model = SpectrogramClassifier.from_settings(settings(backbone=backbone), LABELS)
    depths = layer_depths(model)
    n_layers = 2 if backbone == "whisper-scratch" else 4
    head = {id(p) for p in head_parameters(model.network)}
    for name, parameter in model.network.named_parameters():
        layer = next((k for k in range(n_layers) if f".layers.{k}." in f".{name}"), None)
        if id(parameter) in head:
            expected = 0
        elif name.startswith(("stem", "encoder.conv", "encoder.embed")) or "embeddings" in name:
            expected = n_layers + 1
        elif layer is None:
            assert "norm" in name  # the last one, over all layers
            expected = 1
        else:
            expected = n_layers - layer
        assert depths[name] == expected, name
    assert set(depths.values()) == set(range(n_layers + 2))


@pytest.mark.parametrize("kind", ["ast", "vit", "whisper-asr"])
def test_layers_of_a_checkpoint_are_counted_too(checkpoints, kind):
    model = checkpoint_model(checkpoints[kind])
    assert set(layer_depths(model).values()) == {0, 1, 2, 3}


def checkpoint_settings(folder, **values):
    wide = {"n_fft": 2048, "win_length": 400, "n_mels": 80, "f_min_hz": 60.0, "backbone": folder}
    return settings(**(wide | {"batch_size": 12, "epochs": 2} | values))


def checkpoint_model(folder):
    return SpectrogramClassifier.from_settings(checkpoint_settings(folder), LABELS)


def test_each_layer_moves_by_its_share_of_the_rate():
    """AdamW's first step is the rate itself, whatever the gradient; decay is off."""
    wanted = settings(**STILL, layer_decay=0.5, weight_decay=0.0)
    model = SpectrogramClassifier.from_settings(wanted, LABELS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fitted = Weights(model, wanted)
    fitted.begin_epoch(0)
    fitted.backward(sum((p * (1 + p.detach().abs())).sum() for p in fitted.parameters))
    fitted.step(1e-3, Team(torch.device("cpu")))
    depths = layer_depths(model)
    for name, p in model.named_parameters():
        moved = (before[name] - p.detach()).median().item()
        assert moved == pytest.approx(1e-3 * 0.5 ** depths[name.removeprefix("network.")], rel=1e-2)


def test_layers_thaw_one_by_one_from_the_head_down():
    wanted = settings(unfreeze_epochs=2, epochs=1)
    model = SpectrogramClassifier.from_settings(wanted, LABELS)
    fitted, depths = Weights(model, wanted), layer_depths(model)
    for epoch, deepest in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (6, 3), (99, 3)):
        fitted.begin_epoch(epoch)
        for name, parameter in model.network.named_parameters():
            thawed = depths[name] <= deepest and "embed_positions" not in name
            assert parameter.requires_grad == thawed, (epoch, name)
        stem = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert all(m.training == (deepest == 3) for m in stem)


def test_what_is_not_thawed_yet_stays_as_it_was():
    wanted = settings(unfreeze_epochs=1, epochs=2)
    before = SpectrogramClassifier.from_settings(wanted, LABELS)
    depths = layer_depths(before)
    fitted = fine_tune(tones(), tones(9), wanted, LABELS).model
    names = dict(before.network.named_parameters())
    for name, p in fitted.network.named_parameters():
        assert torch.equal(p, names[name]) == (depths[name] > 1 or "embed_positions" in name)


# LoRA


@pytest.mark.parametrize("kind", ["whisper-scratch", "ast-scratch", "ast", "vit", "whisper-asr"])
def test_a_lora_is_fitted_folded_in_and_loaded_without_peft(
    checkpoints, kind, tmp_path, monkeypatch
):
    folder = checkpoints.get(kind)
    more = {"lora_rank": 3, "learning_rate": 0.01}
    wanted = checkpoint_settings(folder, **more) if folder else settings(backbone=kind, **more)
    before = SpectrogramClassifier.from_settings(wanted, LABELS)
    fit = fine_tune(tones(), tones(9, seed=1), wanted, LABELS)
    old, new = before.state_dict(), fit.model.state_dict()
    assert old.keys() == new.keys()  # nothing of peft's is left
    assert not any("lora" in type(m).__module__ for m in fit.model.modules())
    head = {id(p) for p in head_parameters(before.network)}
    heads = {n for n, p in before.named_parameters() if id(p) in head}
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    maps = changed - heads
    assert heads <= changed
    assert maps
    for name in maps:  # linear maps of the layers alone, each by a matrix of rank 3
        assert "layers." in name
        assert not name.startswith("network.stem")
        assert torch.linalg.matrix_rank(new[name] - old[name], rtol=1e-4) <= 3, name
    validation = tones(9, seed=1)
    probabilities = validation.probabilities(fit.model)
    loss = -np.log(probabilities[np.arange(9), validation.targets]).mean()
    assert loss == pytest.approx(fit.history[-1]["validation_loss"], rel=1e-4)
    fit.model.save_pretrained(tmp_path / "model")
    if kind != "whisper-scratch":  # one of them in an interpreter of its own, which takes seconds
        monkeypatch.setitem(sys.modules, "peft", None)
        loaded = SpectrogramClassifier.load(tmp_path / "model")
        assert np.allclose(validation.probabilities(loaded), probabilities, atol=1e-5)
        return
    np.savez(tmp_path / "waves.npz", *validation.waveforms)
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "import numpy as np; from pathlib import Path\n"
        "from audio.classifier import SpectrogramClassifier\n"
        "waves = list(np.load('waves.npz').values())\n"
        "np.save('p.npy', SpectrogramClassifier.load(Path('model')).predict(waves))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment(), timeout=300
    )
    assert np.allclose(np.load(tmp_path / "p.npy"), probabilities, atol=1e-5)


def environment(**more):
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def test_without_peft_a_lora_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingsError, match=r"lora_rank=2 needs peft.*pip install peft"):
        fine_tune(tones(), tones(9), settings(lora_rank=2), LABELS)


@pytest.mark.parametrize(
    "both",
    [{"lora_rank": 2, "freeze_backbone": True}, {"lora_rank": 2, "unfreeze_epochs": 1},
     {"freeze_backbone": True, "unfreeze_epochs": 1}],
)  # fmt: skip
def test_two_ways_to_say_which_weights_are_fitted_are_refused(both):
    with pytest.raises(SettingsError, match="leave one of them out") as error:
        settings(**both)
    assert all(f"{name}={value}" in str(error.value) for name, value in both.items())


# Arithmetic


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision_learns_what_whole_does(precision, tolerance):
    still = STILL | {"backbone": "whisper-scratch", "epochs": 4}
    wanted = [settings(**still, precision=p) for p in ("float32", precision)]
    whole, half = (fine_tune(tones(), tones(9, seed=1), w, LABELS) for w in wanted)
    assert half.history[-1]["train_loss"] == pytest.approx(
        whole.history[-1]["train_loss"], abs=tolerance
    )
    assert told(half) != told(whole)


def test_a_step_that_overflows_float16_is_left_out_and_the_scale_halved():
    wanted = settings(**STILL, precision="float16")
    model = SpectrogramClassifier.from_settings(wanted, LABELS)
    fitted = Weights(model, wanted)
    fitted.begin_epoch(0)
    before = [p.detach().clone() for p in fitted.parameters]
    scale = fitted.scaler.get_scale()
    fitted.backward(sum((p * math.inf).sum() for p in fitted.parameters))
    fitted.step(1e-3, Team(torch.device("cpu")))
    assert fitted.scaler.get_scale() == scale / 2
    assert all(torch.equal(p, b) for p, b in zip(fitted.parameters, before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["whisper-scratch", "ast-scratch"])
def test_a_compiled_network_is_the_network(backbone):
    still = STILL | {"backbone": backbone}
    plain, compiled = (
        fine_tune(tones(), tones(9), settings(**still, torch_compile=on), LABELS)
        for on in (False, True)
    )
    close(plain, compiled, 1e-3)


@pytest.mark.slow
def test_a_compiled_training_resumes_to_the_same_numbers(tmp_path):
    """Dropout too: the compiler's random numbers come from torch's seed."""
    wanted = settings(torch_compile=True, dropout=0.3, epochs=2)
    whole = fine_tune(tones(), tones(9), wanted, LABELS)
    path, asked = tmp_path / "c.safetensors", iter(range(100))
    n_steps = math.ceil(len(tones().targets) / wanted.training.batch_size)
    cut = fine_tune(
        tones(), tones(9), wanted, LABELS, checkpoint=path, stop=lambda: next(asked) > n_steps
    )
    assert cut.stopped
    assert len(cut.history) == 1
    assert told(fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path)) == told(whole)


def test_compiling_is_asked_of_torch_for_training_alone(monkeypatch):
    """The compiler itself takes a minute; `make slow` runs it."""
    asked = []

    def compile_(function):
        asked.append(function.__name__)
        return lambda *given: asked.append("step") or function(*given)

    monkeypatch.setattr(torch, "compile", compile_)
    plain, compiled = (
        fine_tune(tones(), tones(9), settings(torch_compile=on), LABELS) for on in (False, True)
    )
    assert asked == ["classify", *["step"] * 9]
    assert told(plain) == told(compiled)
    asked.clear()
    plain, compiled = (
        fine_tune(tones(), tones(9), settings(torch_compile=on, backbone="ast-scratch"), LABELS)
        for on in (False, True)
    )
    lists = [m for m in compiled.model.network.modules() if isinstance(m, torch.nn.ModuleList)]
    layers = max(lists, key=len)
    assert asked[: len(layers)] == ["forward"] * len(layers)  # each layer's own, all one code
    assert asked[len(layers) :] == ["step"] * 9 * len(layers)
    assert told(plain) == told(compiled)
    assert not any("forward" in vars(layer) for layer in layers)


def test_the_rate_does_not_depend_on_how_a_batch_is_worked_through():
    for name, value in (("micro_batches", 4), ("layer_decay", 0.5), ("ema_decay", 0.9)):
        one, two = settings(), settings(**{name: value})
        assert learning_rate(7, 40, one) == learning_rate(7, 40, two)
        assert replace(one, training=replace(one.training, **{name: value})) == two
