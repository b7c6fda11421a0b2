"""A fitted model as the start of another fit: what is kept, what is drawn, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from audio.backbones import preset_for
from audio.classifier import ModelError, SpectrogramClassifier
from audio.clips import Clip, Manifest, read_csv
from audio.leakage import known_clips
from audio.own_model import dropout_name, own_dropout, own_settings
from audio.scratch import BackboneError
from audio.settings import (
    SCRATCH,
    Settings,
    SettingsError,
    SpectrogramSettings,
    TrainingSettings,
    is_scratch,
)
from data.synthetic import SyntheticSettings, write_corpus
from scripts import cli
from tests.conftest import randomise

KINDS = (*SCRATCH, "ast", "vit", "whisper-asr", "whisper-layers")
LABELS = ("bell", "crow", "rain")
FAST = ["--threads", "1", "--size", "nano", "--epochs", "1"]


@pytest.fixture(params=KINDS)
def fitted(request: Any, checkpoints: dict[str, str], tmp_path: Path) -> tuple[Path, Any]:
    """Return a model's folder and the model: every kind of network, at 1 s, none of its weights
    at its first value."""
    backbone = checkpoints.get(request.param, request.param)
    model = SpectrogramClassifier.from_settings(
        Settings(
            replace(preset_for(backbone), clip_s=1.0),
            training=TrainingSettings(backbone=backbone, learning_rate=2e-4, epochs=7),
        ),
        LABELS,
    ).eval()
    randomise(model.network)
    folder = tmp_path / "fitted"
    model.save_pretrained(folder)
    return folder, model


def started(folder: Path, labels: tuple[str, ...] = LABELS, seed: int = 0, **spectrogram: Any):
    """Return a fresh model that starts from the one in a folder."""
    settings = Settings(
        replace(preset_for(str(folder)), **{"clip_s": 1.0} | spectrogram),
        training=TrainingSettings(backbone=str(folder), seed=seed),
    )
    return SpectrogramClassifier.from_settings(settings, labels).eval()


def sound(n: int) -> torch.Tensor:
    return torch.randn(2, n, generator=torch.Generator().manual_seed(0)) / 10


def test_of_the_same_labels_and_length_it_says_the_same(fitted: tuple[Path, Any]) -> None:
    folder, model = fitted
    again = started(folder)
    with torch.no_grad():
        expected, found = model(sound(16000)).logits, again(sound(16000)).logits
    assert torch.equal(found, expected)


def test_labels_that_it_knows_keep_their_weights_wherever_they_stand(
    fitted: tuple[Path, Any],
) -> None:
    folder, model = fitted
    labels = ("rain", "wind", "bell", "snow")
    one, other = (started(folder, labels, seed=seed) for seed in (1, 2))
    with torch.no_grad():
        expected = model(sound(16000)).logits
        found, drawn_anew = one(sound(16000)).logits, other(sound(16000)).logits
    assert torch.allclose(found[:, [0, 2]], expected[:, [2, 0]], atol=1e-5)
    assert torch.equal(found[:, [0, 2]], drawn_anew[:, [0, 2]])
    assert (found[:, [1, 3]] != drawn_anew[:, [1, 3]]).all()


@pytest.mark.parametrize("clip_s", [0.3, 2.0])
def test_another_length_of_clip_is_heard(fitted: tuple[Path, Any], clip_s: float) -> None:
    folder, model = fitted
    made = started(folder, clip_s=clip_s)
    n = made.settings.spectrogram.n_samples
    with torch.no_grad():
        logits = made(sound(n)).logits
    assert torch.isfinite(logits).all()
    old, new = model.network.state_dict(), made.network.state_dict()
    fitted_to_length = [name for name in new if old[name].shape != new[name].shape]
    assert all("position" in name for name in fitted_to_length)
    for name in set(new) - set(fitted_to_length):
        assert "position" in name or torch.equal(new[name], old[name]), name
    if "encoder.embed_positions.weight" in new:  # sinusoids, which go on as they began
        one, two = (s["encoder.embed_positions.weight"] for s in (old, new))
        n_both = min(len(one), len(two))
        assert torch.allclose(one[:n_both], two[:n_both], atol=1e-6)
        step = (two[2:] - 2 * two[1:-1] + two[:-2]).abs().amax()
        assert step < 1  # 2 (1 - cos 1) at most: no break where the old ones end
        torch.testing.assert_close((two**2).sum(1), torch.full((len(two),), two.shape[1] / 2))


def test_whisper_s_bands_are_fixed_and_the_others_are_stretched(fitted: tuple[Path, Any]) -> None:
    folder, model = fitted
    if model.config.network["type"] == "whisper":
        own = model.settings.spectrogram.n_mels
        with pytest.raises(BackboneError, match=rf"n_mels=48, .*; set n_mels={own}"):
            started(folder, n_mels=48)
        return
    with torch.no_grad():
        assert torch.isfinite(started(folder, n_mels=48)(sound(16000)).logits).all()


def test_its_own_spectrogram_is_where_a_fit_starts(fitted: tuple[Path, Any]) -> None:
    folder, model = fitted
    assert preset_for(str(folder)) == replace(model.settings.spectrogram, clip_s=None)
    assert own_settings(str(folder)) == model.settings


def test_a_started_model_is_saved_and_loaded_whole(
    fitted: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = fitted
    made = started(folder, ("a", "rain"), clip_s=0.7)
    made.save_pretrained(tmp_path / "again")
    shutil.rmtree(folder)  # no longer needed
    again = SpectrogramClassifier.load(tmp_path / "again")
    n = made.settings.spectrogram.n_samples
    with torch.no_grad():
        assert torch.equal(again(sound(n)).logits, made(sound(n)).logits)
    assert started(tmp_path / "again", ("rain", "a")).labels == ("rain", "a")  # and from it


def test_its_dropout_is_that_of_the_fit_s_settings(
    fitted: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, model = fitted
    before = own_dropout(str(folder))
    assert before == (0.1 if is_scratch(model.settings.training.backbone) else 0.0)
    settings = Settings(
        replace(preset_for(str(folder)), clip_s=1.0),
        training=TrainingSettings(backbone=str(folder), dropout=0.5),
    )
    made = SpectrogramClassifier.from_settings(settings, LABELS)
    made.save_pretrained(tmp_path / "again")
    assert own_dropout(str(tmp_path / "again")) == 0.5
    network = SpectrogramClassifier.load(tmp_path / "again").train().network
    with torch.no_grad():
        one, other = (made.train()(sound(16000)).logits for _ in range(2))
        assert not torch.equal(one, other)
    assert network.config.to_dict()[dropout_name(network.config.model_type)] == 0.5


def test_what_is_no_model_is_not_taken_for_one(checkpoints: dict[str, str], tmp_path: Path) -> None:
    assert own_settings(checkpoints["ast"]) is None
    assert own_settings("whisper-scratch") is None
    (tmp_path / "config.json").write_text('{"model_type": "melbandit"}')
    with pytest.raises(ModelError, match="lacks settings, network, id2label; copy the whole"):
        SpectrogramClassifier.from_settings(
            Settings(
                SpectrogramSettings(clip_s=1.0), training=TrainingSettings(backbone=str(tmp_path))
            ),
            LABELS,
        )


def test_one_on_the_hub_is_to_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from audio.model_config import SpectrogramClassifierConfig

    def found(source: str) -> Any:
        return SpectrogramClassifierConfig()

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", found)
    with pytest.raises(BackboneError, match="hf download them/birds --local-dir FOLDER"):
        preset_for("them/birds")


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two corpora of the ten sounds, of other sessions."""
    root = tmp_path_factory.mktemp("corpora")
    for name, seed in (("old", 1), ("new", 2)):
        settings = SyntheticSettings(clips_per_class=8, sessions=4, clip_s=0.5, seed=seed)
        write_corpus(root / name, settings)
    (table,) = (root / "new").glob("*.csv")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if ",wind," not in line))
    return root / "old", root / "new"


