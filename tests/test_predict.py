"""`melbandit predict`: what it writes is read by other code, and agrees with the model."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audio.classifier import SpectrogramClassifier
from audio.model_config import FORMAT
from audio.settings import Settings, SpectrogramSettings, TrainingSettings
from scripts import cli

RATE, WINDOW = 8000, 1600
LABELS = ("low", "high", 'no, thing\tat "all"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return an untrained model whose head is scaled so that it hears all classes in a melody."""
    spectrogram = SpectrogramSettings(
        sample_rate_hz=RATE, clip_s=WINDOW / RATE, n_mels=16, n_fft=256, win_length=256,
        hop_length=80, f_min_hz=100.0, normalisation="none", top_db=None,
    )  # fmt: skip
    settings = Settings(spectrogram, training=TrainingSettings(backbone="vit-scratch"))
    model = SpectrogramClassifier.from_settings(settings, LABELS)
    with torch.no_grad():
        pieces = torch.from_numpy(melody(40_000, 5).reshape(-1, WINDOW))
        logits = model.eval()(pieces).logits
        head, scale = model.network.classifier, 1.5 / logits.std(0)
        head.weight.mul_(scale[:, None])
        head.bias.copy_(-logits.mean(0) * scale)
    out = tmp_path_factory.mktemp("model")
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def model(folder) -> SpectrogramClassifier:
    return SpectrogramClassifier.load(folder)


