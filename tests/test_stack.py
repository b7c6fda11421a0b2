"""Networks side by side do what each does alone, forward, backward and through a training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from audio.backbones import network_logits
from audio.classifier import SpectrogramClassifier
from audio.examples import SoundExamples
from audio.scratch import BackboneError
from audio.settings import AugmentationSettings, Settings, SettingsError
from audio.stack import NetworkStack
from audio.stack_training import fine_tune_many
from audio.train import fine_tune, score
from data.synthetic import SyntheticSettings, write_corpus
from rl.landscape import Landscape
from scripts import landscape as script
from tests.conftest import randomise

LABELS = ("low", "middle", "high")
SMALL = {"sample_rate_hz": 8000, "clip_s": 0.25, "n_fft": 256, "win_length": 256}
SMALL |= {"hop_length": 100, "n_mels": 20, "epochs": 2, "batch_size": 8, "threads": 1}
SMALL |= {"device": "cpu", "dropout": 0.0}


def settings(**values: object) -> Settings:
    return Settings().with_values(SMALL | values)


def tones(n: int = 24, seed: int = 0) -> SoundExamples:
    """Return noisy tones of three pitches, some shorter and some longer than a window."""
    rng = np.random.default_rng(seed)
    waves = []
    for i in range(n):
        t = np.arange(round(0.25 * 8000 * rng.uniform(0.6, 1.6))) / 8000
        wave = 0.3 * np.sin(2 * np.pi * (400, 1000, 2500)[i % 3] * rng.uniform(0.9, 1.1) * t)
        waves.append((wave + 0.02 * rng.standard_normal(len(t))).astype(np.float32))
    return SoundExamples(waves, np.arange(n) % 3)


@pytest.fixture(scope="module")
def models() -> list[SpectrogramClassifier]:
    made = []
    for seed in range(3):
        model = SpectrogramClassifier.from_settings(settings(seed=seed), LABELS)
        randomise(model.network, seed)
        made.append(model)
    return made


def stack_of(models: list[SpectrogramClassifier]) -> NetworkStack:
    states = [model.network.state_dict() for model in models]
    return NetworkStack(models[0].config.network, states)


@pytest.mark.parametrize("training", [False, True])
def test_a_stack_gives_each_networks_logits_and_gradients(models, training):
    stack = stack_of(models)
    rng = torch.Generator().manual_seed(0)
    n_frames = models[0].settings.spectrogram.n_frames
    features = torch.randn(3, 5, 20, n_frames, generator=rng)
    frames = torch.tensor([n_frames, n_frames, 9, 4, 1]).expand(3, -1)
    targets = torch.tensor([0, 1, 2, 0, 1])
    logits = stack.logits(features, frames, training=training)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.repeat(3), reduction="sum"
    )
    loss.backward()
    for i, model in enumerate(models):
        network = model.network.train(training)
        network.zero_grad()
        alone = network_logits(network, features[i], frames[i])
        torch.testing.assert_close(logits[i], alone, atol=2e-4, rtol=1e-4)
        torch.nn.functional.cross_entropy(alone, targets, reduction="sum").backward()
        for name, weight in network.named_parameters():
            if weight.grad is not None:
                mine = stack.weights[name].grad[i]
                torch.testing.assert_close(mine, weight.grad, atol=2e-3, rtol=2e-3, msg=name)
        network.eval()


def test_of_one_clip_that_is_one_cell_it_gives_what_each_network_gives():
    small = settings(clip_s=0.03, hop_length=80, n_mels=8, n_fft=128, win_length=128)
    model = SpectrogramClassifier.from_settings(small, LABELS)
    randomise(model.network)
    features = torch.randn(1, 1, 8, 4, generator=torch.Generator().manual_seed(0))
    found = stack_of([model]).logits(features, None, training=True)[0]
    alone = network_logits(model.network.train(), features[0], None)
    torch.testing.assert_close(found, alone, atol=2e-4, rtol=1e-4)


def test_a_state_goes_in_and_out_unchanged(models):
    stack = stack_of(models)
    for i, model in enumerate(models):
        for name, weight in model.network.state_dict().items():
            torch.testing.assert_close(stack.state(i)[name], weight)


def test_other_networks_are_refused():
    model = SpectrogramClassifier.from_settings(settings(backbone="vit-scratch"), LABELS)
    with pytest.raises(BackboneError, match="only whisper-scratch"):
        NetworkStack(model.config.network, [model.network.state_dict()])


VARIANTS = [
    {},
    {"seed": 1},
    {"normalisation": "band", "win_length": 128},
    {"normalisation": "dataset", "compression": "cube-root", "top_db": None},
    AugmentationSettings.none().to_json(),
    {"speed_percent": 20.0, "noise_percent": 50.0, "filter_db": 12.0, "mixup_percent": 50.0},
    {
        "pitch_semitones": 3.0,
        "reverb_percent": 50.0,
        "other_clip_percent": 50.0,
        "time_warp_percent": 20.0,
        "erase_percent": 30.0,
        "cutmix_percent": 60.0,
    },
    {"learning_rate": 3e-4, "weight_decay": 0.0, "label_smoothing": 0.0},
]


# what is drawn for all of these is applied in one go
PLAIN = [
    {"mixup_percent": 50.0},
    {"mixup_percent": 0.0, "filter_db": 12.0, "seed": 1},
    {"speed_percent": 20.0, "mixup_percent": 80.0, "time_mask_percent": 30.0},
    {"speed_percent": 0.0, "shift_percent": 30.0, "filter_db": 0.0},
    AugmentationSettings.none().to_json(),
]


@pytest.mark.parametrize("variants", [VARIANTS, PLAIN], ids=["all", "plain"])
def test_each_training_is_the_one_that_fine_tune_would_have_made(variants):
    train, validation = tones(), tones(9, seed=1)
    many = [settings(**values) for values in variants]
    fits = fine_tune_many(train, {"validation": validation}, many, LABELS,
                          device=torch.device("cpu"))  # fmt: skip
    for i, one in enumerate(many):
        alone = fine_tune(train, validation, one, LABELS)
        for mine, theirs in zip(fits.curves[i], alone.history, strict=True):
            assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=2e-3), variants[i]
            assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=5e-3)
        one_model = fits.model(i)
        assert one_model.settings.spectrogram == alone.model.settings.spectrogram
        probabilities = one_model.predict(validation.waveforms)
        np.testing.assert_allclose(
            probabilities, alone.model.predict(validation.waveforms), atol=0.02
        )
        assert score(one_model, validation)["accuracy"] == pytest.approx(
            fits.curves[i][-1]["validation_accuracy"]
        )


def test_what_differs_in_shape_is_not_stacked():
    train = tones()
    for values, name in (
        ({"n_mels": 16}, "n_mels"),
        ({"batch_size": 4}, "batch_size"),
        ({"balance": "weights"}, "balance"),
    ):
        with pytest.raises(SettingsError, match=name):
            fine_tune_many(train, {}, [settings(), settings(**values)], LABELS,
                           device=torch.device("cpu"))  # fmt: skip


SPACE = """
[[knob]]
name = "n_mels"
values = [16, 24]
[[knob]]
name = "time_mask_percent"
values = [0.0, 30.0]
[[knob]]
name = "normalisation"
values = ["active", "band"]
"""


def test_the_command_measures_every_setting_and_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "clips", SyntheticSettings(clips_per_class=6, sessions=3, clip_s=0.5))
    (tmp_path / "space.toml").write_text(SPACE)
    arguments = [str(tmp_path / "clips"), "--space", str(tmp_path / "space.toml"), "--seeds", "2"]
    arguments += ["--stack", "4", "--epochs", "2", "--hop-length", "320", "--threads", "1"]
    arguments += ["--n-mels", "16", "--time-mask-percent", "0"]  # values that the knobs have
    arguments += ["--train-clips", "20", "--validation-clips", "10", "--test-clips", "10"]
    assert script.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["settings"] == 8
    whole = Landscape.load(tmp_path / "whole" / "landscape.npz")
    assert whole.validation.shape == (8, 2, 2)
    assert whole.validation.max() <= 1

    import audio.stack_training as stacks

    real, calls = stacks.fine_tune_many, []

    def stopping(*given, **named):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given, **named)

    monkeypatch.setattr(stacks, "fine_tune_many", stopping)
    assert script.main([*arguments, "--out", str(tmp_path / "cut")]) == 130
    monkeypatch.setattr(stacks, "fine_tune_many", real)
    assert script.main([*arguments, "--out", str(tmp_path / "cut")]) == 0
    cut = Landscape.load(tmp_path / "cut" / "landscape.npz")
    np.testing.assert_array_equal(cut.validation, whole.validation)
    np.testing.assert_array_equal(cut.test, whole.test)


ONE_KNOB = """
[[knob]]
name = "time_mask_percent"
values = [0.0, 30.0]
"""


def small_landscape(tmp_path: Path, *more: str) -> list[str]:
    """Return a command that measures two settings, one epoch each, in tmp_path/out; its clips are
    in tmp_path/clips."""
    made = SyntheticSettings(clips_per_class=6, sessions=3, clip_s=0.5)
    write_corpus(tmp_path / "clips", made)
    (tmp_path / "one.toml").write_text(ONE_KNOB)
    arguments = [str(tmp_path / "clips"), "--space", str(tmp_path / "one.toml"), "--seeds", "2"]
    arguments += ["--epochs", "1", "--hop-length", "320", "--n-mels", "16", "--threads", "1"]
    arguments += ["--time-mask-percent", "0", "--out", str(tmp_path / "out")]
    return [*arguments, *more]


def test_scores_are_counted_over_the_clips_that_were_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = small_landscape(tmp_path)
    rows = (tmp_path / "clips" / "manifest.csv").read_text().splitlines()
    for row in rows[1:4]:  # one session is one side, so all three are of it
        (tmp_path / "clips" / row.split(",")[0]).write_bytes(b"no sound")
    import audio.stack_training as stacks

    real, scored = stacks.fine_tune_many, {}

    def counting(train, examples, *given, **named):
        scored.update({f"n_{name}": len(part.targets) for name, part in examples.items()})
        scored["n_train"] = len(train.targets)
        return real(train, examples, *given, **named)

    monkeypatch.setattr(stacks, "fine_tune_many", counting)
    assert script.main(arguments) == 3
    made = Landscape.load(tmp_path / "out" / "landscape.npz")
    assert made.about["command"] == ["melbandit", "landscape", *arguments]
    failures = (tmp_path / "out" / "failures.csv").read_text().splitlines()
    assert len(failures) == 1 + 3
    assert {name: made.about[name] for name in scored} == scored
    assert sum(scored.values()) == len(rows) - 1 - 3
    for split in ("validation", "test"):  # whole numbers of the clips that were scored
        right = getattr(made, split) * scored[f"n_{split}"]
        np.testing.assert_allclose(right, right.round(), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "--seeds 0 is below its least value 1; raise it"),
        (["--stack", "-1"], "--stack -1 is below its least value 0"),
        (["--train-clips", "0"], "--train-clips 0 is below"),
        (["--validation-clips", "-2"], "--validation-clips -2 is below"),
        (["--test-clips", "0"], "--test-clips 0 is below"),
        (["--space", "epochs.toml"], "epochs cannot be a knob of a landscape"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_clip_is_decoded(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = small_landscape(tmp_path, *arguments)
    Path("epochs.toml").write_text('[[knob]]\nname = "epochs"\nvalues = [1, 2]\n')
    assert script.main(command) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_landscape_goes_on_with_another_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import audio.stack_training as stacks

    real, calls = stacks.fine_tune_many, []

    def stopping(*given, **named):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given, **named)

    arguments = small_landscape(tmp_path, "--seeds", "3")  # six trainings
    monkeypatch.setattr(stacks, "fine_tune_many", stopping)
    assert script.main([*arguments, "--stack", "4"]) == 130
    monkeypatch.setattr(stacks, "fine_tune_many", real)
    assert script.main([*arguments, "--stack", "5"]) == 0  # two stacks as well, of other sizes
    assert Landscape.load(tmp_path / "out" / "landscape.npz").validation.shape == (2, 3, 1)


def test_a_landscape_records_leakage_that_was_allowed(tmp_path: Path) -> None:
    arguments = small_landscape(tmp_path)
    clips = tmp_path / "clips"
    rows = [row.split(",") for row in (clips / "manifest.csv").read_text().splitlines()[1:]]
    first = next(row for row in rows if "session00" in row[0])
    other = next(row for row in rows if row[1] == first[1] and "session00" not in row[0])
    (clips / other[0]).write_bytes((clips / first[0]).read_bytes())
    assert script.main(arguments) == 1
    assert script.main([*arguments, "--allow-leakage"]) == 0
    record = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert record["allow_leakage"] is True
    assert record["leakage"]["same_content_on_two_sides"] == 1


def test_a_landscape_says_what_it_drops_and_its_last_line_is_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import rl.landscape as tables

    monkeypatch.setattr(tables, "additivity", lambda _: {"main": 0.5, "ceiling": math.nan})
    knob = '[[knob]]\nname = "n_mels"\nvalues = [16, 200]\n'  # 200 bands have too few bins
    arguments = small_landscape(tmp_path, "--seeds", "1")
    (tmp_path / "one.toml").write_text(ONE_KNOB + knob)
    assert script.main(arguments) == 0
    told = capsys.readouterr()
    assert "note: not searched: n_mels=200" in told.err
    result = json.loads(told.out.splitlines()[-1], parse_constant=pytest.fail)
    assert result["explained"] == {"main": 0.5, "ceiling": None}


def test_a_landscape_without_a_usable_test_clip_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = small_landscape(tmp_path, "--test-groups", "session02")
    for path in (tmp_path / "clips").rglob("session02_*.wav"):
        path.write_bytes(b"no sound")
    assert script.main(arguments) == 1
    assert "no test clip can be used" in capsys.readouterr().err
    assert (tmp_path / "out" / "failures.csv").exists()
