"""Published corpora: fetched, unpacked and read as their authors split them."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from audio.clips import ManifestError
from audio.folds import assign_fold, official_folds
from audio.splits import SplitSettings, assign_splits
from data import published
from data.corpus import CorpusSettings, open_corpus
from data.digits import AUDIOMNIST_FOLDS
from data.download import Archive, DownloadError, held
from data.published import PUBLISHED, download, open_published, published_name
from tests import layouts

MAKERS = {
    "esc50": layouts.esc50,
    "esc10": layouts.esc50,
    "urbansound8k": layouts.urbansound8k,
    "speech-commands": layouts.speech_commands,
    "fsdd": layouts.fsdd,
    "fsdd-speakers": layouts.fsdd,
    "audiomnist": layouts.audiomnist,
}
COUNTS = {"esc50": (40, 4), "esc10": (30, 3), "urbansound8k": (60, 3), "speech-commands": (16, 2)}
COUNTS |= {"fsdd": (84, 3), "fsdd-speakers": (84, 3), "audiomnist": (24, 2)}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Return the folder above each corpus's own."""
    roots: dict[str, Path] = {}
    for name, make in MAKERS.items():
        same = next((n for n in roots if MAKERS[n] is make), None)
        roots[name] = roots[same] if same else tmp_path_factory.mktemp(name)
        if same is None:
            make(roots[name])
    return roots


def opened(name, root):
    return open_corpus(Path(name), CorpusSettings(root=root))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_corpus_is_read_from_its_folder_and_from_one_above(name, made):
    above = opened(name, made[name])
    own = opened(name, above.root)
    assert above.clips == own.clips
    assert (len(own), len(own.labels)) == COUNTS[name]
    assert all(clip.path.is_file() for clip in own.clips)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_own_split_keeps_groups_whole_and_trains_every_class(name, made):
    split = assign_splits(opened(name, made[name]), SplitSettings())  # raises where not
    assert {clip.split for clip in split.clips} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("name", "folds"),
    [("esc50", 5), ("esc10", 5), ("urbansound8k", 10), ("fsdd-speakers", 4), ("audiomnist", 5)],
)
def test_each_clip_is_tested_in_one_fold_and_no_group_is_on_two_sides(name, folds, made):
    manifest = opened(name, made[name])
    if name == "audiomnist":  # the authors' first two folds
        assert {c.fold for c in manifest.clips if c.group in ("01", "26")} == {"1", "2"}
    names = official_folds(manifest)
    assert len(names) == folds
    tested: Counter[str] = Counter()
    for fold in names:
        turn = assign_fold(manifest, fold, SplitSettings())
        tested.update(clip.key for clip in turn.in_split("test").clips)
        sides = {}
        for clip in turn.clips:
            assert sides.setdefault(clip.group, clip.split) == clip.split
    assert tested == Counter(clip.key for clip in manifest.clips)


def test_esc10_is_the_ten_classes_and_groups_are_recordings(made):
    manifest = opened("esc10", made["esc10"])
    assert "crow" not in manifest.labels
    assert "crow" in opened("esc50", made["esc50"]).labels
    first = manifest.clips[0]
    assert (first.path.name, first.group, first.fold) == ("1-100100-A-0.wav", "100100", "1")


def test_esc_in_another_format_keeps_its_table(tmp_path):
    layouts.esc50(tmp_path, suffix=".ogg")
    manifest = opened("esc50", tmp_path)
    assert {clip.path.suffix for clip in manifest.clips} == {".ogg"}
    assert all(clip.path.is_file() for clip in manifest.clips)


def test_what_lies_beside_esc_s_sounds_is_not_taken_for_them(tmp_path):
    top = layouts.esc50(tmp_path, suffix=".ogg")
    for path in sorted((top / "audio").glob("*.ogg")):
        for suffix in (".wav", ".txt", ".png"):
            path.with_suffix(suffix).write_bytes(b"x")
    table = top / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace(".wav", ".ogg"))
    assert {clip.path.suffix for clip in opened("esc50", tmp_path).clips} == {".ogg"}
    n = len(opened("esc10", tmp_path))
    table.write_text(table.read_text().replace("True", "TRUE"))  # a spreadsheet's
    assert len(opened("esc10", tmp_path)) == n