def melody(n: int, seed: int = 0) -> np.ndarray:
    """Return noise whose loudness and colour change every 0.3 s."""
    rng = np.random.default_rng(seed)
    out = rng.standard_normal(n)
    for first in range(0, n, 2400):
        part = slice(first, first + 2400)
        out[part] = np.convolve(out[part], [1, rng.uniform(-1, 1)], "same") * 10 ** rng.uniform(
            -3, -0.7
        )
    return np.clip(out, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("recordings")
    paths = [root / "one.wav", root / "a, b.flac", root / "three.wav"]
    for i, (path, n) in enumerate(zip(paths, (40_003, 16_000, 1000), strict=True)):
        soundfile.write(path, melody(n, i), RATE, subtype="PCM_16")
    return paths


def windows_of(path: Path, model, hop: int):
    """Return (start_s, end_s, probabilities) by hand."""
    wave, _ = soundfile.read(path, dtype="float32")
    starts = list(range(0, max(len(wave) - WINDOW, 0) + 1, hop))
    if starts[-1] + WINDOW < len(wave):
        starts.append(len(wave) - WINDOW)
    pieces = [wave[s : s + WINDOW] for s in starts]
    found = model.predict(pieces)
    return [
        (s / RATE, (s + len(piece)) / RATE, p)
        for s, piece, p in zip(starts, pieces, found, strict=True)
    ]


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["predict", *map(str, arguments), "--threads", "1"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_model_of_these_tests_hears_different_things(model, recordings):
    best = {int(p.argmax()) for _, _, p in windows_of(recordings[0], model, 400)}
    assert len(best) > 1


def test_windows_as_csv_are_the_models_own_probabilities(folder, model, recordings, capsys):
    import pandas

    code, out, _ = call(
        capsys, folder, *recordings, "--windows", "--overlap-percent", "75", "--format", "csv"
    )
    assert code == 0
    table = pandas.read_csv(io.StringIO(out))
    expected = [(str(p), *w) for p in recordings for w in windows_of(p, model, 400)]
    assert list(table["path"]) == [row[0] for row in expected]
    np.testing.assert_allclose(table["start_s"], [row[1] for row in expected], atol=6e-4)
    np.testing.assert_allclose(table["end_s"], [row[2] for row in expected], atol=6e-4)
    np.testing.assert_allclose(
        table[list(LABELS)], np.stack([row[3] for row in expected]), atol=2e-5
    )
    assert list(table["label"]) == [LABELS[int(row[3].argmax())] for row in expected]


def test_top_k_gives_a_row_a_label_and_the_threshold_leaves_some_out(
    folder, model, recordings, capsys
):
    code, out, _ = call(capsys, folder, recordings[0], "--top-k", "2", "--format", "jsonl")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    mean = np.mean([p for _, _, p in windows_of(recordings[0], model, WINDOW)], axis=0)
    order = np.argsort(-mean)
    assert [row["rank"] for row in rows] == [1, 2]
    assert [row["label"] for row in rows] == [LABELS[i] for i in order[:2]]
    assert [row["probability"] for row in rows] == pytest.approx(mean[order[:2]], abs=1e-5)
    assert list(rows[0]["probabilities"].values()) == pytest.approx(mean, abs=1e-5)
    least = (mean[order[0]] + mean[order[1]]) / 2
    _, out, _ = call(
        capsys, folder, recordings[0], "--top-k", 3, "--threshold", least, "--format", "jsonl"
    )
    assert [json.loads(line)["rank"] for line in out.splitlines()] == [1]


def expected_events(path, model, *, threshold, hop=400):
    """Return (start, end, label) of stretches of windows at the threshold, by intervals alone."""
    found = []
    for label in range(len(LABELS)):
        for start, end, p in windows_of(path, model, hop):
            if p[label] < threshold:
                continue
            if found and found[-1][2] == label and start <= found[-1][1] + 1e-9:
                found[-1][1] = end
            else:
                found.append([start, end, label])
    return sorted((round(s, 6), round(e, 6), LABELS[label]) for s, e, label in found)


EVENTS = ("--overlap-percent", "75", "--threshold", "0.4")


def test_events_in_audacitys_labels(folder, model, recordings, capsys):
    code, out, _ = call(capsys, folder, recordings[0], "--format", "audacity", *EVENTS)
    assert code == 0
    told = []
    for line in out.splitlines():  # as Audacity's LabelTrack::Import: tabs, then the rest
        start, end, label = line.split("\t")
        told.append((float(start), float(end), label))
    expected = [
        (start, end, label.replace("\t", " "))
        for start, end, label in expected_events(recordings[0], model, threshold=0.4)
    ]
    assert len(expected) > 3
    assert sorted(told) == sorted(expected)


def test_events_in_a_raven_selection_table(folder, model, recordings, capsys):
    import pandas

    code, out, _ = call(capsys, folder, *recordings, "--format", "raven", *EVENTS)
    assert code == 0
    table = pandas.read_csv(io.StringIO(out), sep="\t", quoting=csv.QUOTE_NONE)
    assert list(table.columns[:7]) == [
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)",
        "High Freq (Hz)",
    ]  # fmt: skip
    assert list(table["Selection"]) == list(range(1, len(table) + 1))
    assert set(table["Low Freq (Hz)"]) == {100.0}
    assert set(table["High Freq (Hz)"]) == {RATE / 2}
    before = 0.0
    for path in recordings:
        mine = table[table["Begin Path"] == str(path)]
        told = sorted(
            (
                round(row["Begin Time (s)"] - before, 5),
                round(row["End Time (s)"] - before, 5),
                row["Label"],
            )
            for _, row in mine.iterrows()
        )
        expected = [
            (round(s, 5), round(e, 5), label.replace("\t", " "))
            for s, e, label in expected_events(path, model, threshold=0.4)
        ]
        assert told == sorted(expected)
        np.testing.assert_allclose(
            mine["File Offset (s)"] + before, mine["Begin Time (s)"], atol=2e-6
        )
        before += len(soundfile.read(path)[0]) / RATE


def test_events_as_csv_and_json_lines_say_the_same(folder, recordings, capsys):
    _, text, _ = call(capsys, folder, *recordings, "--events", "--format", "csv", *EVENTS)
    rows = list(csv.DictReader(io.StringIO(text)))
    _, text, _ = call(capsys, folder, *recordings, "--events", "--format", "jsonl", *EVENTS)
    other = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == len(other) > 3
    for row, same in zip(rows, other, strict=True):
        assert (row["path"], row["label"]) == (same["path"], same["label"])
        for name in ("start_s", "end_s", "probability", "mean_probability", "windows"):
            assert float(row[name]) == pytest.approx(same[name], abs=6e-4)
        assert 0.4 <= same["mean_probability"] <= same["probability"] + 1e-9


def test_the_table_is_in_columns(folder, recordings, capsys):
    code, out, _ = call(capsys, folder, *recordings)
    assert code == 0
    head, *lines = out.splitlines()
    assert len(lines) == 3
    at = head.index("label")
    for path, line in zip(recordings, lines, strict=True):
        assert line.startswith(str(path))
        assert line[at:].startswith(tuple(label.replace("\t", " ") for label in LABELS))


def test_a_class_called_like_a_column_keeps_its_probabilities_apart(tmp_path, recordings, capsys):
    spectrogram = SpectrogramSettings(sample_rate_hz=RATE, clip_s=0.2, n_mels=16)
    settings = Settings(spectrogram, training=TrainingSettings(backbone="vit-scratch"))
    model = SpectrogramClassifier.from_settings(settings, ("path", "label"))
    model.save_pretrained(tmp_path)
    _, out, _ = call(capsys, tmp_path, recordings[0], "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["path"] == str(recordings[0])
    assert float(row["path (class)"]) + float(row["label (class)"]) == pytest.approx(1, abs=1e-5)


def test_each_recording_gets_a_file(folder, recordings, tmp_path, capsys):
    same = tmp_path / "other" / "one.flac"
    same.parent.mkdir()
    soundfile.write(same, melody(4000, 9), RATE)
    out = tmp_path / "out"
    code, printed, _ = call(
        capsys, folder, *recordings, same, "--format", "audacity", "--out-folder", out, *EVENTS
    )
    assert (code, printed) == (0, "")
    assert {p.name for p in out.iterdir()} == {
        "one.labels.txt", "a, b.labels.txt", "three.labels.txt", "one-2.labels.txt",
    }  # fmt: skip
    alone = call(capsys, folder, recordings[0], "--format", "audacity", *EVENTS)[1]
    assert (out / "one.labels.txt").read_text() == alone
    twice = [folder, recordings[0], recordings[0], "--format", "audacity", *EVENTS]
    assert call(capsys, *twice, "--out-folder", tmp_path / "twice")[0] == 0
    (only,) = (tmp_path / "twice").iterdir()
    assert only.read_text() == alone


def test_a_file_that_breaks_off_keeps_its_windows_and_loses_its_mean(
    folder, recordings, tmp_path, capsys
):
    pytest.importorskip("av")
    broken = tmp_path / "broken.wav"
    wave = melody(RATE * 25)
    wave[RATE * 15] = np.nan  # in the second block that is read
    soundfile.write(broken, wave, RATE, subtype="FLOAT")
    arguments = [folder, broken, recordings[2], "--format", "csv"]
    code, out, err = call(capsys, *arguments, "--windows")
    assert code == 3
    assert "NaN" in err
    paths = [row["path"] for row in csv.DictReader(io.StringIO(out))]
    assert paths.count(str(broken)) >= 40
    assert paths[-1] == str(recordings[2])
    code, out, _ = call(capsys, *arguments)
    assert code == 3
    assert [row["path"] for row in csv.DictReader(io.StringIO(out))] == [str(recordings[2])]


def test_the_file_is_there_whole_or_not_at_all(folder, recordings, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    code, printed, err = call(capsys, folder, *recordings, "--format", "csv", "--out", out)
    assert (code, printed) == (0, "")
    assert "3 rows" in err
    assert len(list(csv.DictReader(out.open(newline="")))) == 3
    gone = tmp_path / "gone.csv"
    code, _, _ = call(capsys, folder, tmp_path / "no.wav", "--format", "csv", "--out", gone)
    assert code == 1
    assert {p.name for p in tmp_path.iterdir()} == {"rows.csv"}


def test_what_is_there_is_replaced_when_asked_and_a_recording_never(
    folder, recordings, tmp_path, capsys
):
    sound = tmp_path / "one.wav"
    sound.write_bytes(recordings[0].read_bytes())
    to_file = [folder, sound, "--format", "csv", "--out", tmp_path / "rows.csv"]
    to_folder = [folder, sound, "--format", "csv", "--out-folder", tmp_path / "all"]
    for command, file in ((to_file, "rows.csv"), (to_folder, "all/one.csv")):
        assert call(capsys, *command)[0] == 0
        rows = (tmp_path / file).read_text()
        (tmp_path / file).write_text("mine")
        code, _, err = call(capsys, *command)
        assert code == 1
        assert f"{tmp_path / file}: is there already; give --overwrite or another --out" in err
        assert (tmp_path / file).read_text() == "mine"
        assert call(capsys, *command, "--overwrite")[0] == 0
        assert (tmp_path / file).read_text() == rows
    (tmp_path / "link.wav").symlink_to(sound)
    for out in (sound, tmp_path / "link.wav"):
        code, _, err = call(capsys, folder, sound, "--out", out, "--overwrite")
        assert (code, f"{out}: is one of the recordings" in err) == (1, True)
    assert sound.read_bytes() == recordings[0].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.wav", "--overlap-percent", "100"], "overlap_percent=100"),
        (["x.wav", "--top-k", "0"], "top_k=0 must be at least 1"),
        (["x.wav", "--windows", "--events"], "one of --windows and --events"),
        (["x.wav", "--max-gap-s", "1"], "max_gap_s belong to events; add --events"),
        (["x.wav", "y.wav", "--format", "audacity"], "--out-folder, for a file each"),
        (["x.wav", "--raw-rate-hz", "8000"], "give - as the input"),
        (["-"], "give --raw-rate-hz"),
        (["x.wav", "--batch-size", "0"], "batch_size=0"),
    ],
)
def test_options_that_do_not_go_together_are_told(folder, arguments, words, capsys):
    code, out, err = call(capsys, folder, *arguments)
    assert (code, out) == (1, "")
    assert words in err


# Standard input


def stream(folder, *arguments, **more):
    command = [sys.executable, "-m", "scripts.cli", "predict", str(folder), "-", *arguments]
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [*command, "--threads", "1"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def test_rows_come_while_the_sound_still_comes(folder, model, recordings):
    wave, _ = soundfile.read(recordings[0], dtype="int16")
    process = stream(folder, "--raw-rate-hz", "8000", "--format", "jsonl", "--batch-size", "64")
    expected = windows_of(recordings[0], model, WINDOW)
    try:
        sent = 0
        for start, end, p in expected[:5]:
            upto = round(end * RATE)
            process.stdin.write(wave[sent:upto].tobytes())
            process.stdin.flush()
            sent = upto
            row = json.loads(process.stdout.readline())  # hangs if it waits for more sound
            assert (row["start_s"], row["end_s"]) == (start, end)
            assert list(row["probabilities"].values()) == pytest.approx(p, abs=1e-5)
        out, err = process.communicate(wave[sent:].tobytes(), timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert len(out.splitlines()) == len(expected) - 5


def test_a_stream_at_another_rate_is_resampled_as_a_file_is(folder, recordings, tmp_path, capsys):
    wave = melody(44_100)
    soundfile.write(tmp_path / "x.wav", wave, 22_050, subtype="FLOAT")
    _, text, _ = call(capsys, folder, tmp_path / "x.wav", "--windows", "--format", "jsonl")
    process = stream(folder, "--raw-rate-hz", "22050", "--raw-format", "f32le", "--format", "jsonl")
    out, _ = process.communicate(wave.tobytes(), timeout=60)
    for line, same in zip(out.splitlines(), text.splitlines(), strict=True):
        row, other = json.loads(line), json.loads(same)
        assert row["start_s"] == other["start_s"]
        assert list(row["probabilities"].values()) == pytest.approx(
            list(other["probabilities"].values()), abs=1e-4
        )


def test_an_empty_stream_is_told(folder):
    process = stream(folder, "--raw-rate-hz", "8000")
    _, err = process.communicate(b"", timeout=60)
    assert process.returncode == 1
    assert b"no samples on standard input" in err


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_without_a_complaint(folder, tmp_path):
    long = tmp_path / "long.wav"
    soundfile.write(long, melody(RATE * 60), RATE)
    root = Path(__file__).parents[1]
    command = f"{sys.executable} -m scripts.cli predict {folder} {long} --windows --format csv "
    done = subprocess.run(
        f"{command} --batch-size 2 | head -n 1",
        shell=True,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("path,start_s")
    assert "rror" not in done.stderr


# not getrusage's: a child starts with its parent's peak
_MEMORY = """
import re, sys
from scripts import cli
cli.main(["predict", *sys.argv[1:]])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["--windows", "--events"])
def test_a_long_recording_takes_no_more_memory_than_a_short_one(folder, tmp_path, kind):
    """Seven minutes have 10,000 windows; kept as rows they would take 11 MB."""
    most = {}
    for seconds in (60, 420):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.tile(melody(RATE * 60), seconds // 60), RATE, subtype="PCM_16")
        command = [sys.executable, "-c", _MEMORY, str(folder), str(path), kind]
        command += ["--overlap-percent", "80", "--format", "jsonl", "--threads", "1"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / f"{seconds}")], cwd=Path(__file__).parents[1],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        most[seconds] = int(done.stderr.split()[-1])
    assert most[420] - most[60] < 6_000  # kB


# Model folders that cannot be used


def broken(folder: Path, to: Path, *, without: str | None = None, **config: object) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != without:
            (to / path.name).write_bytes(path.read_bytes())
    told = json.loads((folder / "config.json").read_text()) | config
    if without != "config.json":
        (to / "config.json").write_text(json.dumps(told))
    return to


def test_a_folder_of_a_newer_version_says_so(folder, recordings, tmp_path, capsys):
    newer = broken(folder, tmp_path / "newer", melbandit_format=FORMAT + 1)
    code, out, err = call(capsys, newer, recordings[0])
    assert (code, out) == (1, "")
    assert "written by a newer melbandit; upgrade to read it" in err
    settings = json.loads((folder / "config.json").read_text())["settings"]
    settings["spectrogram"]["colour"] = 1
    newer = broken(folder, tmp_path / "field", settings=settings)
    code, out, err = call(capsys, newer, recordings[0])
    assert code == 1
    assert "no field colour; the file may come from a newer melbandit" in err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_with_a_missing_file_names_it(folder, recordings, tmp_path, name, capsys):
    lacking = broken(folder, tmp_path / "lacking", without=name)
    code, out, err = call(capsys, lacking, recordings[0])
    assert (code, out) == (1, "")
    assert name in err
    assert str(lacking) in err
    assert "Traceback" not in err


def test_weights_that_are_no_safetensors_are_refused_and_never_unpickled(
    folder, recordings, tmp_path, capsys
):
    import pickle

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    trapped = broken(folder, tmp_path / "trapped", without="model.safetensors")
    (trapped / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    code, out, err = call(capsys, trapped, recordings[0])
    assert (code, out) == (1, "")
    assert "model.safetensors is missing" in err
    assert "pytorch_model.bin" in err
    (trapped / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    code, out, err = call(capsys, trapped, recordings[0])
    assert (code, out) == (1, "")
    assert re.search(r"model\.safetensors: cannot be read", err)
    torch.save(load_file(folder / "model.safetensors"), trapped / "model.safetensors")
    code, _, err = call(capsys, trapped, recordings[0])
    assert code == 1
    assert re.search(r"model\.safetensors: cannot be read", err)
    assert not (tmp_path / "sprung").exists()
