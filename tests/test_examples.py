"""The README's worked examples, word for word but for where things lie, on small stand-ins.

The corpora are made with the published layouts, the checkpoints are tiny ones of the true formats.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import published
from scripts import cli
from tests import layouts

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FAST = ["--epochs", "2", "--threads", "1", "--clip-s", "0.4"]


def example(title: str) -> list[list[str]]:
    """Return the commands of the example whose bold title begins so."""
    start = README.index(f"**{title}")
    end = README.find("\n**", start + 2)
    text = README[start : min(end if end > 0 else len(README), README.index("\n## ", start))]
    blocks = [block for block in re.findall(r"```\n(.*?)```", text, re.S) if "melbandit " in block]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("melbandit ")]
    assert commands
    return commands


def run_example(title: str, where: dict[str, str]) -> Iterator[list[str]]:
    """Run the commands one by one, their places changed; yield each when it has run."""
    for command in example(title):
        moved = [where.get(word, word) for word in command[1:]]
        extra = FAST if moved[0] == "finetune" else []
        assert cli.main([*moved, *extra]) == 0, command
        yield moved


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_urbansound8k_by_its_folds_with_an_ast_checkpoint(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = layouts.urbansound8k(tmp_path / "made", slices=1)
    path = layouts.tarred(made, tmp_path / "server.tar.gz")
    corpus = published.PUBLISHED["urbansound8k"]
    archive = replace(corpus.archive, url=path.as_uri(), n_bytes=path.stat().st_size, checksum=None)
    corpus = replace(corpus, archive=archive, n_clips=30, n_classes=3)
    monkeypatch.setitem(published.PUBLISHED, "urbansound8k", corpus)
    monkeypatch.chdir(tmp_path)
    where = {"MIT/ast-finetuned-audioset-10-10-0.4593": checkpoints["ast"]}
    ran = list(run_example("UrbanSound8K by its folds", where))
    assert [command[0] for command in ran] == ["data", "finetune"]
    out = tmp_path / "runs" / "us8k"
    rows = table(out / "out_of_fold.csv")
    assert len(rows) == 30
    assert {row["fold"] for row in rows} == {str(n) for n in range(1, 11)}
    results = json.loads((out / "results.json").read_text())
    assert len(results["folds"]) == 10
    config = json.loads((out / "fold-10" / "config.json").read_text())
    assert config["settings"]["spectrogram"]["n_mels"] == 128  # AST's own
    assert config["settings"]["spectrogram"]["mel_scale"] == "kaldi"


def test_keywords_from_a_csv_with_a_whisper_checkpoint(
    checkpoints: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    av = pytest.importorskip("av")
    (listed,) = re.findall(r"```\n(path,label,group\n.*?)```", README, re.S)
    header, *shown = csv.reader(listed.splitlines())
    words = [*sorted({row[1] for row in shown}), "ɛyɛ"]  # more in the language's own letters
    rows: list[list[object]] = []
    for number, speaker in enumerate(("ama", "kofi", "esi", "yaw", "adwoa", "kwame")):
        for k, word in enumerate(words):
            for take in range(3 if k == 0 else 1):  # one word is frequent
                name = f"{speaker}/{1 + 3 * k + take:03}.m4a"
                sound = tmp_path / "sound.wav"
                layouts.sound(sound, 3 * k, 10 * number + take, rate=16000)
                wave, rate = soundfile.read(sound, dtype="int16")
                (tmp_path / speaker).mkdir(exist_ok=True)
                with av.open(str(tmp_path / name), "w", format="ipod") as out:
                    stream = out.add_stream("aac", rate=rate, layout="mono")
                    frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
                    frame.sample_rate = rate
                    for packet in [*stream.encode(frame), *stream.encode(None)]:
                        out.mux(packet)
                rows.append([name, word, speaker])
    layouts.write_table(tmp_path / "keywords.csv", ",".join(header), rows)
    soundfile.write(tmp_path / "broadcast.mp3", np.zeros(48_000), 16_000, format="MP3")
    monkeypatch.chdir(tmp_path)
    told = []
    for command in run_example(
        "Keywords of a language", {"openai/whisper-tiny": checkpoints["whisper-asr"]}
    ):
        told.append((command[0], capsys.readouterr().out))
    assert [name for name, _ in told] == ["data", "finetune", "finetune", "predict"]
    assert json.loads(told[0][1].splitlines()[-1])["imbalance"] == pytest.approx(3)
    pooled = table(tmp_path / "runs" / "keywords-folds" / "out_of_fold.csv")
    assert len(pooled) == len(rows)
    assert {row["label"] for row in pooled} == set(words)
    for speaker in ("ama", "yaw"):
        assert len({row["fold"] for row in pooled if row["group"] == speaker}) == 1
    config = json.loads((tmp_path / "runs" / "keywords" / "config.json").read_text())
    assert set(config["label2id"]) == set(words)
    assert config["settings"]["spectrogram"]["n_mels"] == 80  # Whisper's own
    assert config["settings"]["training"]["balance"] == "weights"
    assert "balanced accuracy" in told[2][1]
    windows = told[3][1]
    assert any(word in windows for word in words)
    assert windows.count("broadcast.mp3") >= 10  # windows of 0.4 s, every 0.2 s of 3 s
