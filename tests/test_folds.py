"""Cross-validation: every clip tested once, resumed fold by fold, mean, spread and pooled."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from audio.clips import Clip, Manifest, ManifestError
from audio.folds import assign_fold, draw_folds, fold_scores, official_folds
from audio.splits import SplitSettings
from scripts import cli
from tests import layouts
from tests.test_kill import kill_when, without_times

FAST = ["--n-mels", "24", "--hop-length", "320", "--threads", "1"]


def folded(n_folds: int = 5, groups: int = 2, per_group: int = 3) -> Manifest:
    """Return clips of two classes; a group is in one fold."""
    return Manifest(
        tuple(
            Clip(Path(f"{label}{f}{g}{i}.wav"), label, group=f"{f}{g}", fold=str(f))
            for f in range(1, n_folds + 1)
            for g in range(groups)
            for label in "ab"
            for i in range(per_group)
        ),
        Path(),
    )


# Splits


@given(
    n_folds=st.integers(2, 12),
    groups=st.integers(2, 4),
    percent=st.sampled_from([None, 5.0, 25.0]),
    seed=st.integers(0, 3),
)
@trials(max_examples=25)
def test_a_turn_tests_its_fold_and_validates_on_whole_groups_of_the_rest(
    n_folds, groups, percent, seed
):
    manifest = folded(n_folds, groups)
    settings = SplitSettings(validation_percent=percent, split_seed=seed)
    folds = official_folds(manifest)
    assert folds == tuple(str(n) for n in range(1, n_folds + 1))
    for fold in folds:
        turn = assign_fold(manifest, fold, settings)
        assert [c.split == "test" for c in turn.clips] == [c.fold == fold for c in manifest.clips]
        sides: dict[str | None, str | None] = {}
        for clip in turn.clips:
            assert sides.setdefault(clip.group, clip.split) == clip.split
        assert turn.in_split("validation").labels == ("a", "b")
        assert turn == assign_fold(manifest, fold, settings)


def test_by_default_a_tenth_of_the_rest_validates():
    turn = assign_fold(folded(5, 10, 1), "3", SplitSettings())
    assert len(turn.in_split("validation")) == 8  # of 80
    assert len(turn.in_split("train")) == 72


def test_a_group_on_two_folds_is_refused_with_the_pair():
    clips = folded().clips
    manifest = Manifest((replace(clips[0], group="20"), *clips[1:]), Path())
    with pytest.raises(ManifestError, match=r"group 20 is on two sides: a100\.wav in test"):
        assign_fold(manifest, "1", SplitSettings())
    assert assign_fold(manifest, "1", SplitSettings(allow_leakage=True))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (Manifest((Clip(Path("a.wav"), "x"),), Path()), "a.wav: in no fold.*--draw-folds"),
        (Manifest((Clip(Path("a.wav"), "x", fold="1"),), Path()), "1 fold is too few"),
    ],
)
def test_a_corpus_without_folds_is_told_so(manifest, words):
    with pytest.raises(ManifestError, match=words):
        official_folds(manifest)


@pytest.mark.parametrize("n_folds", [2, 5])
def test_drawn_folds_keep_groups_whole_and_classes_in_proportion(n_folds):
    clips = tuple(replace(clip, fold=None) for clip in folded(5, 4).clips)
    drawn = draw_folds(Manifest(clips, Path()), n_folds)
    assert official_folds(drawn) == tuple(str(n) for n in range(1, n_folds + 1))
    for fold in official_folds(drawn):
        mine = [clip for clip in drawn.clips if clip.fold == fold]
        assert {clip.group for clip in mine}.isdisjoint(
            clip.group for clip in drawn.clips if clip.fold != fold
        )
        assert sum(clip.label == "a" for clip in mine) == len(mine) / 2
    assert draw_folds(Manifest(clips, Path()), n_folds, seed=1) != drawn
    with pytest.raises(ManifestError, match="draw_folds=21 must be from 2 to 20"):
        draw_folds(Manifest(clips, Path()), 21)


def test_the_spread_is_the_sample_deviation_and_the_interval_student_s():
    scores = fold_scores([0.70, 0.80, 0.75, 0.85, 0.90])
    assert scores["mean"] == pytest.approx(0.80)
    assert scores["deviation"] == pytest.approx(0.0790569, abs=1e-6)
    # by hand: t(0.975; 4) = 2.776445
    assert scores["high"] - scores["mean"] == pytest.approx(2.776445 * 0.0790569 / 5**0.5, 1e-5)
    with pytest.raises(ValueError, match="1 folds"):
        fold_scores([0.5])


# The command


@pytest.fixture(scope="module")
def esc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("esc")
    layouts.esc50(root, takes=4)
    return root


@pytest.fixture(scope="module")
def done(esc: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "folds"
    command = ["finetune", "esc50", "--root", str(esc), "--folds", "--out", str(out)]
    assert cli.main([*command, *FAST, "--epochs", "15", "--learning-rate", "2e-3"]) == 0
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_clip_is_predicted_once_by_a_network_that_never_saw_its_recording(done, esc):
    rows = table(done / "out_of_fold.csv")
    assert len(rows) == 80
    assert {row["path"] for row in rows} == {
        p.relative_to(esc / "ESC-50-master").as_posix()
        for p in (esc / "ESC-50-master" / "audio").iterdir()
    }
    for row in rows:
        split = {r["path"]: r for r in table(done / f"fold-{row['fold']}" / "manifest.csv")}
        mine = next(r for path, r in split.items() if path.endswith(row["path"]))
        assert mine["split"] == "test"
        assert all(r["split"] == "test" for r in split.values() if r["group"] == row["group"])


def test_the_figures_are_those_that_the_table_gives(done):
    """scikit-learn on the CSV, against results.json."""
    results = json.loads((done / "results.json").read_text())
    rows = table(done / "out_of_fold.csv")
    labels = results["labels"]
    p = np.array([[float(row[label]) for label in labels] for row in rows])
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    true = np.array([row["label"] for row in rows])
    said = np.array(labels)[p.argmax(1)]
    assert said.tolist() == [row["predicted"] for row in rows]
    pooled = results["pooled"]
    assert pooled["n"] == 80
    assert pooled["interval_over"] == "groups"
    assert pooled["accuracy"]["value"] == pytest.approx(accuracy_score(true, said))
    macro = f1_score(true, said, average="macro")
    assert pooled["macro_f1"]["value"] == pytest.approx(macro)
    assert pooled["accuracy"]["low"] <= pooled["accuracy"]["value"] <= pooled["accuracy"]["high"]
    for fold in results["folds"]:
        mine = np.array([row["fold"] == fold["fold"] for row in rows])
        assert fold["n"] == mine.sum() == 16
        assert fold["accuracy"] == pytest.approx(accuracy_score(true[mine], said[mine]))
        balanced = balanced_accuracy_score(true[mine], said[mine])
        assert fold["balanced_accuracy"] == pytest.approx(balanced)
    uncalibrated = results["calibration"]["pooled"]["reliability"]
    assert sum(b["n"] for b in uncalibrated) == 80
    right = sum(b["n"] * b["accuracy"] for b in uncalibrated)
    assert right == pytest.approx(80 * pooled["accuracy"]["value"])  # a temperature moves none
    assert len(results["calibration"]["temperatures"]) == 5
    values = [fold["accuracy"] for fold in results["folds"]]
    assert results["scores"]["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert results["scores"]["accuracy"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert pooled["accuracy"]["value"] > 0.5  # four tones; chance is 0.25


def test_the_page_and_the_printed_table_show_every_fold(done, esc, capsys):
    page = (done / "report.html").read_text()
    results = json.loads((done / "results.json").read_text())
    for fold in "12345":
        assert f"fold {fold}" in page
    assert "All folds&#x27; predictions together" in page or "All folds' predictions" in page
    assert "Whether its probabilities can be trusted (pooled out-of-fold)" in page
    before = results["calibration"]["pooled"]["calibration_error"]
    for error in (before, results["pooled"]["calibration_error"]["value"]):
        assert f"{error:.3f}" in page
    command = ["finetune", "esc50", "--root", str(esc), "--folds", "--out", str(done)]
    assert cli.main([*command, *FAST, "--epochs", "15", "--learning-rate", "2e-3"]) == 0
    captured = capsys.readouterr()
    assert "already done" in captured.err
    last = json.loads(captured.out.splitlines()[-1])
    assert last["folds"] == 5
    assert last["accuracy"] == results["scores"]["accuracy"]
    assert "deviation" in captured.out
    (done / "report.html").unlink()
    assert cli.main(["report", str(done)]) == 0
    assert (done / "report.html").read_text() == page


def test_each_fold_s_model_predicts(done, esc, capsys):
    clip = next((esc / "ESC-50-master" / "audio").glob("2-*.wav"))
    row = next(r for r in table(done / "out_of_fold.csv") if r["path"].endswith(clip.name))
    assert cli.main(["predict", str(done / "fold-2"), str(clip), "--format", "jsonl"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["label"] == row["predicted"]
    assert told["probability"] == pytest.approx(float(row["probability"]), abs=1e-4)


def results_of(out: Path) -> Any:
    return without_times(json.loads((out / "results.json").read_text()))


def test_killed_between_and_within_folds_it_ends_the_same(esc, tmp_path):
    command = ["finetune", "esc10", "--root", str(esc), "--folds", *FAST, "--epochs", "3"]
    kill_when([*command, "--out", str(tmp_path / "a")], "fold 2: test accuracy")
    assert not (tmp_path / "a" / "results.json").exists()
    kept = (tmp_path / "a" / "fold-1" / "results.json").stat().st_mtime_ns
    kill_when([*command, "--out", str(tmp_path / "a")], "epoch 2:")
    for out in ("a", "b"):
        assert cli.main([*command, "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / "a" / "fold-1" / "results.json").stat().st_mtime_ns == kept
    assert results_of(tmp_path / "a") == results_of(tmp_path / "b")
    pooled = [(tmp_path / out / "out_of_fold.csv").read_bytes() for out in "ab"]
    assert pooled[0] == pooled[1]


def test_folds_are_drawn_where_the_corpus_has_none(tmp_path, capsys):
    for kind in range(2):
        for i in range(6):
            layouts.sound(tmp_path / "c" / "xy"[kind] / f"{i}.wav", 4 * kind, i)
    command = ["finetune", str(tmp_path / "c"), "--out", str(tmp_path / "m"), *FAST]
    command += ["--epochs", "1"]
    assert cli.main([*command, "--folds"]) == 1
    assert "in no fold" in capsys.readouterr().err
    assert cli.main([*command, "--draw-folds", "3"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pooled"]["n"] == 12


@pytest.mark.parametrize("balance", ["none", "weights", "sampling", "logits"])
def test_a_class_of_a_single_clip_is_cross_validated_and_told_of(balance, tmp_path, capsys):
    for k, (kind, n) in enumerate((("x", 9), ("y", 6), ("rare", 1))):
        for i in range(n):
            layouts.sound(tmp_path / "c" / kind / f"{i}.wav", 4 * k, i)
    command = ["finetune", str(tmp_path / "c"), "--out", str(tmp_path / "m"), *FAST]
    command += ["--epochs", "1", "--balance", balance, "--draw-folds", "3"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert printed.err.count("all clips of rare are in fold") == 1
    assert json.loads(printed.out.splitlines()[-1])["pooled"]["n"] == 16
    (row,) = (
        row
        for row in csv.DictReader((tmp_path / "m" / "out_of_fold.csv").open())
        if row["label"] == "rare"
    )
    assert 0 < float(row["rare"]) < 1  # never trained, all the same a class
    assert row["predicted"] != "rare" or balance != "none"


def test_folds_that_are_the_classes_are_refused():
    clips = [Clip(Path(f"{k}{i}.wav"), k, fold=k) for k in "xyz" for i in range(4)]
    manifest = Manifest(tuple(clips), Path())
    with pytest.raises(ManifestError, match=r"4 of 4 test clips .* \(x\); change the folds"):
        assign_fold(manifest, "x", SplitSettings())


def test_what_contradicts_folds_is_refused(esc, tmp_path, capsys):
    command = ["finetune", "esc50", "--root", str(esc), "--folds", "--out", str(tmp_path / "m")]
    assert cli.main([*command, "--test-folds", "2"]) == 1
    assert "--test-folds 2: under --folds every fold is the test" in capsys.readouterr().err
    assert cli.main(["convert", str(esc / "ESC-50-master"), "--out", str(tmp_path / "i")]) == 0
    pictures = ["finetune", str(tmp_path / "i"), "--folds", "--out", str(tmp_path / "m")]
    assert cli.main(pictures) == 1
    assert "pictures are split already" in capsys.readouterr().err


def test_the_same_sound_in_two_folds_is_told_before_the_first_training(esc, tmp_path, capsys):
    import shutil

    copy = tmp_path / "esc"
    shutil.copytree(esc, copy)
    audio = copy / "ESC-50-master" / "audio"
    shutil.copy(audio / "1-100100-A-0.wav", audio / "4-100400-B-0.wav")
    command = ["finetune", "esc50", "--root", str(copy), "--folds", "--out", str(tmp_path / "m")]
    command += [*FAST, "--epochs", "1"]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "1-100100-A-0.wav in test and " in said
    assert "4-100400-B-0.wav in train are the same sound" in said
    assert "epoch" not in said
    assert cli.main([*command, "--allow-leakage"]) == 0
    results = json.loads((tmp_path / "m" / "results.json").read_text())
    assert {"1", "4"} <= set(results["leakage"])
    assert "Leakage was allowed" in (tmp_path / "m" / "report.html").read_text()


def test_a_clip_that_cannot_be_used_is_left_out_of_its_fold(esc, tmp_path, capsys):
    import shutil

    copy = tmp_path / "esc"
    shutil.copytree(esc, copy)
    (copy / "ESC-50-master" / "audio" / "1-100100-A-0.wav").write_bytes(b"none")
    command = ["finetune", "esc50", "--root", str(copy), "--folds", "--out", str(tmp_path / "m")]
    assert cli.main([*command, *FAST, "--epochs", "1"]) == 3
    assert len(table(tmp_path / "m" / "out_of_fold.csv")) == 79
    assert len(table(tmp_path / "m" / "failures.csv")) == 1


def test_a_fold_whose_clips_are_all_unusable_is_told_before_the_first_training(
    esc, tmp_path, capsys
):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(esc, copy)
    for path in (copy / "ESC-50-master" / "audio").glob("2-*.wav"):
        path.write_bytes(b"none")
    command = ["finetune", "esc50", "--root", str(copy), "--out", str(tmp_path / "m"), "--folds"]
    assert cli.main([*command, *FAST, "--epochs", "1"]) == 1
    said = capsys.readouterr().err
    assert "no clips are left of fold 2, which is the test in its turn; mend its clips" in said
    assert not list((tmp_path / "m").glob("fold-*"))
