"""Memory-mapped shards: what is in them, whose it is, and what a kill or a full disk leaves."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio import shards
from audio.classifier import SpectrogramClassifier
from audio.clips import ManifestError
from audio.images import read_picture
from audio.shards import open_shards
from scripts import cli
from tests import layouts


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Forty clips of two classes, one of them no sound."""
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "clips" / f"class {i % 2}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.02 * (1 + i % 5), 8000), 16000)
    (tmp_path / "clips" / "class 1" / "7.wav").write_text("no sound")
    return tmp_path / "clips"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "_SHARD_ROWS", 6)


def convert(corpus, out, *more) -> int:
    return cli.main(["convert", str(corpus), "--out", str(out), "--n-mels", "24", *more])


def test_shards_hold_the_levels_of_the_pictures_under_their_labels(corpus, tmp_path):
    assert convert(corpus, tmp_path / "png") == 3
    pictures = {}
    for table in (tmp_path / "png").glob("*/metadata.csv"):
        with table.open(newline="") as lines:
            for row in csv.DictReader(lines):
                picture = read_picture(table.parent / row["file_name"])
                pictures[row["source"]] = (row["label"], table.parent.name, picture)
    assert len(pictures) == 39
    for form in ("uint8", "float16"):
        assert convert(corpus, tmp_path / form, "--format", form) == 3
        found = open_shards(tmp_path / form)
        assert {row["source"] for row in found.rows} == set(pictures)
        for i, row in enumerate(found.rows):
            label, split, picture = pictures[row["source"]]
            assert (row["label"], row["split"], int(row["n_valid"])) == (label, split, 8000)
            stored = found.stored(i)
            assert stored.dtype == np.dtype(form)
            assert isinstance(stored.base, np.memmap)
            if form == "uint8":
                assert np.array_equal(stored, picture.pixels)
                assert np.allclose(found[i], picture.level, atol=1e-4)
            else:
                half_a_step = (picture.high - picture.low) / 255 / 2
                assert np.abs(found[i] - picture.level).max() < half_a_step + 0.04


def test_a_torch_loader_takes_a_split(corpus, tmp_path):
    import torch

    convert(corpus, tmp_path / "o", "--format", "uint8")
    found = open_shards(tmp_path / "o")
    train = found.in_split("train")
    assert 0 < len(train) < len(found)
    assert set(train.labels) == {"class 0", "class 1"}
    batches = list(torch.utils.data.DataLoader(train, batch_size=8))
    assert sum(len(batch) for batch in batches) == len(train)
    assert batches[0].shape[1:] == train[0].shape
    assert batches[0].dtype == torch.float32
    assert np.array_equal(train[-1], train[len(train) - 1])
    with pytest.raises(IndexError):
        train[len(train)]


def test_the_readme_s_loader_runs(corpus, tmp_path):
    convert(corpus, tmp_path / "o", "--format", "uint8")
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```py\n(.*?)```", readme, re.S)
    names: dict = {}
    exec(block.replace("runs/shards", str(tmp_path / "o")), names)
    assert names["level"].shape[0] == 24
    assert names["label"] in ("class 0", "class 1")
    assert next(iter(names["loader"])).shape[1] == 24


def test_numpy_alone_reads_a_shard(corpus, tmp_path):
    convert(corpus, tmp_path / "o", "--format", "float16")
    for path in (tmp_path / "o").glob("*/shard-*.npy"):
        levels = np.load(path)
        with path.with_suffix(".csv").open(newline="") as lines:
            assert len(list(csv.DictReader(lines))) == len(levels) <= 6


def test_whole_shards_are_kept_and_the_rest_is_made_again(corpus, tmp_path, capsys):
    out = tmp_path / "o"
    assert convert(corpus, out, "--format", "uint8") == 3
    capsys.readouterr()
    made = sorted(out.glob("*/shard-*.npy"))
    before = {path: path.read_bytes() for path in made}
    index = (out / "index.csv").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in made[2:]}
    for gone in (*made[:2], out / "results.json", out / "index.csv"):
        gone.unlink()
    made[0].with_name(made[0].name + ".part").write_bytes(b"torn")
    assert convert(corpus, out, "--format", "uint8") == 3
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert (result["pictures"], result["failed"]) == (39, 1)
    assert "7.wav" in captured.err
    assert 0 < result["new"] <= 12
    assert {path: path.read_bytes() for path in made} == before
    assert (out / "index.csv").read_bytes() == index
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert not list(out.rglob("*.part"))


