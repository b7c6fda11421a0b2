"""Manifests and splits: CSV goes round, and no group is ever on two sides."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio.clips import SPLITS, Clip, Manifest, ManifestError, read_csv, write_csv
from audio.splits import SplitSettings, assign_splits, check_splits


def manifest_of(n_groups=10, per_group=4, labels="ab", **more):
    clips = [
        Clip(Path(f"{g}-{i}.wav"), labels[i % len(labels)], group=f"g{g}", **more)
        for g in range(n_groups)
        for i in range(per_group)
    ]
    return Manifest(tuple(clips), Path())


def sides(manifest):
    """Return the set of splits of each group, or of each clip without one."""
    found = defaultdict(set)
    for i, clip in enumerate(manifest.clips):
        found[clip.group or i].add(clip.split)
    return found


# CSV

_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029"),
    min_size=1,
    max_size=12,
).filter(lambda s: not s.endswith(" "))
# a backslash parts folders where no file has it in its name
_NAMES = _TEXT.filter(lambda s: not {"/", "\\"} & set(s) and s not in (".", ".."))
_CLIPS = st.builds(
    Clip,
    path=_NAMES.map(Path),
    label=_TEXT,
    group=st.none() | _TEXT,
    fold=st.none() | _TEXT,
    split=st.none() | st.sampled_from(SPLITS),
    start_s=st.floats(0, 1e4).map(lambda x: round(x, 3)),
    duration_s=st.none() | st.floats(0.001, 1e4).map(lambda x: round(x, 3)),
)


@given(st.lists(_CLIPS, min_size=1, max_size=6, unique_by=lambda clip: clip.key))
@hypothesis_settings(max_examples=80)
def test_csv_gives_the_same_clips_back(tmp_path, clips):
    manifest = Manifest(
        tuple(Clip(**{**vars(c), "path": tmp_path / c.path}) for c in clips), tmp_path
    )
    write_csv(manifest, tmp_path / "manifest.csv")
    assert read_csv(tmp_path / "manifest.csv") == manifest


def test_csv_keeps_labels_of_any_script(tmp_path):
    clip = Clip(tmp_path / "Пёс, 犬.wav", 'dog "犬", größer', group="Zoë")
    write_csv(Manifest((clip,), tmp_path), tmp_path / "m.csv")
    assert read_csv(tmp_path / "m.csv").clips == (clip,)


def test_paths_in_a_csv_count_from_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "m.csv").write_text("path,label\n../a.wav,x\n/far/b.wav,y\n")
    monkeypatch.chdir("/")
    first, second = read_csv(tmp_path / "lists" / "m.csv").clips
    assert os.path.normpath(first.path) == str(tmp_path / "a.wav")
    assert second.path == Path("/far/b.wav")


def test_a_csv_that_lies_elsewhere_still_points_to_the_clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    write_csv(Manifest((Clip(Path("clips/a.wav"), "x"),), Path("clips")), Path("out/m.csv"))
    assert read_csv(Path("out/m.csv")).clips[0].path == tmp_path / "clips" / "a.wav"


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_header(tmp_path):
    (tmp_path / "m.csv").write_bytes("\ufeffpath,label\r\na.wav,x\r\n".encode())
    assert read_csv(tmp_path / "m.csv").labels == ("x",)


@pytest.mark.parametrize(
    "text",
    [
        "path;label;group\na.wav;dog;1\nsub/b.wav;cat;2\n",
        "path\tlabel\tgroup\na.wav\tdog\t1\nsub/b.wav\tcat\t2\n",
        "Path, Label, Group\na.wav, dog, 1\n,,\nsub/b.wav,cat ,2\n\n",
        'path,label,group\n"a.wav","dog","1"\n"sub/b.wav", "cat", "2"\n',
        "path,label,group\na.wav,dog,1\nsub\\b.wav,cat,2\n",
    ],
)
def test_a_table_is_read_as_spreadsheets_and_people_write_it(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    a, b = read_csv(tmp_path / "m.csv").clips
    assert (a.path, a.label, a.group) == (tmp_path / "a.wav", "dog", "1")
    assert (b.path, b.label, b.group) == (tmp_path / "sub" / "b.wav", "cat", "2")


def test_a_backslash_in_a_files_own_name_stays(tmp_path):
    (tmp_path / "a\\b.wav").touch()
    (tmp_path / "m.csv").write_text("path,label\na\\b.wav,dog\n")
    assert read_csv(tmp_path / "m.csv").clips[0].path == tmp_path / "a\\b.wav"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("no column label or path",)),
        ("file,label\na.wav,x\n", ("no column path", "group", "It is: file, label.")),
        ("path label\na.wav x\n", ("no column label or path", "It is: path label.")),
        ('path,label\na.wav,"dog\nb.wav,cat\nc.wav,cat\n', (":4:", "not closed")),
        ("path,label\na.wav,dog, big\n", (":2:", "3 cells", "header has 2", "quotation marks")),
        ("path;labels\na.wav;rain;wind\n", (":2:", "3 cells", "holds a ';'")),
        ("path,label\n", ("lists no clips",)),
        ("path,label\na.wav,\n", (":2:", "path and label")),
        ("path,label\na.wav,x\n,x\n", (":3:", "path and label")),
        ("path,label\na.wav\n", (":2:", "path and label")),
        ("path,label\na.wav,x\nb.wav,x\na.wav,y\n", (":4:", "line 2")),
        ("path,label,split\na.wav,x,dev\n", (":2:", "split='dev'", "train, validation, test")),
        ("path,label,start_s\na.wav,x,soon\n", (":2:", "start_s='soon'", "seconds")),
        ("path,label,start_s\na.wav,x,-1\n", (":2:", "start_s=-1")),
        ("path,label,duration_s\na.wav,x,0\n", (":2:", "duration_s=0")),
        ("path,label,duration_s\na.wav,x,nan\n", (":2:", "duration_s=nan")),
    ],
)
def test_a_bad_csv_is_refused_with_file_line_and_rule(tmp_path, text, words):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ManifestError) as error:
        read_csv(path)
    for word in (str(path), *words):
        assert word in str(error.value)


def test_a_csv_in_another_encoding_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "m.csv").write_bytes("path,label\na.wav,größe\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"m\.csv: not UTF-8.*save it as UTF-8"):
        read_csv(tmp_path / "m.csv")


def test_pieces_of_one_file_are_different_clips(tmp_path):
    (tmp_path / "m.csv").write_text("path,label,start_s,duration_s\na.wav,x,0,1\na.wav,x,1,1\n")
    first, second = read_csv(tmp_path / "m.csv").clips
    assert first.key != second.key
    assert (second.start_s, second.duration_s) == (1.0, 1.0)


# Splits


@st.composite
def corpora(draw):
    """Return a manifest whose groups hold 1 to 6 clips of 2 to 4 classes, some without group."""
    labels = "abcd"[: draw(st.integers(2, 4))]
    clips = []
    for g in range(draw(st.integers(12, 25))):
        group = draw(st.sampled_from([f"g{g}", f"g{g}", None]))
        for i in range(draw(st.integers(1, 6))):
            label = draw(st.sampled_from(labels)) if i else labels[g % len(labels)]
            clips.append(Clip(Path(f"{g}-{i}.wav"), label, group=group))
    return Manifest(tuple(clips), Path())


@given(corpora(), st.integers(0, 100), st.sampled_from([10.0, 20.0, 30.0]))
@hypothesis_settings(max_examples=40)
def test_no_group_is_on_two_sides_and_all_sides_are_filled(manifest, seed, percent):
    settings = SplitSettings(test_percent=percent, validation_percent=20, split_seed=seed)
    try:
        split = assign_splits(manifest, settings)
    except ManifestError as error:
        # a class of few groups may be left out of training; saying so is right
        assume("no training clip is labelled" not in str(error))
        assume("1 class; at least 2" not in str(error))
        raise
    assert all(len(side) == 1 for side in sides(split).values())
    assert {clip.split for clip in split.clips} == set(SPLITS)
    assert [(c.path, c.label, c.group) for c in split.clips] == [
        (c.path, c.label, c.group) for c in manifest.clips
    ]


@pytest.mark.parametrize("percent", [10, 20, 25, 40])
def test_the_shares_are_about_those_asked_for(percent):
    """Groups are equal here, so only rounding to whole groups stands between."""
    settings = SplitSettings(test_percent=percent, validation_percent=20)
    split = assign_splits(manifest_of(n_groups=60), settings)
    shares = {side: 100 * len(split.in_split(side)) / len(split) for side in SPLITS}
    assert shares["test"] == pytest.approx(percent, abs=5)
    assert shares["validation"] == pytest.approx(20, abs=5)


def test_a_split_by_share_keeps_the_classes_in_proportion():
    clips = [Clip(Path(f"{i}.wav"), "rare" if i % 5 == 0 else "common") for i in range(200)]
    split = assign_splits(Manifest(tuple(clips), Path()), SplitSettings())
    for side in SPLITS:
        labels = [clip.label for clip in split.in_split(side).clips]
        assert labels.count("rare") / len(labels) == pytest.approx(0.2, abs=0.03)


def test_a_split_follows_from_its_seed():
    splits = [
        tuple(c.split for c in assign_splits(manifest_of(20), SplitSettings(split_seed=s)).clips)
        for s in (1, 1, 2)
    ]
    assert splits[0] == splits[1] != splits[2]


def test_no_test_clips_are_kept_where_none_are_wanted():
    split = assign_splits(manifest_of(), SplitSettings(test_percent=0))
    assert {clip.split for clip in split.clips} == {"train", "validation"}


@pytest.mark.parametrize(
    "values",
    [
        {"test_percent": 100.0},
        {"test_percent": 60.0, "validation_percent": 40.0},
        {"test_percent": -10.0},
        {"validation_percent": 0.0},
    ],
)
def test_shares_that_leave_no_side_are_refused_by_name(values):
    with pytest.raises(ValueError, match="_percent"):
        assign_splits(manifest_of(), SplitSettings(**values))


def folded(names):
    clips = [Clip(Path(f"{n}-{i}.wav"), "ab"[i % 2], fold=n) for n in names for i in range(4)]
    return Manifest(tuple(clips), Path())


def test_official_folds_decide_by_default_in_their_natural_order():
    """Fold 10 comes after fold 9, not after fold 1."""
    split = assign_splits(folded([str(n) for n in range(1, 11)]), SplitSettings())
    by_side = {side: {c.fold for c in split.in_split(side).clips} for side in SPLITS}
    assert by_side["test"] == {"10"}
    assert by_side["validation"] == {"9"}
    assert by_side["train"] == {str(n) for n in range(1, 9)}


def test_named_folds_decide():
    settings = SplitSettings(test_folds=("1",), validation_folds=("2", "3"))
    split = assign_splits(folded("12345"), settings)
    assert {c.fold: c.split for c in split.clips} == {
        "1": "test",
        "2": "validation",
        "3": "validation",
        "4": "train",
        "5": "train",
    }


def test_named_groups_win_over_folds_and_the_corpus_own_split():
    manifest = manifest_of(6, fold="1", split="train")
    settings = SplitSettings(test_groups=("g0",), validation_groups=("g1", "g2"))
    split = assign_splits(manifest, settings)
    assert {c.group for c in split.in_split("test").clips} == {"g0"}
    assert {c.group for c in split.in_split("validation").clips} == {"g1", "g2"}


def test_a_prescribed_split_is_kept_and_the_missing_side_drawn_from_training():
    clips = [
        Clip(Path(f"{i}.wav"), "ab"[i % 2], split="test" if i < 10 else "train") for i in range(50)
    ]
    split = assign_splits(Manifest(tuple(clips), Path()), SplitSettings())
    assert {c.path for c in split.in_split("test").clips} == {c.path for c in clips[:10]}
    assert 5 <= len(split.in_split("validation")) <= 15


def test_a_prescribed_split_without_test_has_it_drawn_from_training():
    clips = [
        Clip(Path(f"{i}.wav"), "ab"[i % 2], split="validation" if i < 10 else "train")
        for i in range(50)
    ]
    split = assign_splits(Manifest(tuple(clips), Path()), SplitSettings())
    assert {c.path for c in split.in_split("validation").clips} == {c.path for c in clips[:10]}
    assert 5 <= len(split.in_split("test")) <= 15


def test_a_prescribed_split_of_three_sides_is_left_as_it_is():
    clips = tuple(Clip(Path(f"{i}.wav"), "ab"[i % 2], split=SPLITS[i // 4]) for i in range(12))
    assert assign_splits(Manifest(clips, Path()), SplitSettings()).clips == clips


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SplitSettings(test_groups=("g99",)), ("group g99", "g0, g1")),
        (SplitSettings(test_groups=("g1",), validation_groups=("g1",)), ("g1", "both")),
        (SplitSettings(test_folds=("9",)), ("fold 9", "none at all")),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_those_that_are(settings, words):
    with pytest.raises(ManifestError) as error:
        assign_splits(manifest_of(), settings)
    for word in words:
        assert word in str(error.value)


def test_two_folds_are_too_few():
    with pytest.raises(ManifestError, match=r"2 folds are too few.*--test-folds"):
        assign_splits(folded("12"), SplitSettings())


def test_too_few_groups_are_refused():
    with pytest.raises(ManifestError, match=r"group is left to draw .* whole group"):
        assign_splits(manifest_of(2), SplitSettings())


def test_a_group_on_two_sides_is_refused_with_both_files():
    clips = (
        Clip(Path("a.wav"), "x", group="g", split="train"),
        Clip(Path("b.wav"), "y", group="g", split="test"),
    )
    with pytest.raises(ManifestError, match=r"group g is on two sides: a\.wav in train, b\.wav"):
        check_splits(Manifest(clips, Path()))


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([("x", "train"), ("y", "train")], "no clips are left for validation"),
        ([("x", "validation"), ("y", "test")], "no clips are left for train"),
        ([("x", "train"), ("x", "validation")], "1 class"),
        ([("x", "train"), ("y", "train"), ("z", "validation")], "no training clip is labelled z"),
    ],
)
def test_a_split_nothing_can_be_learnt_from_is_refused(rows, word):
    clips = tuple(Clip(Path(f"{i}.wav"), label, split=s) for i, (label, s) in enumerate(rows))
    with pytest.raises(ManifestError, match=word):
        check_splits(Manifest(clips, Path()))


# The rest of a manifest


def test_counts_and_the_one_line_description_agree_with_the_clips():
    split = assign_splits(manifest_of(), SplitSettings(test_groups=("g0",)))
    assert sum(row["clips"] for row in split.counts()) == len(split) == 40
    assert {"split": "test", "label": "a", "clips": 2, "groups": 1} in split.counts()
    assert split.describe().startswith("40 clips, 2 classes: ")
    assert split.describe().endswith("4 test in 1 groups")


def test_without_leaves_out_the_named_clips_alone():
    manifest = manifest_of(2, 2)
    left = manifest.without([manifest.clips[1].key])
    assert left.clips == (manifest.clips[0], *manifest.clips[2:])


def test_the_fingerprint_changes_with_label_split_and_file(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"1")

    def fingerprint(**values):
        return Manifest((Clip(**({"path": path, "label": "x"} | values)),), tmp_path).fingerprint()

    first = fingerprint()
    assert first == fingerprint()
    changed = {first, fingerprint(label="y"), fingerprint(split="test"), fingerprint(group="g")}
    changed |= {fingerprint(start_s=1.0), fingerprint(duration_s=1.0), fingerprint(fold="1")}
    path.write_bytes(b"12")
    changed.add(fingerprint())
    path.unlink()
    changed.add(fingerprint())
    assert len(changed) == 9


def test_a_drawn_split_trains_on_every_class_however_rare(tmp_path):
    clips = [Clip(tmp_path / f"{i}.wav", "common", group=f"g{i % 12}") for i in range(60)]
    clips += [Clip(tmp_path / f"rare{i}.wav", f"rare{i}", group=f"g{i}") for i in range(6)]
    for seed in range(10):
        manifest = assign_splits(Manifest(tuple(clips), tmp_path), SplitSettings(split_seed=seed))
        trained = {clip.label for clip in manifest.in_split("train").clips}
        assert trained == {"common"} | {f"rare{i}" for i in range(6)}
        assert len(manifest.in_split("validation"))
        assert len(manifest.in_split("test"))
