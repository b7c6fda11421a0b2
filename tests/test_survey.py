"""What `melbandit data` finds in a corpus that was made to hold it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.clips import Clip, read_csv
from audio.survey import clip_facts, clipped_share, silent_share
from scripts import cli
from tests import layouts


def write(path: Path, wave: object, rate: int = 8000, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **options)
    return path


def noise(seed: int, n: int = 8000, scale: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, n).clip(-0.9, 0.9)


# Figures of one clip


def test_peak_and_rms_are_those_of_a_sine(tmp_path):
    t = np.arange(8000) / 8000
    facts = clip_facts(Clip(write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t)), "x"))
    assert facts.peak_dbfs == pytest.approx(20 * np.log10(0.5), abs=0.01)
    assert facts.rms_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert (facts.duration_s, facts.rate_hz, facts.channels) == (1.0, 8000, 1)
    assert facts.clipped == 0
    assert facts.silent == 0


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "ULAW", "ALAW", "FLOAT", "PCM_U8"])
def test_a_sine_driven_too_hard_is_clipped_in_every_encoding(subtype, tmp_path):
    t = np.arange(8000) / 8000
    hard = np.clip(3 * np.sin(2 * np.pi * 210 * t), -1, 1)
    soft = 0.9 * np.sin(2 * np.pi * 210.5 * t)
    for name, wave, low, high in (("hard", hard, 0.7, 0.85), ("soft", soft, 0, 0)):
        path = write(tmp_path / f"{name}.wav", wave, subtype=subtype)
        facts = clip_facts(Clip(path, "x"))
        assert low <= facts.clipped <= high, name  # of asin(1/3) on either side: 0.78


def test_clipping_in_one_of_two_channels_is_seen(tmp_path):
    t = np.arange(8000) / 8000
    both = np.stack([np.clip(3 * np.sin(2 * np.pi * 210 * t), -1, 1), noise(0)], axis=1)
    facts = clip_facts(Clip(write(tmp_path / "a.wav", both), "x"))
    assert facts.channels == 2
    assert facts.clipped == pytest.approx(0.39, abs=0.05)
    assert facts.peak_dbfs == pytest.approx(0, abs=0.01)


def test_the_channels_of_what_pyav_reads_are_seen(tmp_path):
    t = np.arange(8000) / 8000
    loud = np.clip(3 * np.sin(2 * np.pi * 210 * t), -1, 1)
    both = np.round(32767 * np.stack([loud, noise(0)], axis=1)).astype(np.int16)
    path = tmp_path / "a.mka"
    layouts.write_by_ffmpeg(path, both, 8000, "pcm_s16le")
    facts = clip_facts(Clip(path, "x"))
    assert facts.channels == 2
    assert facts.clipped == pytest.approx(0.39, abs=0.05)
    assert facts.peak_dbfs == pytest.approx(0, abs=0.01)


def test_a_full_scale_sine_is_not_clipped():
    t = np.arange(44100) / 44100
    for hz in (997.0, 123.4):
        assert clipped_share(np.sin(2 * np.pi * hz * t).astype(np.float32)[:, None]) < 0.02


def test_silence_is_counted_in_frames_of_20_ms():
    wave = np.zeros(1600, np.float32)
    wave[:400] = 0.1
    assert silent_share(wave, 8000) == pytest.approx(0.7)  # 10 frames, of which 3 sound
    assert silent_share(np.float32([0.5]), 8000) == 0


def test_a_piece_of_a_file_is_measured_alone(tmp_path):
    wave = np.concatenate([noise(1), np.zeros(8000)])
    path = write(tmp_path / "a.wav", wave)
    quiet = clip_facts(Clip(path, "x", start_s=1.0))
    loud = clip_facts(Clip(path, "x", duration_s=1.0))
    assert (quiet.duration_s, quiet.is_silent, quiet.peak_dbfs) == (1.0, True, float("-inf"))
    assert (loud.duration_s, loud.is_silent) == (1.0, False)


def test_the_same_sound_is_known_in_another_container_and_not_at_another_rate(tmp_path):
    wave = (noise(2) * 32767).astype(np.int16)
    digests = [
        clip_facts(Clip(write(tmp_path / name, wave, rate), "x")).digest
        for name, rate in (("a.wav", 8000), ("b.flac", 8000), ("c.aiff", 8000), ("d.wav", 16000))
    ]
    assert digests[0] == digests[1] == digests[2] != digests[3]


# The command


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return a folder of 30 clips of three sizes of class, with one of every oddity."""
    root = tmp_path / "odd ones"
    for label, n in (("much", 20), ("some", 8), ("few", 2)):
        for i in range(n):
            write(root / label / f"{i:02}.wav", noise(100 * n + i))
    write(root / "much" / "00.wav", np.zeros(8000))
    write(root / "much" / "01.wav", np.concatenate([noise(7, 2000), np.zeros(6000)]))
    write(root / "much" / "02.wav", np.clip(20 * noise(8), -1, 1))
    write(root / "much" / "03.wav", noise(9, 80_000))
    write(root / "much" / "04.wav", noise(10, 800))
    write(root / "some" / "07.flac", (noise(20 * 100 + 19) * 32768).round().astype(np.int16))
    write(root / "much" / "19.wav", (noise(20 * 100 + 19) * 32768).round().astype(np.int16))
    (root / "few" / "broken.wav").write_bytes(b"RIFFnothing")
    return root


