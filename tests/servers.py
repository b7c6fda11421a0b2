"""Servers for the tests: a throw-away PostgreSQL from Debian's package, Optuna's gRPC proxy."""

from __future__ import annotations

import getpass
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_programs() -> Path:
    """Return the folder of initdb and pg_ctl; the test is skipped where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = shutil.which("initdb") or (str(found[-1]) if found else None)
    if path is None:
        pytest.skip("initdb was not found; install PostgreSQL (apt-get install postgresql)")
    return Path(path).parent


def unprivileged() -> str | None:
    """Return the user that PostgreSQL shall run as: it refuses to be run by root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    pytest.skip("PostgreSQL refuses to be run by root, and there is no user postgres or nobody")


@dataclass
class Postgres:
    """A PostgreSQL server of this machine."""

    folder: Path
    programs: Path
    user: str | None
    port: int

    @property
    def address(self) -> str:
        return f"postgresql://melbandit@127.0.0.1:{self.port}/postgres"

    def call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, "-D", str(self.folder / "data"), *arguments],
            user=self.user, cwd=self.folder, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(self.folder)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        # nothing here has to survive a power cut
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.call("pg_ctl", "-l", str(self.folder / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-m", "immediate", "stop")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL server with an empty database."""
    programs = postgres_programs()
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed; install melbandit[cluster] (make slow does)")
    with tempfile.TemporaryDirectory(prefix="melbandit-postgresql-") as name:
        server = Postgres(Path(name), programs, unprivileged(), free_port())
        if server.user is not None:
            shutil.chown(name, server.user)
        server.call("initdb", "-U", "melbandit", "-A", "trust", "-E", "UTF8", "-N")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL server on this machine; give the address of an empty database."""
    with postgres() as server:
        yield server.address


PROXY = """
import sys
from optuna.storages import get_storage, run_grpc_proxy_server
run_grpc_proxy_server(get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextmanager
def proxy(address: str) -> Iterator[str]:
    """Run Optuna's gRPC proxy before a storage; give its address."""
    if importlib.util.find_spec("grpc") is None:
        pytest.skip("grpcio is not installed; install melbandit[cluster] (make slow does)")
    port = free_port()
    address = address.replace("postgresql://", "postgresql+psycopg://")
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROXY, address, str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, server)
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def wait_for_port(port: int, server: subprocess.Popen) -> None:
    """Wait until a server listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert server.poll() is None, f"{getpass.getuser()}: the server ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen after a minute")
