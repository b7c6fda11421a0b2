"""Conversion on a real Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from servers import free_port

from audio import cluster_conversion
from audio.clips import Clip
from audio.conversion import PictureFolder
from audio.settings import CutSettings, SpectrogramSettings, UserError
from scripts import cli

ROOT = Path(__file__).parents[1]


def small() -> dict[str, int]:
    """Return what a node shall have; ports that it is told it need not wait for."""
    ports = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
             "runtime_env_agent_port")  # fmt: skip
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20, **{p: free_port() for p in ports}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Return the address of a cluster of two nodes with a processor each."""
    pytest.importorskip("ray", reason="Ray is not installed; install melbandit[cluster]")
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    made = Cluster(initialize_head=True, head_node_args={**small(), "include_dashboard": False})
    try:
        made.add_node(**small())
        yield made.address
    finally:
        made.shutdown()
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def corpus(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "clips" / f"class {i % 2}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.02, 4000 + 100 * i), 16000)
    (tmp_path / "clips" / "class 1" / "7.wav").write_text("no sound")
    return tmp_path / "clips"


def pictures(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.glob("*/*/*.png")}


@pytest.mark.slow
def test_the_nodes_write_the_pictures_that_one_process_writes(cluster, corpus, tmp_path, capsys):
    command = ["convert", str(corpus), "--n-mels", "24", "--clip-s", "0.3", "--longer", "random"]
    assert cli.main([*command, "--out", str(tmp_path / "here")]) == 3
    assert cli.main([*command, "--out", str(tmp_path / "there"), "--ray", cluster]) == 3
    assert "7.wav" in capsys.readouterr().err
    here, there = pictures(tmp_path / "here"), pictures(tmp_path / "there")
    assert len(here) == 59
    assert here == there


@pytest.mark.slow
def test_a_full_disk_on_a_node_is_told_as_here(cluster, corpus, tmp_path):
    clips = [Clip(path, "x", split="train") for path in sorted(corpus.rglob("*.wav"))[:5]]
    settings = SpectrogramSettings(n_mels=24, clip_s=0.3)
    missing = PictureFolder(tmp_path / "no folder", [Path("a.png")] * 5, settings)
    with pytest.raises(OSError, match="No such file") as error:
        cluster_conversion.convert_on_cluster(
            cluster, clips, range(5), settings, missing, cut=CutSettings()
        )
    assert error.value.errno == errno.ENOENT


def test_windows_of_one_recording_go_to_one_node(monkeypatch):
    monkeypatch.setattr(cluster_conversion, "_SHARE_ROWS", 3)
    clips = [Clip(Path(name), "x") for name in "aaaaabbc"]
    shares = cluster_conversion._shares(clips, range(8), windows=True)
    assert shares == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert cluster_conversion._shares(clips, range(8), windows=False) == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7],
    ]


def test_ray_beside_shards_is_refused_and_its_absence_is_told(
    corpus, tmp_path, capsys, monkeypatch
):
    command = ["convert", str(corpus), "--out", str(tmp_path / "o"), "--ray", "auto"]
    assert cli.main([*command, "--format", "uint8"]) == 1
    assert "leave out --format" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the package ray; install melbandit\[cluster\]"):
        cluster_conversion._connected("auto")
    assert cli.main(command) == 1
    assert "melbandit[cluster]" in capsys.readouterr().err