def run(*arguments: object) -> int:
    return cli.main(["data", *map(str, arguments)])


def test_a_survey_tells_every_oddity_and_the_manifest_has_the_rest(odd, tmp_path, capsys):
    out = tmp_path / "found.csv"
    assert run(odd, "--out", out) == 3  # one clip cannot be used
    captured = capsys.readouterr()
    told = json.loads(captured.out.splitlines()[-1])
    assert "few/broken.wav" in captured.err
    figures = {k: told[k] for k in ("clips", "classes", "unusable", "silent", "mostly_silent")}
    assert figures == {"clips": 31, "classes": 3, "unusable": 1, "silent": 1, "mostly_silent": 1}
    assert {k: told[k] for k in ("clipped", "far_from_median", "same_content")} == {
        "clipped": 1,
        "far_from_median": 2,
        "same_content": 1,
    }
    assert told["imbalance"] == pytest.approx(10)
    assert told["largest_class_share"] == pytest.approx(20 / 31)
    assert told["duration_s"] == {"median": 1.0, "least": 0.1, "most": 10.0}
    assert told["hours"] == pytest.approx((29 + 10 + 0.1) / 3600)
    assert any("twice under different labels" in note for note in told["notes"])
    assert any("fewer than 3 clips" in note and "few" in note for note in told["notes"])
    for words in ("20 times", "much/00.wav", "much/02.wav", "much/19.wav and some/07.flac"):
        assert words.replace("20 times", "10.0 times") in captured.out
    manifest = read_csv(out)
    assert len(manifest) == 31
    assert {clip.path for clip in manifest.clips} == {
        p for p in odd.glob("*/*") if p.name != "broken.wav"
    }
    by_name = {clip.path.name: clip.duration_s for clip in manifest.clips if clip.label == "much"}
    assert (by_name["03.wav"], by_name["04.wav"]) == (10.0, 0.1)
    with (tmp_path / "found.clips.csv").open() as lines:
        rows = {row["path"]: row for row in csv.DictReader(lines)}
    assert len(rows) == 32
    assert "not a sound file" in rows["few/broken.wav"]["problem"]
    assert rows["some/07.flac"]["same_as"] == "much/19.wav"
    assert rows["much/00.wav"]["peak_dbfs"] == "-inf"
    assert float(rows["much/01.wav"]["silent_percent"]) == pytest.approx(75, abs=2)


def test_the_manifest_is_what_the_other_commands_take(tmp_path, capsys):
    layouts.urbansound8k(tmp_path / "root", slices=1)
    out = tmp_path / "us8k.csv"
    assert run("urbansound8k", "--root", tmp_path / "root", "--out", out) == 0
    assert "8,732 clips of 10 classes" in capsys.readouterr().out
    manifest = read_csv(out)
    assert {clip.fold for clip in manifest.clips} == {str(n) for n in range(1, 11)}
    assert len({clip.group for clip in manifest.clips}) == 30
    assert cli.main(["convert", str(out), "--out", str(tmp_path / "images")]) == 0
    assert len(list((tmp_path / "images").glob("*/*/*.png"))) == 30