def test_esc10_in_the_first_layout_of_esc50_is_its_ten_classes(tmp_path):
    for kind, folder in enumerate(("101 - Dog", "302 - Mouse click", "201 - Rain")):
        for fold in range(1, 6):
            layouts.sound(tmp_path / folder / f"{fold}-{1000 * fold + kind}-A.ogg", kind, fold)
        (tmp_path / folder / "1-1001-A.json").write_text("{}")
        (tmp_path / folder / "Thumbs.db").write_bytes(b"x")
    assert opened("esc50", tmp_path).labels == ("Dog", "Mouse click", "Rain")
    ten = opened("esc10", tmp_path)
    assert ten.labels == ("Dog", "Rain")
    assert {clip.path.suffix for clip in ten.clips} == {".ogg"}


def test_class_folders_without_a_sound_are_told(tmp_path):
    for name in ("101 - Dog", "201 - Rain"):
        (tmp_path / name).mkdir()
    for corpus, what in (("esc50", "a class"), ("esc10", "a class of ESC-10")):
        with pytest.raises(ManifestError, match=f"no sound in it in a folder of {what}\\."):
            PUBLISHED[corpus].read(tmp_path)


def test_esc_in_its_first_layout_is_known_by_its_names(tmp_path):
    for kind, folder in enumerate(("001 - Dog bark", "002 - Rain")):
        for fold in range(1, 6):
            path = tmp_path / folder / f"{fold}-{1000 * fold + kind}-A.ogg"
            layouts.sound(path, kind, fold)
    manifest = open_corpus(tmp_path)
    assert manifest.labels == ("Dog bark", "Rain")
    assert {clip.fold for clip in manifest.clips} == set("12345")
    assert manifest.clips[0].group == "1000"
    (tmp_path / "002 - Rain" / "notes.wav").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"notes\.wav: its name is not"):
        open_corpus(tmp_path)


def test_speech_commands_leaves_the_noise_out_and_reads_both_lists(made):
    manifest = opened("speech-commands", made["speech-commands"])
    assert manifest.labels == ("no", "yes")
    side = {clip.group: clip.split for clip in manifest.clips}
    assert side == {
        "0a7c2a8d": "train",
        "1b4c9b89": "train",
        "2da58b32": "validation",
        "c50f55b8": "test",
    }


def test_fsdd_tests_the_first_five_takes_or_a_speaker(made):
    takes = assign_splits(opened("fsdd", made["fsdd"]), SplitSettings())
    tested = {clip.path.stem.split("_")[2] for clip in takes.in_split("test").clips}
    assert tested == set("01234")
    assert {c.path.stem.split("_")[2] for c in takes.in_split("train").clips} == set("56")
    speakers = assign_splits(opened("fsdd-speakers", made["fsdd"]), SplitSettings())
    assert {clip.group for clip in speakers.in_split("test").clips} == {"theo"}
    assert {clip.group for clip in speakers.in_split("validation").clips} == {"lucas"}


def test_audiomnist_s_folds_are_its_sixty_speakers_once_each():
    assert sorted(who for fold in AUDIOMNIST_FOLDS for who in fold) == list(range(1, 61))
    assert {len(fold) for fold in AUDIOMNIST_FOLDS} == {12}


@pytest.mark.parametrize("name", [n for n in PUBLISHED if PUBLISHED[n].telling])
def test_a_layout_is_known_without_a_name(name, made):
    named = opened(name, made[name])
    assert open_corpus(named.root).clips == named.clips


def test_names_are_taken_loosely_and_what_is_on_disk_wins(tmp_path, monkeypatch):
    assert published_name("ESC-50") == "esc50"
    assert published_name("UrbanSound8K") == "urbansound8k"
    assert published_name("Speech_Commands_v2") == "speech-commands"
    assert published_name("esc") is None
    monkeypatch.chdir(tmp_path)
    layouts.sound(tmp_path / "esc50" / "dog" / "a.wav", 0, 0)
    assert open_corpus(Path("esc50")).labels == ("dog",)