@pytest.fixture(scope="module")
def first(corpora: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "model"
    command = ["finetune", str(corpora[0]), "--out", str(out), *FAST, "--n-mels", "32"]
    assert cli.main([*command, "--learning-rate", "0.002"]) == 0
    return out


def test_finetune_goes_on_from_a_model_of_its_own(
    first: Path, corpora: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    command = ["finetune", str(corpora[1]), "--out", str(out), "--backbone", str(first)]
    assert cli.main([*command, "--threads", "1"]) == 0
    assert f"starts from {first}, which knows 9 of the 9 classes" in capsys.readouterr().err
    made = json.loads((out / "config.json").read_text())["settings"]
    assert made["spectrogram"]["n_mels"] == 32
    assert made["training"]["learning_rate"] == 0.002  # as the first was fitted
    assert made["training"]["epochs"] == 1
    assert len(json.loads((out / "results.json").read_text())["labels"]) == 9
    assert "leakage" not in json.loads((out / "results.json").read_text())
    assert str(first) not in (out / "README.md").read_text()


def trained_group(fit: Path) -> str:
    """Return a group that a fit was trained on."""
    groups = {clip.group for clip in read_csv(fit / "manifest.csv").in_split("train").clips}
    return min(map(str, groups))


@pytest.mark.parametrize(
    "command", ["finetune", "folds", pytest.param("search", marks=pytest.mark.slow)]
)
def test_clips_that_the_first_fit_was_trained_on_do_not_score_the_second(
    command: str,
    first: Path,
    corpora: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = trained_group(first)
    fit = [str(corpora[0]), "--out", str(tmp_path / "m"), "--backbone", str(first)]
    if command == "folds":
        fit = ["finetune", *fit, "--draw-folds", "2", "--threads", "1"]
    elif command == "search":
        fit = ["search", *fit, "--trials", "1", "--workers", "1", "--finalists", "1"]
        fit += ["--replicates", "1", "--space", "quick", "--test-groups", trained]
    else:
        fit = ["finetune", *fit, "--threads", "1", "--test-groups", trained]
    assert cli.main(fit) == 1
    said = capsys.readouterr().err
    assert f"was trained on by {first}" in said
    assert "--allow-leakage" in said
    assert cli.main([*fit, "--overwrite", "--allow-leakage"]) == 0
    results = json.loads((tmp_path / "m" / "results.json").read_text())
    if command == "finetune":
        assert results["leakage"]["trained_on_before"] > 0
        assert "trained on clips of the test" in (tmp_path / "m" / "report.html").read_text()
    if command == "folds":
        assert all(found["trained_on_before"] for found in results["leakage"].values())


def test_sound_that_a_fit_was_trained_on_is_known_by_file_and_overlap(tmp_path: Path) -> None:
    def clip(name: str, start_s: float = 0.0, duration_s: float | None = None) -> Clip:
        return Clip(tmp_path / name, "x", start_s=start_s, duration_s=duration_s, split="train")

    earlier = Manifest((clip("a.wav"), clip("b.wav", 2.0, 3.0)), tmp_path)
    known = (
        clip("a.wav", 0.0, 1.25), clip("a.wav", 7.0), clip("b.wav"), clip("b.wav", 4.5, 9.0),
        clip("b.wav", 0.0, 2.5), replace(clip("b.wav", 1.0), path=tmp_path / "." / "b.wav"),
    )  # fmt: skip
    new = (clip("c.wav"), clip("b.wav", 0.0, 2.0), clip("b.wav", 5.0, 1.0), clip("b.wav", 5.0))
    found = known_clips(Manifest((*known, *new), tmp_path), earlier)
    assert found == {one.key for one in known}


def test_the_manifest_that_data_writes_does_not_hide_them(
    first: Path,
    corpora: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = str(tmp_path / "surveyed.csv")
    assert cli.main(["data", str(corpora[0]), "--out", table]) == 0
    fit = ["finetune", table, "--out", str(tmp_path / "m"), "--backbone", str(first)]
    assert cli.main([*fit, "--threads", "1", "--test-groups", trained_group(first)]) == 1
    assert f"was trained on by {first}" in capsys.readouterr().err


def test_split_as_the_first_was_nothing_leaks(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["finetune", str(first / "manifest.csv"), "--out", str(tmp_path / "m")]
    fit += ["--backbone", str(first), "--threads", "1"]
    assert cli.main(fit) == 0
    assert "leakage" not in json.loads((tmp_path / "m" / "results.json").read_text())
    one, other = ((folder / "manifest.csv").read_text() for folder in (first, tmp_path / "m"))
    assert one.count(",test,") == other.count(",test,") > 0


def test_a_rotating_validation_counts_the_training_clips_too(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["search", str(first / "manifest.csv"), "--out", str(tmp_path / "m")]
    fit += ["--backbone", str(first), "--trials", "1", "--rotate-validation", "--space", "quick"]
    assert cli.main(fit) == 1
    assert "was trained on by" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["own", "ast"])
def test_a_folder_whose_name_ends_in_scratch_is_not_a_network_from_scratch(
    kind: str, first: Path, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    from scripts.command import parse
    from scripts.finetune import Finetune, with_base
    from scripts.spaces import space_for

    source = str(first) if kind == "own" else checkpoints[kind]
    named = str(shutil.copytree(source, tmp_path / "birds-from-scratch"))
    commands = [
        parse(Finetune, "f", ["c", "--out", "o", "--backbone", backbone], base=with_base)
        for backbone in (source, named)
    ]
    assert commands[1].spectrogram == commands[0].spectrogram != SpectrogramSettings()
    assert commands[1].training == replace(commands[0].training, backbone=named)
    space, _ = space_for(
        "default", Settings(commands[1].spectrogram, training=commands[1].training)
    )
    assert "n_mels" not in {knob.name for knob in space.knobs}
    with pytest.raises(SettingsError, match=r"size=base .* not to the checkpoint .*from-scratch"):
        replace(commands[1].training, size="base")


def test_a_folder_named_as_a_network_from_scratch_is_not_taken_for_it(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(first, tmp_path / "whisper-scratch")
    monkeypatch.chdir(tmp_path)
    assert own_settings("whisper-scratch") is None


def test_a_fit_from_a_model_of_its_own_starts_with_that_model_s_dropout(
    first: Path, tmp_path: Path
) -> None:
    from scripts.command import parse
    from scripts.finetune import Finetune, with_base

    config = json.loads((first / "config.json").read_text())
    config["network"]["config"]["dropout"] = 0.3
    (tmp_path / "config.json").write_text(json.dumps(config))
    for more, expected in (([], 0.3), (["--dropout", "0.2"], 0.2)):
        fit = ["c", "--out", "o", "--backbone", str(tmp_path), *more]
        assert parse(Finetune, "f", fit, base=with_base).training.dropout == expected


def test_dropout_is_searched_where_it_can_be_set_alone(
    first: Path, checkpoints: dict[str, str]
) -> None:
    from scripts.spaces import space_for

    for backbone, there in (("vit-scratch", True), (str(first), True), (checkpoints["ast"], False)):
        base = Settings(preset_for(backbone), training=TrainingSettings(backbone=backbone))
        space, told = space_for("full", base)
        assert ("dropout" in {knob.name for knob in space.knobs}) == there
        assert any("dropout" in line for line in told) != there


@pytest.mark.parametrize("command", ["finetune", "search"])
def test_a_dropout_for_a_checkpoint_is_told_before_a_clip_is_read(
    command: str, checkpoints: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    fit = [command, "nowhere", "--out", "o", "--backbone", checkpoints["ast"], "--dropout", "0.3"]
    assert cli.main(fit) == 1
    assert "dropout=0.3 belongs to a network from scratch or" in capsys.readouterr().err


def test_a_search_around_a_model_of_its_own_tries_rates_about_that_model_s(first: Path) -> None:
    from scripts.spaces import space_for

    own = own_settings(str(first))
    assert own is not None
    settings = replace(own, training=replace(own.training, backbone=str(first), size="tiny"))
    space, dropped = space_for("default", settings)
    (rate,) = (knob for knob in space.knobs if knob.name == "learning_rate")
    assert rate.values == pytest.approx((0.002 / 3, 0.002, 0.006))
    assert rate.default == 0.002
    assert any("n_mels" in line for line in dropped)
    assert all(knob.name != "hop_length" for knob in space.knobs)
