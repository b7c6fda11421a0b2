"""kill -9 in the midst of each script, then the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.synthetic import SyntheticSettings, write_corpus
from scripts import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(root, SyntheticSettings(clips_per_class=8, sessions=4, clip_s=0.5))
    return root


def kill_when(command: list[str], words: str) -> None:
    """Run a command in a process of its own and kill it when it says `words` on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            process.send_signal(signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL, "".join(said)


def without_times(value: Any) -> Any:
    """Return JSON less what a clock or a process number put in."""
    if isinstance(value, dict):
        return {
            name: without_times(v) for name, v in value.items() if name not in ("seconds", "pid")
        }
    return [without_times(v) for v in value] if isinstance(value, list) else value


def results(out: Path) -> Any:
    return without_times(json.loads((out / "results.json").read_text()))


def test_convert_killed_and_resumed_writes_the_same_pictures(corpus: Path, tmp_path: Path) -> None:
    command = ["convert", str(corpus), "--n-mels", "24", "--workers", "1", "--out"]
    kill_when([*command, str(tmp_path / "a")], "convert: 60 of 80")
    assert not (tmp_path / "a" / "results.json").exists()
    there = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").glob("*/*/*.png")}
    for out in ("a", "b"):
        assert cli.main([*command, str(tmp_path / out)]) == 0
    made = {p.relative_to(tmp_path / "b") for p in (tmp_path / "b").glob("*/*/*.png")}
    assert len(made) == 80
    for path in made:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert all(path.stat().st_mtime_ns == when for path, when in there.items())
    assert not list((tmp_path / "a").rglob("*.part"))


def test_finetune_killed_and_resumed_fits_the_same_network(corpus: Path, tmp_path: Path) -> None:
    command = ["finetune", str(corpus), "--n-mels", "24", "--epochs", "5", "--threads", "1"]
    kill_when([*command, "--out", str(tmp_path / "a")], "epoch 2:")
    assert (tmp_path / "a" / "work" / "checkpoint.safetensors").exists()
    for out in ("a", "b"):
        assert cli.main([*command, "--out", str(tmp_path / out)]) == 0
    assert results(tmp_path / "a") == results(tmp_path / "b")
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("words", ["trial 2:", pytest.param("final 2:", marks=pytest.mark.slow)])
def test_search_killed_and_resumed_makes_the_same_trials(
    words: str, corpus: Path, tmp_path: Path
) -> None:
    command = ["search", str(corpus), "--space", "quick", "--trials", "5", "--workers", "1"]
    command += ["--finalists", "1", "--replicates", "2", "--epochs", "1", "--hop-length", "320"]
    command += ["--agent", "epsilon-greedy", "--threads", "1"]
    kill_when([*command, "--out", str(tmp_path / "a")], words)
    for out in ("a", "b"):
        assert cli.main([*command, "--out", str(tmp_path / out)]) == 0
    one, other = (results(tmp_path / out) for out in "ab")
    assert len(one["trials"]) == 5
    assert one["trials"] == other["trials"]
    assert one["finalists"] == other["finalists"]
    assert one["model"] == other["model"]