def test_what_is_not_there_is_told_with_how_to_fetch_it(tmp_path, monkeypatch):
    with pytest.raises(ManifestError, match=r"urbansound8k --root .* --download \(6\.0 GB\)"):
        open_corpus(Path("urbansound8k"), CorpusSettings(root=tmp_path))
    monkeypatch.setenv("MELBANDIT_CORPORA", str(tmp_path / "all"))
    with pytest.raises(ManifestError, match=f"{tmp_path}/all/ESC-50-master: ESC-50 is not in it"):
        open_corpus(Path("esc50"))
    with pytest.raises(ManifestError, match=r"nor the name of a corpus \(esc50, "):
        open_corpus(tmp_path / "nothing")
    with pytest.raises(ManifestError, match="--root goes with the name of a corpus"):
        open_corpus(Path("clips"), CorpusSettings(root=tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace("src_file", "source"), "esc50.csv:2: no value for src_file"),
        (lambda t: t.replace(",1,0,dog", ",,0,dog", 1), "esc50.csv:2: no value for fold"),
        (lambda t: t.splitlines()[0], "lists no clips"),
    ],
)
def test_a_table_that_lacks_something_is_told_with_its_line(change, words, tmp_path):
    top = layouts.esc50(tmp_path, takes=1)
    table = top / "meta" / "esc50.csv"
    table.write_text(change(table.read_text()))
    with pytest.raises(ManifestError, match=words):
        opened("esc50", tmp_path)


def test_kinds_may_be_named_as_well(tmp_path):
    layouts.sound(tmp_path / "c" / "dog" / "a.wav", 0, 0)
    (tmp_path / "m.csv").write_text("path,label\nc/dog/a.wav,hound\n")
    assert opened("folder", tmp_path / "c").labels == ("dog",)
    assert opened("csv", tmp_path / "m.csv").labels == ("hound",)
    digits = CorpusSettings(root=tmp_path / "c" / "dog", pattern="{label}")
    assert open_corpus(Path("folder"), digits).labels == ("a",)


def test_the_commands_take_a_name(made, tmp_path, capsys):
    from scripts import cli

    root = str(made["esc10"])
    convert = ["convert", "esc10", "--root", root, "--out", str(tmp_path / "images")]
    assert cli.main([*convert, "--n-mels", "24"]) == 0
    assert {p.parts[-3] for p in (tmp_path / "images").glob("*/*/*.png")} == {
        "train",
        "validation",
        "test",
    }
    fast = ["--epochs", "1", "--n-mels", "24", "--hop-length", "320", "--threads", "1"]
    model = ["finetune", "esc10", "--root", root, "--out", str(tmp_path / "model")]
    assert cli.main([*model, *fast]) == 0
    study = ["search", "esc10", "--root", root, "--out", str(tmp_path / "study"), *fast]
    study += ["--space", "quick", "--trials", "2", "--workers", "1", "--finalists", "1"]
    assert cli.main([*study, "--replicates", "1"]) == 0
    assert "18 train in 9 groups, 6 validation in 3 groups, 6 test" in capsys.readouterr().err


# Fetching


def shelf(monkeypatch, name, archive, *, clips=None):
    """Put a local archive in place of the published one."""
    n_clips, n_classes = COUNTS[name]
    corpus = replace(
        PUBLISHED[name], archive=archive, n_clips=clips or n_clips, n_classes=n_classes
    )
    monkeypatch.setattr(published, "PUBLISHED", PUBLISHED | {name: corpus})


def packed(name, made, folder):
    """Return an archive as the corpus's authors pack it, and its name."""
    real = PUBLISHED[name].archive.name
    top = opened(name, made[name]).root
    if name in ("fsdd", "audiomnist"):
        top = top.parent
    above = name != "speech-commands"
    pack = layouts.zipped if real.endswith(".zip") else layouts.tarred
    return pack(top, folder / f"server {real}", above=above)


