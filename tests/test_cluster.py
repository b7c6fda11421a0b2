"""Workers on a real Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import free_port, postgresql
from test_machines import LARGE, Slow, check_whole, raw
from test_rl_search import SETTINGS, SPACE, Training

from rl.claims import final_seeds, trial_seed
from rl.cluster import Nodes
from rl.search import SearchError, SearchInterrupted, run_search
from rl.studies import Place

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TRIALS = replace(SETTINGS, trials=8, workers=0)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as address:
        yield address


def small() -> dict[str, int]:
    """Return what a node shall have. Ports that it is told it need not wait for: on a busy machine
    Ray's patience of 15 s with its own helpers is too short."""
    ports = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
             "runtime_env_agent_port")  # fmt: skip
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20, **{p: free_port() for p in ports}}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Return the address of a cluster of two nodes with a processor each."""
    pytest.importorskip("ray", reason="Ray is not installed; install melbandit[cluster]")
    from ray.cluster_utils import Cluster as LocalCluster

    before = os.environ.get("PYTHONPATH")
    # the nodes import the objective of this test
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    cluster = None
    for _ in range(4):  # on a busy machine its helpers may take longer than Ray waits for them
        try:
            head = {**small(), "include_dashboard": False}
            cluster = LocalCluster(initialize_head=True, head_node_args=head)
            break
        except Exception as error:
            problem = error
    if cluster is None:
        pytest.skip(f"no Ray cluster could be started here: {problem}")
    try:
        cluster.add_node(**small())
        yield Nodes(cluster.address)
    finally:
        cluster.shutdown()
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def search(folder: Path, storage: str, name: str, nodes: Nodes, **faults: Any) -> dict[str, Any]:
    place = Place(storage, name, beat_s=0.2, dead_s=20.0)
    objective = Slow(folder, **faults)
    found = run_search(LARGE, objective, TRIALS, place, nodes=nodes)
    return json.loads(json.dumps(found.to_json()))


def test_the_nodes_share_the_trials(nodes: Nodes, server: str, tmp_path: Path) -> None:
    result = search(tmp_path, server, "shared", nodes, together=2)
    check_whole(server, "shared", result, 8)
    workers = {t.user_attrs["pid"] for t in raw(server, "shared", "trials")}
    assert len(workers) == 2
    assert f":{os.getpid()}" not in "".join(workers)
    assert search(tmp_path, server, "shared", nodes, together=2) == result  # nothing is left to do


@pytest.mark.parametrize("where", ["trial", "final"])
def test_an_actor_killed_in_a_training_loses_and_doubles_nothing(
    nodes: Nodes, server: str, where: str, tmp_path: Path
) -> None:
    name = f"ray-{where}"
    seed = trial_seed(0, 3) if where == "trial" else final_seeds(0, 2)[0]
    result = search(tmp_path, server, name, nodes, dies_at=(seed,))
    check_whole(server, name, result, 8)
    entries = raw(server, name, "trials" if where == "trial" else "finals")
    (lost,) = [t for t in entries if t.user_attrs.get("killed") == "died"]
    (again,) = [t for t in entries if t.user_attrs.get("retry_of") == lost.number]
    assert again.user_attrs["seed"] == lost.user_attrs["seed"] == seed
    assert again.params == lost.params
    assert again.user_attrs["pid"] != lost.user_attrs["pid"]
    assert "the worker on the cluster died" in lost.user_attrs["error"]


def test_a_search_on_a_cluster_stops_when_asked_and_goes_on(
    nodes: Nodes, server: str, tmp_path: Path
) -> None:
    def ask() -> None:
        while not any(tmp_path.glob("training-*")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(SearchInterrupted):
        search(tmp_path, server, "stopped", nodes, waits=True)
    asking.join()
    entries = raw(server, "stopped", "trials")
    assert {t.state.name for t in entries} == {"FAIL"}
    assert {t.user_attrs["killed"] for t in entries} == {True}
    check_whole(server, "stopped", search(tmp_path, server, "stopped", nodes), 8)


def test_what_goes_wrong_in_an_actor_is_told(nodes: Nodes, server: str, tmp_path: Path) -> None:
    objective = Training(tmp_path / "nowhere")  # whose folder `prepare` cannot write to
    with pytest.raises(SearchError, match=r"(?s)worker on the cluster ended.*nowhere"):
        run_search(SPACE, objective, TRIALS, Place(server, "wrong"), nodes=nodes)


def test_a_cluster_that_is_not_there_is_told(server: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed; install melbandit[cluster]")
    with pytest.raises(SearchError, match=r"ray=127.0.0.1:9: no cluster answers"):
        run_search(SPACE, Training(tmp_path), TRIALS, Place(server, "x"),
                   nodes=Nodes("127.0.0.1:9"))  # fmt: skip