def test_groups_and_sounds_on_two_folds_are_noted(tmp_path, capsys):
    for i in range(6):
        write(tmp_path / "c" / f"{i}.wav", noise(i % 5))
    layouts.write_table(
        tmp_path / "c" / "manifest.csv",
        "path,label,group,fold",
        [[f"{i}.wav", "ab"[i % 2], "g" if i in (1, 2) else f"g{i}", i // 2 + 1] for i in range(6)],
    )
    assert run(tmp_path / "c", "--out", tmp_path / "m.csv") == 0
    notes = json.loads(capsys.readouterr().out.splitlines()[-1])["notes"]
    assert any(
        n.startswith("1 sounds are on two sides of the fold, the first 0.wav") for n in notes
    )
    assert any(
        n.startswith("1 groups are on two sides of the fold, the first 1.wav") for n in notes
    )


def test_spellings_of_one_class_are_noted(tmp_path, capsys):
    for i, label in enumerate(("\u00e9", "e\u0301", "Yes", "yes", "no")):
        write(tmp_path / "c" / f"{i}.wav", noise(i))
        with (tmp_path / "c" / "rows").open("a") as rows:
            rows.write(f"{i}.wav,{label}\n")
    text = "path,label\n" + (tmp_path / "c" / "rows").read_text()
    (tmp_path / "c" / "manifest.csv").write_text(text)
    assert run(tmp_path / "c", "--out", tmp_path / "m.csv") == 0
    notes = json.loads(capsys.readouterr().out.splitlines()[-1])["notes"]
    assert sum("Unicode form" in note for note in notes) == 2


def test_the_default_name_is_the_corpus_s_and_another_file_is_not_replaced(
    odd, tmp_path, capsys, monkeypatch
):
    (odd / "few" / "broken.wav").unlink()
    monkeypatch.chdir(tmp_path)
    assert run(odd) == 0
    assert run(odd) == 0  # the same again is no harm
    assert len(read_csv(tmp_path / "odd ones.csv")) == 31
    (tmp_path / "odd ones.csv").write_text("mine")
    assert run(odd) == 1
    assert "says something else" in capsys.readouterr().err
    assert (tmp_path / "odd ones.csv").read_text() == "mine"
    assert run(odd, "--overwrite") == 0
    assert run(odd, "--out", tmp_path / "table.txt") == 1
    assert not list(tmp_path.glob("*.new"))


def test_the_table_that_is_read_is_never_replaced(odd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [path.relative_to(tmp_path) for path in sorted(odd.rglob("*.wav"))[:4]]
    mine = "path,label,note\n" + "".join(f"{name},x,kept\n" for name in names)
    (tmp_path / "mine.csv").write_text(mine)
    assert run("mine.csv") in (0, 3)
    assert (tmp_path / "mine.csv").read_text() == mine
    assert len(read_csv(tmp_path / "mine.manifest.csv")) >= 3
    capsys.readouterr()
    assert run("mine.csv", "--out", "mine.csv", "--overwrite") == 1
    assert "mine.csv: is what is read" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text() == mine


def test_download_by_the_command_line(tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    from data import published
    from data.download import Archive

    path = layouts.zipped(layouts.esc50(tmp_path / "made"), tmp_path / "server.zip")
    there = Archive(path.as_uri(), "ESC-50-master.zip")
    corpus = replace(published.PUBLISHED["esc50"], archive=there, n_clips=40, n_classes=4)
    monkeypatch.setitem(published.PUBLISHED, "esc50", corpus)
    root, out = tmp_path / "root", tmp_path / "m.csv"
    assert run("esc50", "--root", root, "--out", out) == 1
    assert "--download" in capsys.readouterr().err
    assert run("esc50", "--root", root, "--out", out, "--download") == 0
    captured = capsys.readouterr()
    assert "as published: 40 clips of 4 classes" in captured.out
    assert path.as_uri() in captured.err
    assert run(tmp_path, "--download") == 1
    assert "is not published; there are: esc50, " in capsys.readouterr().err


def test_nothing_usable_is_exit_code_1(tmp_path, capsys):
    (tmp_path / "c" / "x").mkdir(parents=True)
    (tmp_path / "c" / "x" / "a.wav").write_bytes(b"none")
    assert run(tmp_path / "c", "--out", tmp_path / "m.csv") == 1
    assert not (tmp_path / "m.csv").exists()


def test_odd_containers_are_surveyed(tmp_path, capsys):
    av = pytest.importorskip("av")
    root = tmp_path / "phones"
    for kind in range(2):
        for i in range(3):
            wave = (noise(10 * kind + i) * 32767).astype(np.int16)
            write(root / f"class{kind}" / f"{i}.caf", wave)
            path = root / f"class{kind}" / f"{i}.3gp"
            with av.open(str(path), "w", format="3gp") as out:
                stream = out.add_stream("aac", rate=8000, layout="mono")
                frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
                frame.sample_rate = 8000
                for packet in [*stream.encode(frame), *stream.encode(None)]:
                    out.mux(packet)
    assert run(root, "--out", tmp_path / "m.csv") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["formats"] == {".3gp": 6, ".caf": 6}
    assert told["rates_hz"] == {"8000": 12}
    command = ["finetune", str(tmp_path / "m.csv"), "--out", str(tmp_path / "model")]
    command += ["--epochs", "1", "--n-mels", "24", "--hop-length", "320", "--threads", "1"]
    assert cli.main(command) == 0


def test_copies_become_one_group_that_a_drawn_split_keeps_together(tmp_path, capsys):
    """Clips 0 to 9 twice; groups of two copies are joined, and named after the first."""
    rows: list[list[object]] = []
    for i in range(30):
        write(tmp_path / "c" / f"{i:02}.wav", noise(i % 20))
        rows.append([f"{i:02}.wav", "ab"[i % 2], {3: "p", 13: "q", 23: "r"}.get(i, "")])
    layouts.write_table(tmp_path / "c" / "manifest.csv", "path,label,group", rows)
    command = ["finetune", str(tmp_path / "m.csv"), "--out", str(tmp_path / "model")]
    command += ["--epochs", "1", "--n-mels", "24", "--hop-length", "320", "--threads", "1"]
    assert run(tmp_path / "c", "--out", tmp_path / "m.csv") == 0
    assert cli.main(command) == 1
    assert "--group-copies" in capsys.readouterr().err
    assert run(tmp_path / "c", "--out", tmp_path / "m.csv", "--group-copies", "--overwrite") == 0
    group = {clip.path.stem: clip.group for clip in read_csv(tmp_path / "m.csv").clips}
    for i in range(10):
        assert group[f"{i:02}"] == group[f"{i + 20:02}"] is not None
    assert (group["03"], group["23"], group["13"], group["14"]) == ("p", "p", "q", None)
    assert len(set(group.values()) - {None}) == 11
    assert cli.main([*command, "--overwrite"]) == 0
