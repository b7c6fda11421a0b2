"""`melbandit search` on several machines: the whole command, on one study, in two folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import postgresql

from data.synthetic import SyntheticSettings, write_corpus
from rl.studies import Place
from scripts import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as address:
        yield address


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(root, SyntheticSettings(clips_per_class=12, sessions=4, clip_s=0.5))
    return root


def command(corpus: Path, storage: str, study: str, out: Path) -> list[str]:
    return [
        "search", str(corpus), "--storage", storage, "--study", study, "--out", str(out),
        "--space", "quick", "--trials", "6", "--epochs", "2", "--workers", "1", "--threads", "1",
        "--finalists", "1", "--replicates", "1", "--hop-length", "320",
    ]  # fmt: skip


def start(arguments: list[str], **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *arguments], cwd=ROOT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def test_two_commands_on_one_study_both_end_complete(
    corpus: Path, server: str, tmp_path: Path
) -> None:
    # one of them is killed in a trial and started anew
    calls = [command(corpus, server, "both", tmp_path / out) for out in "ab"]
    first = start(calls[0], stderr=subprocess.PIPE)
    assert first.stderr is not None
    for line in first.stderr:
        if "trial 0:" in line:
            break
    other = start(calls[1], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first.send_signal(signal.SIGKILL)
    first.stderr.close()
    assert first.wait() == -signal.SIGKILL
    assert start(calls[0], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).wait(500) == 0
    assert other.wait(500) == 0
    found = [json.loads((tmp_path / out / "results.json").read_text()) for out in "ab"]
    for name in ("trials", "finalists", "best", "default", "difference", "beliefs"):
        assert found[0][name] == found[1][name]
    assert [t["number"] for t in found[0]["trials"]] == list(range(6))
    assert {t["state"] for t in found[0]["trials"]} == {"complete"}
    for out in "ab":
        for part in ("report.html", "recommended.json", "model/model.safetensors"):
            assert (tmp_path / out / part).exists()
    live = [
        t for t in Place(server, "both").open("trials").get_trials() if "killed" not in t.user_attrs
    ]
    assert len(live) == 6
    assert cli.main([*calls[0], "--reward", "accuracy", "--out", str(tmp_path / "c")]) == 1


def test_a_password_is_not_written_down(corpus: Path, server: str, tmp_path: Path) -> None:
    address = server.replace("melbandit@", "melbandit:sesame@")
    call = command(corpus, address, "secret", tmp_path / "a")
    call[call.index("--trials") + 1] = "1"
    call[call.index("--epochs") + 1] = "1"
    assert cli.main(call) == 0
    for path in (tmp_path / "a").rglob("*.*"):
        if path.is_file():
            assert b"sesame" not in path.read_bytes()


def test_the_workers_of_a_command_are_on_a_cluster(
    corpus: Path, server: str, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed; install melbandit[cluster]")
    call = [*command(corpus, server, "ray", tmp_path / "a"), "--ray", "local", "--workers", "2"]
    assert start(call).wait(500) == 0
    trials = Place(server, "ray").open("trials").get_trials()
    assert len({t.user_attrs["pid"] for t in trials if "killed" not in t.user_attrs}) == 2


def test_a_cluster_without_a_shared_storage_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["search", str(corpus), "--out", str(tmp_path / "a"), "--ray", "auto"]) == 1
    assert "give a storage that every node reaches" in capsys.readouterr().err
    bad = ["search", str(corpus), "--out", str(tmp_path / "a"), "--ray-cpus", "0"]
    assert cli.main(bad) != 0
    assert "ray_cpus=0" in capsys.readouterr().err