def test_why_a_clip_failed_is_kept_and_what_lacked_pyav_is_made_when_it_is_there(
    corpus, tmp_path, monkeypatch
):
    wave = np.random.default_rng(1).normal(0, 1000, (8000, 1)).astype(np.int16)
    layouts.write_by_ffmpeg(corpus / "class 0" / "8.wav", wave, 16000, "flac", "matroska")
    out = tmp_path / "o"

    def reasons() -> dict[str, str]:
        assert convert(corpus, out, "--format", "uint8") == 3
        with (out / "failures.csv").open(newline="") as lines:
            return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(lines)}

    monkeypatch.setitem(sys.modules, "av", None)
    first = reasons()
    assert sorted(first) == ["7.wav", "8.wav"]
    assert all("libsndfile cannot read it" in reason for reason in first.values())
    assert reasons() == first
    monkeypatch.undo()
    monkeypatch.setattr(shards, "_SHARD_ROWS", 6)  # was undone, too
    second = reasons()
    assert list(second) == ["7.wav"]
    assert "not a sound file that can be read" in second["7.wav"]
    assert len(open_shards(out)) == 39


def test_a_full_disk_leaves_whole_shards_alone(corpus, tmp_path, monkeypatch, capsys):
    """posix_fallocate reports it; a mapped page of a full disk would kill the process."""
    reserve, n = os.posix_fallocate, [0]

    def full(file, offset, size):
        n[0] += 1
        if n[0] > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(file, offset, size)

    monkeypatch.setattr("audio.shards.os.posix_fallocate", full)
    out = tmp_path / "o"
    assert convert(corpus, out, "--format", "uint8", "--workers", "1") == 1
    monkeypatch.setattr("audio.shards.os.posix_fallocate", reserve)
    assert "the disk is full" in capsys.readouterr().err
    assert not list(out.rglob("*.part"))
    with pytest.raises(ManifestError, match="no finished folder of shards"):
        open_shards(out)
    assert convert(corpus, out, "--format", "uint8") == 3
    assert len(open_shards(out)) == 39


def test_shards_in_colour_or_turned_are_refused(corpus, tmp_path, capsys):
    for more in (["--colormap", "magma"], ["--orientation", "sideways"]):
        assert convert(corpus, tmp_path / "o", "--format", "uint8", *more) == 1
        assert "leave them out" in capsys.readouterr().err.lower()
    assert not (tmp_path / "o").exists()


def test_other_settings_in_a_folder_of_shards_are_refused(corpus, tmp_path, capsys):
    assert convert(corpus, tmp_path / "o", "--format", "uint8") == 3
    assert convert(corpus, tmp_path / "o", "--format", "float16") == 1
    assert "format (uint8 there, float16 here)" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["uint8", "float16"])
def test_a_classifier_is_fitted_to_shards_as_to_pictures(corpus, tmp_path, capsys, form):
    fitted = {}
    for kind in ("png", form):
        assert convert(corpus, tmp_path / kind, "--format", kind) == 3
        command = ["finetune", str(tmp_path / kind), "--out", str(tmp_path / f"model-{kind}")]
        assert cli.main([*command, "--epochs", "3", "--size", "nano"]) == 0
        results = json.loads((tmp_path / f"model-{kind}" / "results.json").read_text())
        fitted[kind] = results["history"], results["test"]["n"], results["corpus"]
    assert fitted["png"][1:] == fitted[form][1:]
    rough = 1e-4 if form == "uint8" else 0.05  # the pictures' 8 bits or float16's 11
    for one, other in zip(fitted["png"][0], fitted[form][0], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=rough)
    model = SpectrogramClassifier.load(tmp_path / f"model-{form}")
    assert model.settings.spectrogram.n_mels == 24
    capsys.readouterr()
    cli.main(["finetune", str(tmp_path / form), "--out", str(tmp_path / "x"), "--n-mels", "30"])
    assert "leave out n_mels" in capsys.readouterr().err


def test_the_same_sound_on_two_sides_of_shards_is_refused(corpus, tmp_path, capsys):
    sound = (corpus / "class 0" / "0.wav").read_bytes()
    table = ["path,label,split"]
    for split in ("train", "validation", "test"):
        for label in ("a", "b"):
            name = f"{split}-{label}.wav"
            (corpus / name).write_bytes((corpus / "class 0" / f"{2 * len(table)}.wav").read_bytes())
            table.append(f"{name},{label},{split}")
    for split in ("train", "test"):
        (corpus / f"twice-{split}.wav").write_bytes(sound)
        table.append(f"twice-{split}.wav,a,{split}")
    (corpus / "table.csv").write_text("\n".join(table))
    assert convert(corpus / "table.csv", tmp_path / "shards", "--format", "uint8") == 0
    capsys.readouterr()
    command = ["finetune", str(tmp_path / "shards"), "--out", str(tmp_path / "x")]
    assert cli.main(command) == 1
    told = capsys.readouterr().err
    assert "twice-train.wav" in told
    assert "twice-test.wav" in told
