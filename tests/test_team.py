"""Two processes fit as one does, started the way users start them: `accelerate launch`."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio.settings import SettingsError
from audio.team import Team, open_team, processes
from audio.train import fine_tune
from scripts import cli
from tests.test_train import LABELS, settings, tones

ROOT = Path(__file__).parents[1]
STILL = ["--dropout", "0", "--backbone", "ast-scratch"]
MIXED = ["--mixup-percent", "60", "--noise-percent", "50", "--balance", "weights"]
SMALL = ["--sample-rate-hz", "8000", "--clip-s", "0.2", "--n-fft", "256", "--win-length", "256",
         "--hop-length", "128", "--n-mels", "16", "--epochs", "3", "--batch-size", "7",
         "--threads", "1", "--device", "cpu"]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launched(arguments, folder, n=2):
    """Run a module's command by `accelerate launch` in `n` processes and return what it says."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes",
               str(n), "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", str(free_port()), "-m", *arguments]  # fmt: skip
    where = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=where, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Return a CSV of noisy tones, split."""
    folder = tmp_path_factory.mktemp("tones")
    rows = []
    for i, (wave, target) in enumerate(zip(*vars_of(tones(40)), strict=True)):
        soundfile.write(folder / f"{i}.wav", wave, 8000, subtype="FLOAT")
        split = "validation" if i % 5 == 3 else "test" if i % 5 == 4 else "train"
        rows.append([f"{i}.wav", LABELS[target], split])
    with (folder / "tones.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    return folder / "tones.csv"


def vars_of(examples):
    return examples.waveforms, examples.targets


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        [*MIXED, "--micro-batches", "2", "--ema-decay", "0.9", "--patience", "9"],
        pytest.param(
            ["--schedule", "epsilon-greedy", "--probe-percent", "20", "--segment-epochs", "0.5"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--balance", "sampling", "--unfreeze-epochs", "1", "--layer-decay", "0.7"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_fit_what_one_does(corpus, tmp_path, more, capsys):
    """24 clips in batches of 7: each process has 3 or 4 of them, of the last batch 1 or 2."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = [*SMALL, *STILL, *more]
    assert cli.main(["finetune", str(corpus), "--out", str(one), *options]) == 0
    done = launched(["scripts.cli", "finetune", str(corpus), "--out", str(two), *options], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('{"parameters"') == 1  # the first alone speaks
    results = [json.loads((out / "results.json").read_text()) for out in (one, two)]
    for mine, theirs in zip(*(r["history"] for r in results), strict=True):
        assert mine.pop("seconds") > 0 < theirs.pop("seconds")
        assert mine == pytest.approx(theirs, rel=2e-4, abs=2e-4)
    from safetensors.torch import load_file

    weights = [load_file(out / "model.safetensors") for out in (one, two)]
    for name, w in weights[0].items():
        torch.testing.assert_close(w, weights[1][name], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_two_processes_go_on_from_a_checkpoint_of_one(corpus, tmp_path):
    """What a single process left behind after an epoch, two fit on to the end."""
    options = [*SMALL, *STILL, "--lora-rank", "2"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert cli.main(["finetune", str(corpus), "--out", str(whole), *options]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "tests.stopped_finetune", "finetune", str(corpus), "--out",
         str(half), *options],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    assert not (half / "results.json").exists()
    done = launched(["scripts.cli", "finetune", str(corpus), "--out", str(half), *options],
                    tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads((out / "results.json").read_text()) for out in (whole, half)]
    losses = [[row["train_loss"] for row in r["history"]] for r in results]
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)
    again = launched(["scripts.cli", "finetune", str(corpus), "--out", str(half), *options],
                     tmp_path)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "already done" in again.stderr


def test_folds_ask_for_one_process(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["finetune", str(corpus), "--out", str(tmp_path / "m"), "--draw-folds", "2"]
    assert cli.main(command) == 1
    assert "2 processes: --folds" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mistake_is_told_once_and_ends_all_processes(tmp_path):
    done = launched(["scripts.cli", "finetune", str(tmp_path / "none"), "--out",
                     str(tmp_path / "m"), "--device", "cpu"], tmp_path)  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("melbandit: ") == 1


def test_alone_there_is_nothing_to_ask_or_to_add(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() == 1
    with open_team("cpu") as team:
        assert team == Team(torch.device("cpu"))
        assert team.is_first
        assert team.tell("x") == "x"
        values = torch.arange(3.0)
        assert team.add(values) is values
        assert list(team.parts(5, 1)) == [slice(0, 5)]
    with pytest.raises(SettingsError, match="toaster"), open_team("toaster"):
        pass


def test_a_fit_by_a_given_team_of_one_is_a_fit():
    wanted = settings(epochs=1)
    fits = [
        fine_tune(tones(), tones(9), wanted, LABELS, team=team)
        for team in (None, Team(torch.device("cpu")))
    ]
    assert fits[0].history[0]["train_loss"] == fits[1].history[0]["train_loss"]
    assert np.isfinite(fits[0].history[0]["train_loss"])
