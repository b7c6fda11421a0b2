"""From a folder to labels: subfolders, splits above them, file names, a CSV."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audio.clips import Clip, ManifestError
from audio.sound_files import list_sounds
from data.corpus import CorpusSettings, open_corpus


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"sound")


def told(manifest):
    """Return {path below the root: (label, group, fold, split)}."""
    return {manifest.relative(c.path): (c.label, c.group, c.fold, c.split) for c in manifest.clips}


def test_a_subfolder_is_a_class(tmp_path):
    touch(tmp_path, "dog/a.wav", "cat/deep/b.FLAC", "cat/notes.txt")
    assert told(open_corpus(tmp_path)) == {
        "dog/a.wav": ("dog", None, None, None),
        "cat/deep/b.FLAC": ("cat", None, None, None),
    }


@pytest.mark.parametrize(
    ("names", "side"),
    [
        (("train", "val", "test"), {"train", "validation", "test"}),
        (("Training", "dev", "testing"), {"train", "validation", "test"}),
        (("train", "validation"), {"train", "validation"}),
    ],
)
def test_split_folders_above_the_classes_are_kept(tmp_path, names, side):
    touch(tmp_path, *(f"{name}/{label}/a.wav" for name in names for label in ("x", "y")))
    manifest = open_corpus(tmp_path)
    assert manifest.labels == ("x", "y")
    assert {clip.split for clip in manifest.clips} == side


def test_a_class_that_is_called_test_is_a_class(tmp_path):
    touch(tmp_path, "test/take1/a.wav", "music/b.wav")
    assert told(open_corpus(tmp_path)) == {
        "test/take1/a.wav": ("test", None, None, None),
        "music/b.wav": ("music", None, None, None),
    }


def test_what_is_beside_two_splits_is_left_out_and_told(tmp_path):
    touch(tmp_path, *(f"{side}/{label}/a.wav" for side in ("train", "test") for label in "xy"))
    touch(tmp_path, "_background_noise_/hum.wav", "_background_noise_/more/hiss.wav")
    manifest = open_corpus(tmp_path)
    assert manifest.labels == ("x", "y")
    assert {clip.split for clip in manifest.clips} == {"train", "test"}
    (note,) = manifest.notes
    assert "2 files beside test, train are left out" in note
    assert "_background_noise_/hum.wav" in note


def test_a_metadata_csv_without_file_names_is_something_else(tmp_path):
    touch(tmp_path, "dog/a.wav", "cat/b.wav")
    (tmp_path / "metadata.csv").write_text("id,species\n1,dog\n")
    assert open_corpus(tmp_path).labels == ("cat", "dog")
    (tmp_path / "metadata.csv").write_text("file_name,label\ndog/a.wav,wolf\n")
    assert open_corpus(tmp_path).labels == ("wolf",)
    assert open_corpus(Path("folder"), CorpusSettings(root=tmp_path)).labels == ("cat", "dog")


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "in/dog/a.wav", "elsewhere/b.wav")
    (tmp_path / "in" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "dog" / "up").symlink_to(tmp_path / "in")
    assert told(open_corpus(tmp_path / "in")) == {
        "cat/b.wav": ("cat", None, None, None),
        "dog/a.wav": ("dog", None, None, None),
    }


def test_what_two_folders_hold_by_a_link_is_in_both(tmp_path):
    touch(tmp_path, "all/dog/a.wav", "all/cat/b.wav")
    (tmp_path / "train").mkdir()
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).symlink_to(tmp_path / "all" / label)
    assert len(list_sounds(tmp_path)) == 4
    (tmp_path / "all" / "dog" / "round").symlink_to(tmp_path / "all" / "cat")
    (tmp_path / "all" / "cat" / "round").symlink_to(tmp_path / "all" / "dog")
    assert len(list_sounds(tmp_path)) == 8  # one link further, and no round trip


def test_folders_that_may_not_be_listed_are_told(tmp_path, monkeypatch):
    touch(tmp_path, "dog/a.wav", "cat/b.wav")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.scandir", scandir)
    (note,) = open_corpus(tmp_path).notes
    assert f"{tmp_path / 'cat'} may not be listed" in note


def test_names_that_are_not_utf8_are_left_out_and_told(tmp_path):
    touch(tmp_path, "dog/a.wav", os.fsdecode(b"dog/caf\xe9.wav"))
    manifest = open_corpus(tmp_path)
    assert told(manifest) == {"dog/a.wav": ("dog", None, None, None)}
    assert manifest.fingerprint()
    (note,) = manifest.notes
    assert "1 files are left out, for their names are not UTF-8" in note
    (tmp_path / "dog" / "a.wav").unlink()
    with pytest.raises(ManifestError, match=r"not UTF-8 .*rename them"):
        open_corpus(tmp_path)


def test_a_pattern_that_can_be_read_in_two_ways_is_told(tmp_path):
    touch(tmp_path, "wolf-grey-1.wav", "dog-2.wav")
    manifest = open_corpus(tmp_path, CorpusSettings(pattern="{label}-{take}"))
    assert manifest.labels == ("dog", "wolf")
    (note,) = manifest.notes
    assert "fits 1 names in more than one way" in note
    assert "wolf-grey-1: label 'wolf', or 'wolf-grey'" in note


def test_hidden_files_and_other_kinds_are_no_sounds(tmp_path):
    touch(tmp_path, "x/b.wav", "x/a.mp3", "x/._a.wav", ".cache/c.wav", "x/readme.md", "x/wav")
    (tmp_path / "x" / "folder.wav").mkdir()
    assert list_sounds(tmp_path) == [tmp_path / "x" / "a.mp3", tmp_path / "x" / "b.wav"]


def test_files_of_other_kinds_are_told_of_unless_they_are_what_stands_beside_sounds(tmp_path):
    touch(tmp_path, "x/a.gsm", "x/b.WAV", "x/c.g729", "x/d.g729", "x/sound", "x/notes.txt")
    manifest = open_corpus(tmp_path)
    assert [clip.path.name for clip in manifest.clips] == ["a.gsm", "b.WAV"]
    (note,) = manifest.notes
    assert "3 files are not taken for sound (2 that end in '.g729', 1 without an ending)" in note
    assert "CSV" in note
    assert open_corpus(tmp_path, CorpusSettings(pattern="{label}")).notes == (note,)


def test_where_no_file_is_taken_for_sound_the_error_says_which_are_there(tmp_path):
    touch(tmp_path, "x/c.g729", "x/notes.txt")
    with pytest.raises(ManifestError, match=r"no sound files.*1 that end in '.g729'"):
        open_corpus(tmp_path)


def test_a_link_that_leads_nowhere_is_a_clip_that_cannot_be_used(tmp_path):
    touch(tmp_path, "x/a.wav")
    (tmp_path / "x" / "b.wav").symlink_to(tmp_path / "gone.wav")
    assert [clip.path.name for clip in open_corpus(tmp_path).clips] == ["a.wav", "b.wav"]


def test_a_pattern_reads_the_file_names(tmp_path):
    touch(tmp_path, "7_theo_12.wav", "0_jackson_3.wav")
    manifest = open_corpus(tmp_path, CorpusSettings(pattern="{label}_{group}_{take}"))
    assert told(manifest) == {
        "0_jackson_3.wav": ("0", "jackson", None, None),
        "7_theo_12.wav": ("7", "theo", None, None),
    }


def test_a_pattern_with_a_slash_reads_the_path(tmp_path):
    touch(tmp_path, "fold1/valid/dog.3.wav", "fold2/training/cat.4.ogg")
    manifest = open_corpus(tmp_path, CorpusSettings(pattern="fold{fold}/{split}/{label}.{}"))
    assert told(manifest) == {
        "fold1/valid/dog.3.wav": ("dog", None, "1", "validation"),
        "fold2/training/cat.4.ogg": ("cat", None, "2", "train"),
    }


def test_signs_in_a_pattern_stand_for_themselves(tmp_path):
    touch(tmp_path, "a+b(1).wav")
    manifest = open_corpus(tmp_path, CorpusSettings(pattern="{label}({})"))
    assert manifest.labels == ("a+b",)


def test_a_csv_is_read_as_it_is_and_a_folders_own_manifest_wins(tmp_path):
    touch(tmp_path, "dog/a.wav", "dog/b.wav")
    (tmp_path / "manifest.csv").write_text("path,label\ndog/a.wav,hound\n")
    for source in (tmp_path, tmp_path / "manifest.csv"):
        assert open_corpus(source).clips == (Clip(tmp_path / "dog" / "a.wav", "hound"),)


@pytest.mark.parametrize(
    ("names", "source", "pattern", "words"),
    [
        ((), "gone", None, ("gone", "no such file or folder")),
        (("a.txt",), "a.txt", None, ("a.txt", "CSV")),
        (("a.txt",), "", None, ("no sound files", "*.wav")),
        (("x/a.wav", "b.wav"), "", None, ("b.wav", "outside any class folder", "--pattern")),
        (("a.wav",), "", "{label}_{group}", ("a.wav", "does not fit --pattern")),
        (("a.wav",), "", "{group}", ("pattern='{group}'", "{label}")),
        (("a.wav",), "", "{label}_{label}", ("{label} twice",)),
        (("later_a.wav",), "", "{split}_{label}", ("'later'", "train, validation, test")),
    ],
)
def test_a_source_without_labels_is_refused_with_the_remedy(
    tmp_path, names, source, pattern, words
):
    touch(tmp_path, *names)
    with pytest.raises(ManifestError) as error:
        open_corpus(tmp_path / source, CorpusSettings(pattern=pattern))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("pattern", ["{label}_{1st}", "{label} {no-name}"])
def test_a_pattern_with_an_impossible_name_is_refused(tmp_path, pattern):
    touch(tmp_path, "a_b.wav")
    with pytest.raises(ManifestError, match="pattern"):
        open_corpus(tmp_path, CorpusSettings(pattern=pattern))


@pytest.mark.slow
def test_the_spoken_digits_are_read_by_their_names(shared):
    folder = next(iter(shared.glob("**/*_jackson_0.wav")), None)
    if folder is None:
        pytest.skip("no spoken digits (FSDD) among the shared corpora")
    manifest = open_corpus(folder.parent, CorpusSettings(pattern="{label}_{group}_{take}"))
    assert manifest.labels == tuple("0123456789")
    assert "jackson" in {clip.group for clip in manifest.clips}