@pytest.mark.parametrize("name", ["esc50", "urbansound8k", "speech-commands", "fsdd", "audiomnist"])
def test_a_corpus_is_fetched_unpacked_counted_and_read(name, made, tmp_path, monkeypatch):
    path = packed(name, made, tmp_path)
    there = Archive(path.as_uri(), PUBLISHED[name].archive.name, path.stat().st_size)
    shelf(monkeypatch, name, there)
    root = download(name, tmp_path / "root")
    manifest = open_published(name, root)
    assert (len(manifest), len(manifest.labels)) == COUNTS[name]
    told = {(c.path.name, c.label, c.group, c.fold, c.split) for c in manifest.clips}
    source = opened(name, made[name]).clips
    assert told == {(c.path.name, c.label, c.group, c.fold, c.split) for c in source}
    path.unlink()
    (root / ".lock").unlink()
    download(name, root)  # there already: no server is asked, and nothing is written
    assert not (root / ".lock").exists()


def test_an_archive_fetched_by_hand_is_unpacked(made, tmp_path, monkeypatch):
    path = packed("esc50", made, tmp_path)
    path.rename(tmp_path / "ESC-50-master.zip")
    shelf(monkeypatch, "esc50", Archive("http://nowhere.invalid/x", "ESC-50-master.zip"))
    assert len(open_published("esc50", download("esc50", tmp_path))) == 40


def test_a_corpus_that_is_not_whole_is_told(made, tmp_path, monkeypatch):
    path = packed("esc50", made, tmp_path)
    shelf(monkeypatch, "esc50", Archive(path.as_uri(), "a.zip"), clips=2000)
    with pytest.raises(
        ManifestError, match=r"unpacked 40 clips of 4 classes, where ESC-50 has 2,0"
    ):
        download("esc50", tmp_path / "root")
    with pytest.raises(ManifestError, match="unpacked 40 clips"):  # again, and not taken as it is
        download("esc50", tmp_path / "root")


def test_clips_that_the_table_names_and_nobody_has_are_not_counted(made, tmp_path, monkeypatch):
    top = tmp_path / "copy"
    shutil.copytree(made["esc50"], top)
    for path in sorted(top.rglob("*.wav"))[:3]:
        path.unlink()
    path = layouts.zipped(next(top.rglob("audio")).parent, tmp_path / "server.zip", above=True)
    shelf(monkeypatch, "esc50", Archive(path.as_uri(), "a.zip"), clips=40)
    with pytest.raises(ManifestError, match="unpacked 37 clips of 4 classes"):
        download("esc50", tmp_path / "root")


def test_two_processes_do_not_unpack_one_corpus(made, tmp_path, monkeypatch):
    path = packed("esc50", made, tmp_path)
    shelf(monkeypatch, "esc50", Archive(path.as_uri(), "a.zip"), clips=40)
    with held(tmp_path / "root"), pytest.raises(DownloadError, match="another process"):
        download("esc50", tmp_path / "root")
    assert len(open_published("esc50", download("esc50", tmp_path / "root"))) == 40


def test_an_archive_that_is_not_the_published_one_is_refused(made, tmp_path, monkeypatch):
    path = packed("urbansound8k", made, tmp_path)
    wrong = replace(PUBLISHED["urbansound8k"].archive, url=path.as_uri())
    shelf(monkeypatch, "urbansound8k", wrong)
    with pytest.raises(DownloadError, match=r"bytes, not the published 6,023,741,708"):
        download("urbansound8k", tmp_path / "root")


# A Hugging Face audiofolder


def sounds(root, *names):
    for i, name in enumerate(names):
        layouts.sound(root / name, i, 0, seconds=0.05)


