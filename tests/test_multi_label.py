"""Clips with several labels, or none: from the CSV to the thresholds, against scikit-learn."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from audio.balance import make_balance
from audio.classifier import SpectrogramClassifier
from audio.clips import Clip, Manifest, ManifestError, read_csv, write_csv
from audio.examples import SoundExamples
from audio.multi_label import (
    evaluate_several,
    log_loss,
    quick_scores,
    tune_thresholds,
)
from audio.ranking import one_class
from audio.settings import AugmentationSettings
from audio.splits import SplitSettings, assign_splits
from audio.train import _loss, _varied, fine_tune, score
from scripts import cli
from scripts.clips_in import reader_of
from tests.test_train import RATE, settings, told, weights

LABELS = ("high", "low", "middle")
HZ = {"low": 400, "middle": 1000, "high": 2500}


def chords(n=60, seed=0, seconds=0.2):
    """Return clips in which any of three tones sounds, or none, and which do."""
    rng = np.random.default_rng(seed)
    true = rng.random((n, 3)) < (0.5, 0.3, 0.5)
    waves = []
    for row in true:
        t = np.arange(round(seconds * RATE)) / RATE
        wave = 0.02 * rng.standard_normal(len(t))
        for name, there in zip(LABELS, row, strict=True):
            if there:
                wave += 0.2 * np.sin(2 * np.pi * HZ[name] * rng.uniform(0.95, 1.05) * t)
        waves.append(wave.astype(np.float32))
    return SoundExamples(waves, true.astype(np.float32))


@pytest.fixture(scope="module")
def fit():
    wanted = settings(epochs=10, learning_rate=3e-3)
    return fine_tune(chords(90), chords(40, seed=1), wanted, LABELS)


# The network and its loss


def test_each_label_is_learnt_by_itself_and_none_is_an_answer(fit):
    assert fit.model.is_multi_label
    test = chords(60, seed=2)
    probabilities = test.probabilities(fit.model)
    found = quick_scores(probabilities, test.targets)
    assert found["mean_average_precision"] > 0.9
    assert found["macro_f1"] > 0.8
    assert (probabilities.sum(1) > 1.5).any()  # several at once
    assert (probabilities.max(1) < 0.5)[test.targets.sum(1) == 0].mean() > 0.5


def test_probabilities_are_the_sigmoid_of_the_logits(fit):
    test = chords(5, seed=3)
    wave = torch.from_numpy(np.stack(test.waveforms))
    with torch.no_grad():
        out = fit.model(wave, labels=torch.from_numpy(test.targets))
    expected = 1 / (1 + np.exp(-out.logits.double().numpy()))
    assert np.allclose(test.probabilities(fit.model), expected, atol=1e-6)
    assert np.allclose(fit.model.predict(test.waveforms), expected, atol=1e-6)
    assert out.loss.item() == pytest.approx(sk_log_loss(expected, test.targets), rel=1e-4)


def sk_log_loss(p, true):
    return np.mean([sk.log_loss(t, q, labels=[0, 1]) for t, q in zip(true.T, p.T, strict=True)])


def test_a_long_clips_probabilities_are_the_mean_over_its_windows(fit):
    long = np.concatenate(chords(3, seed=4).waveforms)
    parts = fit.model.predict(chords(3, seed=4).waveforms)
    assert np.allclose(fit.model.predict([long])[0], parts.mean(0), atol=1e-5)
    with torch.no_grad():
        logits = fit.model(torch.from_numpy(long)[None]).logits
    assert np.allclose(torch.sigmoid(logits)[0].numpy(), parts.mean(0), atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("balance", ["none", "weights", "root-weights", "logits"])
def test_the_loss_is_each_labels_cross_entropy_by_hand(smoothing, balance):
    wanted = settings(**AugmentationSettings.none().to_json(), label_smoothing=smoothing)
    model = SpectrogramClassifier.from_settings(wanted, LABELS, multi_label=True).eval()
    train = chords(8)
    made = make_balance(train.targets, 3, balance)
    with torch.no_grad():
        batch = _varied(model, train, np.arange(8), wanted, np.random.default_rng(0))
        found = _loss(model.classify, batch, slice(0, 8), wanted, made, several=True).item()
        z = model(torch.from_numpy(np.stack(train.waveforms))).logits.double().numpy()
    goal = train.targets * (1 - smoothing) + smoothing / 2
    if made.offset is not None:
        z = z + made.offset.numpy()
    present = 1.0 if made.weight is None else made.weight.double().numpy()
    by_hand = present * goal * np.log1p(np.exp(-z)) + (1 - goal) * np.log1p(np.exp(z))
    assert found == pytest.approx(by_hand.mean(), abs=1e-4)


def test_the_history_holds_what_scikit_learn_finds(fit):
    validation = chords(40, seed=1)
    p, true = validation.probabilities(fit.model), validation.targets
    row = fit.history[-1]
    assert row["validation_loss"] == pytest.approx(sk_log_loss(p, true), rel=1e-4)
    assert row["validation_accuracy"] == pytest.approx(sk.accuracy_score(true, p >= 0.5))
    assert row["validation_macro_f1"] == pytest.approx(sk.f1_score(true, p >= 0.5, average="macro"))
    assert row["validation_mean_average_precision"] == pytest.approx(
        sk.average_precision_score(true, p, average="macro")
    )
    assert score(fit.model, validation)["macro_f1"] == row["validation_macro_f1"]


@pytest.mark.parametrize("more", [{"balance": "sampling"}, {"mixup_percent": 70.0, "patience": 2},
                                  {"lora_rank": 2, "balance": "weights"}])  # fmt: skip
def test_a_fit_to_several_labels_goes_on_to_the_same_numbers(tmp_path, more):
    wanted = settings(epochs=3, cutmix_percent=50.0, **more)
    train, validation = chords(24), chords(12, seed=1)
    whole = fine_tune(train, validation, wanted, LABELS)
    path, asked = tmp_path / "c.safetensors", iter(range(100))
    fine_tune(train, validation, wanted, LABELS, checkpoint=path, stop=lambda: next(asked) >= 4)
    again = fine_tune(train, validation, wanted, LABELS, checkpoint=path)
    assert told(again) == told(whole)
    assert all(torch.equal(w, weights(whole)[name]) for name, w in weights(again).items())


def test_a_saved_model_still_knows_that_there_may_be_several(fit, tmp_path):
    fit.model.config.thresholds = [0.2, 0.5, 0.9]
    fit.model.save_pretrained(tmp_path)
    del fit.model.config.thresholds
    again = SpectrogramClassifier.load(tmp_path)
    assert again.is_multi_label
    assert again.thresholds == (0.2, 0.5, 0.9)
    assert again.heard(np.array([0.3, 0.4, 0.95], np.float32)) == ("high", "middle")
    assert again.heard(np.array([0.1, 0.4, 0.85], np.float32)) == ()
    assert fit.model.thresholds == (0.5, 0.5, 0.5)
    test = chords(5, seed=3).waveforms
    assert np.array_equal(again.predict(test), fit.model.predict(test))


# Scores


def some_scores(seed, n=40, k=4, ties=False):
    rng = np.random.default_rng(seed)
    true = (rng.random((n, k)) < rng.uniform(0.1, 0.6, k)).astype(np.float32)
    p = 0.5 * true + rng.random((n, k)) * 0.7 - 0.1
    return np.clip(np.round(p, 1) if ties else p, 0.001, 0.999).astype(np.float32), true


@given(seed=st.integers(0, 2**32), ties=st.booleans())
@hypothesis_settings(max_examples=20)
def test_scores_are_scikit_learns(seed, ties):
    p, true = some_scores(seed, ties=ties)
    true[0] = 1  # every label occurs
    found = evaluate_several(p, true, "abcd", thresholds=[0.3, 0.4, 0.5, 0.6])
    heard = p >= np.array([0.3, 0.4, 0.5, 0.6])
    expected = {
        "accuracy": sk.accuracy_score(true, heard),
        "macro_f1": sk.f1_score(true, heard, average="macro", zero_division=0),
        "micro_f1": sk.f1_score(true, heard, average="micro", zero_division=0),
        "mean_average_precision": sk.average_precision_score(true, p, average="macro"),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value), name
        assert found[name]["low"] <= found[name]["value"] + 0.2
        assert found[name]["low"] <= found[name]["high"]
    for i, label in enumerate("abcd"):
        row = found["per_class"][label]
        assert row["precision"] == pytest.approx(
            sk.precision_score(true[:, i], heard[:, i], zero_division=0)
        )
        assert row["recall"] == pytest.approx(sk.recall_score(true[:, i], heard[:, i]))
        assert row["average_precision"] == pytest.approx(
            sk.average_precision_score(true[:, i], p[:, i])
        )
        assert row["support"] == true[:, i].sum()
    assert found["log_loss"] == pytest.approx(sk_log_loss(np.clip(p, 1e-12, 1), true), rel=1e-4)
    assert log_loss(p, true) == found["log_loss"]


@given(seed=st.integers(0, 2**32), ties=st.booleans())
@hypothesis_settings(max_examples=20)
def test_weighing_a_clip_is_repeating_it(seed, ties):
    """What a bootstrap resample is scored by, against scikit-learn on the clips repeated."""
    p, true = some_scores(seed, k=1, ties=ties)
    weight = np.random.default_rng(seed).integers(0, 4, (5, len(p))).astype(float)
    found, _ = one_class(p[:, 0], true[:, 0] > 0, weight)
    for value, times in zip(found, weight.astype(int), strict=True):
        rows = np.repeat(np.arange(len(p)), times)
        if true[rows].any():
            assert value == pytest.approx(sk.average_precision_score(true[rows, 0], p[rows, 0]))
        else:
            assert np.isnan(value)


def test_a_label_that_no_clip_has_counts_for_nothing_but_what_was_heard_wrongly():
    true = np.array([[1, 0], [1, 0], [0, 0]], np.float32)
    found = evaluate_several(np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.1]], np.float32), true, "ab")
    assert found["macro_f1"]["value"] == found["mean_average_precision"]["value"] == 1.0
    assert found["per_class"]["b"]["average_precision"] is None
    json.dumps(found)
    false = evaluate_several(np.array([[0.9, 0.9], [0.8, 0.2], [0.1, 0.1]], np.float32), true, "ab")
    assert false["macro_f1"]["value"] == 0.5


def test_whole_groups_are_resampled_where_there_are_enough():
    p, true = some_scores(0)
    groups = [f"g{i // 4}" for i in range(40)]
    assert evaluate_several(p, true, "abcd", groups=groups)["interval_over"] == "groups"
    assert evaluate_several(p, true, "abcd", groups=groups[:4] * 10)["interval_over"] == "clips"


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="no clips"):
        evaluate_several(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), "ab")
    with pytest.raises(ValueError, match="not finite"):
        evaluate_several(np.full((1, 2), np.nan, np.float32), np.ones((1, 2), np.float32), "ab")


@given(seed=st.integers(0, 2**32), ties=st.booleans())
@hypothesis_settings(max_examples=6)
def test_no_other_threshold_has_a_higher_f1_and_none_nearer_one_half_as_high(seed, ties):
    p, true = some_scores(seed, n=25, ties=ties)
    for i, tuned in enumerate(tune_thresholds(p, true)):
        mine = true[:, i]
        if not mine.any():
            assert tuned == 0.5
            continue
        best = sk.f1_score(mine, p[:, i] >= tuned)
        for other in np.linspace(0.01, 0.99, 99):
            f1 = sk.f1_score(mine, p[:, i] >= other, zero_division=0)
            assert f1 <= best + 1e-12


def test_a_label_of_all_or_no_clips_keeps_one_half():
    p = np.array([[0.1, 0.9], [0.2, 0.8]], np.float32)
    assert tune_thresholds(p, np.array([[1, 0], [1, 0]], np.float32)) == (0.5, 0.5)


# The table and its splits


def table(folder: Path, rows, header=("path", "labels", "group")) -> Path:
    path = folder / "clips.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_labels_are_read_between_semicolons_and_written_back(tmp_path):
    path = table(tmp_path, [["a.wav", "thunder; rain", "x"], ["b.wav", "rain", ""],
                            ["c.wav", "", "x"]])  # fmt: skip
    manifest = read_csv(path)
    assert [clip.classes for clip in manifest.clips] == [("rain", "thunder"), ("rain",), ()]
    assert [clip.label for clip in manifest.clips] == ["rain;thunder", "rain", ""]
    assert manifest.is_multi_label
    assert manifest.labels == ("rain", "thunder")
    write_csv(manifest, tmp_path / "again.csv")
    assert read_csv(tmp_path / "again.csv") == manifest
    counts = {(row["label"]): row["clips"] for row in manifest.counts()}
    assert counts == {"rain": 2, "thunder": 1}


def test_one_label_a_clip_is_read_and_written_as_ever(tmp_path):
    path = table(tmp_path, [["a.wav", "rain;thunder"], ["b.wav", "rain"]], ("path", "label"))
    manifest = read_csv(path)
    assert not manifest.is_multi_label
    assert manifest.labels == ("rain", "rain;thunder")
    write_csv(manifest, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text().startswith("path,label,group")


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([["a.wav", "rain;;thunder", ""]], ("path", "labels", "group"),
         r"clips.csv:2: labels='rain;;thunder' has nothing between"),
        ([["a.wav", "rain;rain", ""]], ("path", "labels", "group"), r"names a label twice"),
        ([["a.wav", "rain", "rain"]], ("path", "labels", "label"), r"both label and labels"),
        ([["", "rain", ""]], ("path", "labels", "group"), r"clips.csv:2: path and label"),
        ([["a.wav", "rain"]], ("file", "labels"), r"no column path"),
    ],
)  # fmt: skip
def test_a_faulty_table_is_told_with_its_line(tmp_path, rows, header, message):
    with pytest.raises(ManifestError, match=message):
        read_csv(table(tmp_path, rows, header))


def test_splits_keep_the_rarest_label_in_proportion_and_train_every_one():
    """All combinations differ, so that none could be kept in proportion as it is."""
    rng = np.random.default_rng(0)
    clips = []
    for i in range(200):
        names = [name for name, share in (("a", 0.6), ("b", 0.4), ("c", 0.1)) if
                 rng.random() < share] + [f"only {i}"] * (i == 7)  # fmt: skip
        clips.append(Clip(Path(f"{i}.wav"), ";".join(names), labels=tuple(names)))
    manifest = Manifest(tuple(clips), Path())
    split = assign_splits(manifest, SplitSettings())
    sides = {side: split.in_split(side) for side in ("train", "validation", "test")}
    assert set(sides["train"].labels) == {"a", "b", "c", "only 7"}
    for name in "abc":
        total = sum(name in clip.classes for clip in clips)
        for side, share in (("test", 0.2), ("validation", 0.2)):
            n = sum(name in clip.classes for clip in sides[side].clips)
            assert n == pytest.approx(share * total, abs=0.1 * total + 2)
    assert replace(manifest).strata()[7] == "only 7"


# The scripts, from end to end


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chords")
    examples = chords(70, seed=5)
    rows = []
    for i, (wave, row) in enumerate(zip(examples.waveforms, examples.targets, strict=True)):
        soundfile.write(folder / f"{i}.wav", wave, RATE, subtype="FLOAT")
        names = ";".join(name for name, there in zip(LABELS, row, strict=True) if there)
        rows.append([f"{i}.wav", names, f"g{i // 3}"])
    return table(folder, rows)


SMALL = ["--sample-rate-hz", "8000", "--clip-s", "0.2", "--n-fft", "256", "--win-length", "256",
         "--hop-length", "128", "--n-mels", "16", "--epochs", "8", "--learning-rate", "3e-3",
         "--threads", "1", "--device", "cpu"]  # fmt: skip


def test_several_labels_from_a_csv_to_predictions(corpus, tmp_path, capsys):
    out = tmp_path / "model"
    command = ["finetune", str(corpus), "--out", str(out), *SMALL, "--tune-thresholds"]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert "mAP" in said.out
    results = json.loads((out / "results.json").read_text())
    assert results["test"]["mean_average_precision"]["value"] > 0.8
    assert results["labels"] == sorted(LABELS)
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    model = SpectrogramClassifier.load(out)
    assert model.thresholds == tuple(config["thresholds"])
    told_limits = [results["test"]["per_class"][x]["threshold"] for x in results["labels"]]
    assert told_limits == config["thresholds"]  # validation's, for the test too
    assert config["thresholds"] != [0.5] * 3
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"validation", "test"}
    right = np.mean([row["label"] == row["predicted"] for row in rows if row["split"] == "test"])
    assert right == pytest.approx(results["test"]["accuracy"]["value"])
    assert "with all their labels" in (out / "report.html").read_text()
    assert "mean average precision" in (out / "README.md").read_text()

    files = [str(corpus.parent / f"{i}.wav") for i in range(12)]
    assert cli.main(["predict", str(out), *files, "--format", "jsonl"]) == 0
    told_rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for name in files:
        mine = {row["label"] for row in told_rows if row["path"] == name}
        wave, _ = soundfile.read(name, dtype="float32")
        p = model.predict([wave])[0]
        assert mine == set(model.heard(p))
        for row in (row for row in told_rows if row["path"] == name):
            assert list(row["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-5)
    assert cli.main(["predict", str(out), files[0], "--format", "csv", "--top-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3

    assert cli.main(["data", str(corpus), "--out", str(tmp_path / "listed.csv")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["classes"] == 3
    assert read_csv(tmp_path / "listed.csv").is_multi_label


@pytest.mark.slow
def test_a_graph_of_a_model_for_several_labels_gives_its_sigmoids(fit, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    from audio.onnx_export import export_onnx

    export_onnx(fit.model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    waves = np.stack(chords(4, seed=6).waveforms)
    given = {session.get_inputs()[0].name: waves}
    if len(session.get_inputs()) > 1:
        given[session.get_inputs()[1].name] = np.full(4, waves.shape[1], np.int64)
    found = session.run(None, given)[0]
    assert np.allclose(found, fit.model.predict(list(waves)), atol=1e-4)


def test_clips_of_several_labels_are_cross_validated(corpus, tmp_path, capsys):
    """scikit-learn on the table of all folds, against results.json."""
    out = tmp_path / "folds"
    command = ["finetune", str(corpus), "--out", str(out), *SMALL, "--tune-thresholds"]
    assert cli.main([*command, "--draw-folds", "3"]) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    with (out / "out_of_fold.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = results["labels"]
    p = np.array([[float(row[label]) for label in labels] for row in rows])
    true = np.array([[label in row["label"].split(";") for label in labels] for row in rows])
    heard = np.zeros_like(true)
    for fold in results["folds"]:
        config = json.loads((out / fold["folder"] / "config.json").read_text())
        mine = np.array([row["fold"] == fold["fold"] for row in rows])
        heard[mine] = p[mine] >= np.array(config["thresholds"])
        scores = sk.f1_score(true[mine], heard[mine], average=None)
        assert fold["macro_f1"] == pytest.approx(scores.mean())
        assert fold["n"] == mine.sum()
    told = [{name for name in row["predicted"].split(";") if name} for row in rows]
    assert told == [set(np.array(labels)[row]) for row in heard]
    pooled = results["pooled"]
    assert pooled["n"] == len(rows) == 70
    assert pooled["accuracy"]["value"] == pytest.approx((true == heard).all(1).mean())
    for average in ("macro", "micro"):
        score = sk.f1_score(true, heard, average=average)
        assert pooled[f"{average}_f1"]["value"] == pytest.approx(score)
    precision = sk.average_precision_score(true, p, average="macro")
    assert pooled["mean_average_precision"]["value"] == pytest.approx(precision)
    assert precision > 1.5 * true.mean()  # what guessing would reach
    values = [fold["mean_average_precision"] for fold in results["folds"]]
    assert results["scores"]["mean_average_precision"]["mean"] == pytest.approx(np.mean(values))
    assert "mean average precision" in said
    page = (out / "report.html").read_text()
    assert "with all their labels" in page
    assert "taken for what" not in page


@pytest.mark.parametrize("form", ["png", "uint8"])
def test_pictures_of_several_labels_are_fitted_like_the_clips(corpus, tmp_path, form):
    images, out = tmp_path / "images", tmp_path / "model"
    small = SMALL[: SMALL.index("--epochs")]
    command = ["convert", str(corpus), "--out", str(images), "--format", form, *small]
    assert cli.main(command) == 0
    read = reader_of(images)
    assert read is not None
    clips, _ = read(images)
    wanted = {clip.path.name: set(clip.classes) for clip in read_csv(corpus).clips}
    for split in ("train", "validation", "test"):
        rows = clips.manifest.in_split(split).clips
        assert len(rows)
        targets = clips.examples[split].targets
        assert targets.shape == (len(rows), 3)
        for clip, row in zip(rows, targets, strict=True):
            heard = {name for name, there in zip(clips.labels, row, strict=True) if there}
            assert heard == set(clip.classes) == wanted[f"{clip.path.stem}.wav"]
    assert cli.main(["finetune", str(images), "--out", str(out), *SMALL[len(small) :]]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["test"]["mean_average_precision"]["value"] > 0.6
    if form == "png":
        assert not [path for path in (images / "train").iterdir() if path.is_dir()]
        datasets = pytest.importorskip("datasets")
        theirs = datasets.load_dataset("imagefolder", data_dir=str(images), split="train")
        assert len(theirs) == len(clips.manifest.in_split("train"))
        told = [set(row["labels"].split(";")) - {""} if row["labels"] else set() for row in theirs]
        assert sorted(map(sorted, told)) == sorted(
            sorted(clip.classes) for clip in clips.manifest.in_split("train").clips
        )
