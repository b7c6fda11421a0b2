"""A group, or the same sound, on two sides of a split: refused by name, or put on record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.clips import Clip, Manifest, ManifestError
from audio.leakage import check_leakage, content_digest, same_content
from audio.splits import SplitSettings, assign_splits
from scripts import cli
from tests import layouts

FAST = ["--n-mels", "24", "--hop-length", "320", "--epochs", "1", "--threads", "1"]


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Return a CSV in whose split c.flac (test) is the same sound as a.wav (train)."""
    rows: list[list[object]] = []
    for split, n in (("train", 8), ("validation", 4), ("test", 4)):
        for i in range(n):
            name = f"{split}{i}.wav"
            layouts.sound(tmp_path / "c" / name, i % 2, 100 * len(split) + i)
            rows.append([name, "xy"[i % 2], f"{split} {i}", split])
    wave, rate = soundfile.read(tmp_path / "c" / "train2.wav", dtype="int16")
    soundfile.write(tmp_path / "c" / "copy.flac", wave, rate)
    rows.append(["copy.flac", "x", "another", "test"])
    layouts.write_table(tmp_path / "c" / "clips.csv", "path,label,group,split", rows)
    return tmp_path / "c" / "clips.csv"


def test_the_digest_is_the_samples_and_silence_has_none(rng):
    wave = rng.standard_normal(1000).astype(np.float32)
    assert content_digest(wave) == content_digest(wave.copy())
    changed = wave.copy()
    changed[-1] += 1e-6
    assert len({content_digest(w) for w in (wave, changed, wave[:-1], wave.astype(float))}) == 4
    assert content_digest(np.full(9, 0.5, np.float32)) is None
    assert content_digest(np.zeros(0, np.float32)) is None
    assert content_digest(wave[::2]) == content_digest(wave[::2].copy())


def test_sets_of_the_same_sound_are_found_in_order():
    clips = [Clip(Path(name), "x") for name in "abcdef"]
    found = same_content(clips, ["1", None, "2", "1", None, "1"])
    assert [[clip.path.name for clip in same] for same in found] == [["a", "d", "f"]]


def split(*sides: str) -> Manifest:
    clips = [Clip(Path(f"{i}.wav"), "x", split=side) for i, side in enumerate(sides)]
    return Manifest(tuple(clips), Path())


def test_the_same_sound_twice_on_one_side_is_no_leak():
    manifest = split("train", "train", "test", "test")
    assert check_leakage(manifest, ["1", "1", "2", "2"], allow=False) is None


@pytest.mark.parametrize("other", ["validation", "test"])
def test_the_pair_is_named_with_its_sides_and_the_number_of_others(other):
    manifest = split("train", "train", other, other)
    with pytest.raises(ManifestError) as error:
        check_leakage(manifest, ["1", "2", "2", "1"], allow=False)
    for words in ("0.wav in train", f"3.wav in {other}", "1 more pairs", "--allow-leakage"):
        assert words in str(error.value)
    record = check_leakage(manifest, ["1", "2", "2", "1"], allow=True)
    assert record is not None
    assert record["same_content_on_two_sides"] == 2
    assert record["pairs"][0]["first"] == "0.wav"
    assert record["pairs"][0]["second_split"] == other


def test_a_group_on_two_sides_may_be_allowed():
    sides = ("train", "train", "validation", "test")
    clips = tuple(
        Clip(Path(f"{i}{label}"), label, group=f"{i % 2}", split=side)
        for i, side in enumerate(sides)
        for label in "xy"
    )
    manifest = Manifest(clips, Path())
    with pytest.raises(ManifestError, match=r"group 0 is on two .*1 more groups.*--allow-leakage"):
        assign_splits(manifest, SplitSettings())
    assert assign_splits(manifest, SplitSettings(allow_leakage=True)).clips == clips


def test_finetune_refuses_the_same_sound_on_two_sides_before_it_trains(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert cli.main(["finetune", str(leaky), "--out", str(out), *FAST]) == 1
    said = capsys.readouterr().err
    assert "train2.wav in train and copy.flac in test are the same sound" in said
    assert "epoch" not in said
    assert not (out / "config.json").exists()


def test_what_was_allowed_is_in_every_record_of_the_model(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from audio.classifier import SpectrogramClassifier

    out = tmp_path / "model"
    command = ["finetune", str(leaky), "--out", str(out), *FAST, "--allow-leakage"]
    assert cli.main(command) == 0
    assert "leakage allowed: 0 groups and 1 sounds" in capsys.readouterr().err
    assert json.loads((out / "settings.json").read_text())["allow_leakage"] is True
    results = json.loads((out / "results.json").read_text())
    (pair,) = results["leakage"]["pairs"]
    assert (pair["first"], pair["second"], pair["why"]) == ("train2.wav", "copy.flac", "content")
    assert SpectrogramClassifier.load(out).config.leakage == results["leakage"]
    assert "Leakage was allowed" in (out / "report.html").read_text()
    clean = tmp_path / "clean"
    rows = [line for line in leaky.read_text().splitlines() if "copy" not in line]
    leaky.write_text("\n".join(rows))
    assert cli.main(["finetune", str(leaky), "--out", str(clean), *FAST]) == 0
    assert "allow_leakage" not in json.loads((clean / "settings.json").read_text())
    assert "Leakage was allowed" not in (clean / "report.html").read_text()


def test_search_refuses_it_too(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", str(leaky), "--out", str(tmp_path / "s"), "--space", "quick"]
    assert cli.main([*command, "--trials", "1", "--workers", "1"]) == 1
    assert "are the same sound" in capsys.readouterr().err


def test_pictures_of_one_sound_on_two_sides_are_refused(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    assert cli.main(["convert", str(leaky), "--out", str(images), "--n-mels", "24"]) == 0
    command = ["finetune", str(images), "--out", str(tmp_path / "m"), "--epochs", "1"]
    assert cli.main([*command, "--threads", "1"]) == 1
    assert "are the same sound" in capsys.readouterr().err
    assert cli.main([*command, "--threads", "1", "--allow-leakage"]) == 0
    assert json.loads((tmp_path / "m" / "results.json").read_text())["leakage"]


def test_silent_clips_on_both_sides_are_no_leak(tmp_path: Path) -> None:
    for split_name in ("train", "validation", "test"):
        for i in range(4):
            path = tmp_path / "c" / split_name / "xy"[i % 2] / f"{i}.wav"
            layouts.sound(path, i % 2, 10 * len(split_name) + i)
        soundfile.write(path.with_name("silent.wav"), np.zeros(3200), 8000)
    assert cli.main(["finetune", str(tmp_path / "c"), "--out", str(tmp_path / "m"), *FAST]) == 0
