"""Levels as pictures, and the folder that other tools read."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from audio.clips import Clip, Manifest, ManifestError
from audio.images import (
    colour,
    contact_sheet,
    encode_picture,
    from_pixels,
    is_images_folder,
    level_range,
    picture_paths,
    read_images_folder,
    read_picture,
    to_pixels,
    write_atomically,
    write_metadata,
)
from audio.settings import Settings, SpectrogramSettings
from audio.spectrogram import LogMel

SETTINGS = SpectrogramSettings(n_mels=32, clip_s=0.5)
LEVELS = hnp.arrays(np.float32, (6, 9), elements=st.floats(-200, 100, width=32, allow_nan=False))


@given(LEVELS)
@hypothesis_settings(max_examples=60)
def test_a_picture_gives_the_levels_back_to_within_half_a_step(tmp_path, level):
    write_atomically(tmp_path / "a.png", encode_picture(level, SETTINGS, n_valid=7))
    picture = read_picture(tmp_path / "a.png")
    half_a_step = (picture.high - picture.low) / 255 / 2
    assert np.abs(picture.level - level).max() <= half_a_step + 1e-4
    assert picture.n_valid == 7


def test_black_is_the_least_level_and_white_the_greatest():
    level = np.array([[-80.0, -40.0, 0.0]], np.float32)
    low, high = level_range(level)
    assert to_pixels(level, low, high).tolist() == [[0, 128, 255]]
    assert from_pixels(np.array([0, 255], np.uint8), low, high).tolist() == [-80.0, 0.0]


def test_levels_out_of_range_are_black_or_white_not_wrapped():
    assert to_pixels(np.array([-300.0, 300.0], np.float32), -80, 0).tolist() == [0, 255]


def test_a_flat_level_has_a_range():
    low, high = level_range(np.full((2, 2), -100, np.float32))
    assert high > low


def test_the_png_says_what_its_levels_are():
    level = np.array([[-80.0, -1.5], [0.25, -3.0]], np.float32)
    png = Image.open(io.BytesIO(encode_picture(level, SETTINGS, n_valid=99)))
    assert (png.format, png.mode, png.size) == ("PNG", "L", (2, 2))
    assert png.text == {
        "melbandit": SETTINGS.fingerprint(),
        "low_db": "-80.0",
        "high_db": "0.25",
        "n_valid": "99",
    }


@pytest.mark.parametrize(("hz", "bright"), [(200.0, "bottom"), (6000.0, "top")])
def test_low_tones_are_at_the_bottom(hz, bright):
    wave = np.sin(2 * np.pi * hz * np.arange(8000) / 16000).astype(np.float32)
    level = LogMel(SETTINGS)(torch.from_numpy(wave)[None])[0].numpy()
    image = np.asarray(Image.open(io.BytesIO(encode_picture(level, SETTINGS, n_valid=8000))))
    assert image.shape == (32, SETTINGS.n_frames)
    rows = image.mean(1)
    assert (rows[:16].mean() > rows[16:].mean()) == (bright == "top")


def test_time_runs_to_the_right():
    level = np.tile(np.arange(9, dtype=np.float32), (4, 1))
    image = np.asarray(Image.open(io.BytesIO(encode_picture(level, SETTINGS, n_valid=1))))
    assert (np.diff(image[0].astype(int)) > 0).all()


def test_a_coloured_picture_is_refused_as_levels(tmp_path):
    level = np.arange(12, dtype=np.float32).reshape(3, 4)
    png = encode_picture(level, SETTINGS, n_valid=1, colormap="viridis")
    assert Image.open(io.BytesIO(png)).mode == "RGB"
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(ManifestError, match=r"a\.png: coloured \(viridis\).*without --colormap"):
        read_picture(tmp_path / "a.png")


def test_the_colours_are_matplotlibs():
    import matplotlib

    pixels = np.array([[0, 100, 255]], np.uint8)
    expected = matplotlib.colormaps["magma"](pixels, bytes=True)[..., :3].astype(int)
    assert np.abs(colour(pixels, "magma").astype(int) - expected).max() <= 1


def test_another_tools_picture_is_refused(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(ManifestError, match=r"a\.png: not made by `melbandit convert`"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("harm", ["missing", "empty", "text", "cut", "flipped"])
def test_a_harmed_picture_is_refused_with_its_path(tmp_path, harm):
    png = encode_picture(
        np.random.default_rng(0).uniform(-80, 0, (32, 50)).astype(np.float32), SETTINGS, n_valid=1
    )
    path = tmp_path / "a.png"
    if harm != "missing":
        broken = {"empty": b"", "text": b"no picture", "cut": png[: len(png) // 2]}
        path.write_bytes(broken.get(harm, png[:300] + bytes([png[300] ^ 255]) + png[301:]))
    with pytest.raises(ManifestError, match=r"a\.png: not a readable picture"):
        read_picture(path)


@given(st.lists(st.sampled_from(["a", "A", "a-2", ".a", "_a", "ä"]), min_size=1, max_size=12))
@hypothesis_settings(max_examples=60)
def test_pictures_of_clashing_names_have_names_of_their_own(stems):
    clips = [
        Clip(Path(f"{i}") / f"{stem}.wav", "Dog" if i % 2 else "dog", split="train")
        for i, stem in enumerate(stems)
    ]
    paths = picture_paths(Manifest(tuple(clips), Path()))
    names = [path.as_posix() for path in paths]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(path.parts[0] == "train" and not path.name.startswith(".") for path in paths)


def test_pieces_of_one_file_have_names_of_their_own():
    clips = [Clip(Path("a.wav"), "x", split="test", start_s=s, duration_s=1) for s in (0.0, 1.0)]
    paths = picture_paths(Manifest(tuple(clips), Path()))
    assert [str(p) for p in paths] == ["test/x/a@0.000.png", "test/x/a@1.000.png"]


def test_a_long_name_fits_into_a_file_system():
    clips = [Clip(Path(f"{'ä' * 120}{i}.wav"), "x" * 300, split="train") for i in range(3)]
    paths = picture_paths(Manifest(tuple(clips), Path()))
    assert len(set(paths)) == 3
    assert all(len(part.encode()) < 250 for path in paths for part in path.parts)


@pytest.mark.parametrize("label", ["../up", "a/b", "..", ".", "a\\b", "nul\0"])
def test_no_label_leads_out_of_its_folder(label):
    (path,) = picture_paths(Manifest((Clip(Path("a.wav"), label, split="train"),), Path()))
    assert len(path.parts) == 3
    assert path.parts[0] == "train"
    assert not path.parts[1].startswith(".")
    assert "\0" not in str(path)


def write_folder(root: Path) -> list[Clip]:
    """Write a folder of pictures as convert does; return its clips."""
    clips = [
        Clip(Path(f"{i}.wav"), f"{'dög' if i % 2 else 'cat, big'}", f"g{i}", split=split)
        for i, split in enumerate(["train", "train", "validation", "validation", "test", "test"])
    ]
    rows = []
    for i, (clip, path) in enumerate(
        zip(clips, picture_paths(Manifest(tuple(clips), Path())), strict=True)
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        level = np.full((4, 5), i, np.float32)
        level[0, 0] = 255
        write_atomically(root / path, encode_picture(level, SETTINGS, n_valid=i))
        rows.append(
            {"path": path.as_posix(), "label": clip.label, "group": clip.group, "fold": ""}
            | {"source": str(clip.path)}
        )
    write_metadata(root, rows)
    record = {"settings": Settings(spectrogram=SETTINGS).to_json()}
    (root / "settings.json").write_text(json.dumps(record))
    return clips


def test_hugging_face_datasets_reads_the_folder_with_its_labels(tmp_path):
    import datasets

    clips = write_folder(tmp_path / "images")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "images"), cache_dir=str(tmp_path / "cache")
    )
    assert set(found) == {"train", "validation", "test"}
    for split, rows in found.items():
        expected = {
            (c.label, c.group, str(c.path), i) for i, c in enumerate(clips) if c.split == split
        }
        labels = rows.features["label"]
        told = {
            (
                labels.int2str(row["label"]) if hasattr(labels, "int2str") else row["label"],
                row["group"],
                row["source"],
                round(float(np.asarray(row["image"])[0, 0])),  # the picture is the clip's own
            )
            for row in rows
        }
        assert {row[:3] for row in told} == {row[:3] for row in expected}


def test_the_folder_is_read_back_with_its_settings(tmp_path):
    clips = write_folder(tmp_path)
    manifest, settings = read_images_folder(tmp_path)
    assert is_images_folder(tmp_path)
    assert settings == SETTINGS
    told = {(c.label, c.group, c.fold, c.split) for c in manifest.clips}
    assert told == {(c.label, c.group, None, c.split) for c in clips}
    for clip in manifest.clips:
        picture = read_picture(clip.path)
        assert clip.group == f"g{picture.n_valid}"


def test_an_unfinished_folder_is_refused_with_the_remedy(tmp_path):
    assert not is_images_folder(tmp_path)
    with pytest.raises(ManifestError, match=r"no readable settings\.json"):
        read_images_folder(tmp_path)
    record = {"settings": Settings(spectrogram=SETTINGS).to_json()}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    with pytest.raises(ManifestError, match="lists no pictures; run `melbandit convert`"):
        read_images_folder(tmp_path)


def test_a_write_that_fails_leaves_nothing_half_done(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    write, calls = os.write, []

    def full(file, data):  # as a disk does that has room for a little more
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, bytes(data)[:2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as error:
        write_atomically(path, b"new")
    assert error.value.filename == str(path)
    assert calls == [3, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_a_contact_sheet_has_a_cell_for_each_picture():
    pictures = [(f"label {i}", np.full((8, 9), 255, np.uint8)) for i in range(4)]
    sheet = np.asarray(contact_sheet(pictures, columns=3, cell=(60, 30)))
    assert sheet.shape == (2 * (30 + 22 + 8) + 8, 3 * (60 + 8) + 8, 3)
    white = colour(np.array([[255]], np.uint8), "magma")[0, 0].astype(int)
    assert np.abs(sheet[8 + 22 + 15, 8 + 30] - white).max() <= 2
    assert (sheet[8 + 60 + 22 + 15, 8 + 68 + 30] == 255).all()  # the sixth cell stays white