def test_an_audiofolder_s_metadata_tell_class_speaker_and_split(tmp_path):
    sounds(tmp_path, "train/1.wav", "train/2.wav", "validation/3.wav", "test/deep/4.wav")
    for split, rows in {
        "train": [["1.wav", "ja", "anna"], ["2.wav", "nee", "bert"]],
        "validation": [["3.wav", "ja", "cora"]],
        "test": [["deep/4.wav", "nee", "dirk"]],
    }.items():
        layouts.write_table(tmp_path / split / "metadata.csv", "file_name,label,speaker_id", rows)
    manifest = open_corpus(tmp_path)
    assert [(c.label, c.group, c.split) for c in manifest.clips] == [
        ("nee", "dirk", "test"),
        ("ja", "anna", "train"),
        ("nee", "bert", "train"),
        ("ja", "cora", "validation"),
    ]
    named = open_corpus(Path("audiofolder"), CorpusSettings(root=tmp_path))
    assert named.clips == manifest.clips


def test_an_audiofolder_of_json_lines_takes_the_class_from_a_named_column(tmp_path):
    sounds(tmp_path, "a.wav", "b.wav")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.wav", "animal": "kat", "n": 1}\n\n'
        '{"file_name": "b.wav", "animal": "hond"}\n'
    )
    manifest = open_corpus(tmp_path, CorpusSettings(label_column="animal"))
    assert manifest.labels == ("hond", "kat")
    with pytest.raises(ManifestError, match=r"jsonl:1: no class: .*--label-column.*animal, n"):
        open_corpus(tmp_path)


def test_null_in_json_lines_is_no_value(tmp_path):
    sounds(tmp_path, "a.wav", "b.wav")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.wav", "label": "x", "speaker_id": null, "fold": null, "split": null}\n'
        '{"file_name": "b.wav", "label": 7, "speaker_id": 3}\n'
    )
    a, b = open_corpus(tmp_path).clips
    assert (a.label, a.group, a.fold, a.split) == ("x", None, None, None)
    assert (b.label, b.group) == ("7", "3")


def test_an_audiofolder_s_folders_are_classes_where_no_column_is(tmp_path):
    sounds(tmp_path, "train/dog/1.wav", "test/cat/2.wav")
    layouts.write_table(
        tmp_path / "metadata.csv",
        "file_name,text",
        [["train/dog/1.wav", "woof"], ["test/cat/2.wav", "meow"]],
    )
    manifest = open_corpus(tmp_path)
    assert [(c.label, c.split) for c in manifest.clips] == [("dog", "train"), ("cat", "test")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_name,label\n../x.wav,a\n", "csv:2: ../x.wav leads out of"),
        ("file_name,label\n/x.wav,a\n", "csv:2: /x.wav leads out of"),
        ("file_name,label\na.wav,a\na.wav,b\n", "csv:3: the same file is in .*csv:2"),
        ("file_name,label\n,a\n", "csv:2: no value for file_name"),
        ("name,label\na.wav,a\n", "no sound files in it"),
        ("file_name,label,split\na.wav,a,later\n", "split='later' is not one of train"),
    ],
)
def test_bad_metadata_are_told_with_their_line(text, words, tmp_path):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ManifestError, match=words):
        open_corpus(tmp_path)


def test_datasets_reads_the_same_audiofolder(tmp_path, monkeypatch):
    """Hugging Face's own reader on the same folder: the same files, classes and splits."""
    datasets = pytest.importorskip("datasets")
    as_path = lambda _, value: {"path": value, "bytes": None}  # noqa: E731  its own needs torchcodec
    monkeypatch.setattr(datasets.Audio, "encode_example", as_path)
    sounds(tmp_path, "train/1.wav", "train/2.wav", "test/3.wav")
    layouts.write_table(
        tmp_path / "train" / "metadata.csv", "file_name,label", [["1.wav", "x"], ["2.wav", "y"]]
    )
    layouts.write_table(tmp_path / "test" / "metadata.csv", "file_name,label", [["3.wav", "x"]])
    theirs = datasets.load_dataset("audiofolder", data_dir=str(tmp_path), streaming=True)
    told = {
        (split, Path(row["audio"]["path"]).name, row["label"])
        for split, part in theirs.items()
        for row in part.cast_column("audio", datasets.Audio(decode=False))
    }
    assert told == {(c.split, c.path.name, c.label) for c in open_corpus(tmp_path).clips}
