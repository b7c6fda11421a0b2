"""Crews of threads and of forked processes: all is done once, and errors and deaths are told.

Processes are tried in an interpreter of their own: this one has torch in it, and is not forked.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.crew import by_threads, can_fork

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks on Linux alone")

PRELUDE = """
import errno, os, signal, sys, time
from pathlib import Path
from audio.crew import by_processes, can_fork
from audio.settings import UserError
assert can_fork()
"""


def script(body: str) -> str:
    """Run a script without torch and return its stdout."""
    code = PRELUDE + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@linux
def test_processes_do_every_share_once_and_share_the_work():
    told = script(
        """
        def work(share):
            time.sleep(0.02)
            for one in share:
                yield one, os.getpid()
        shares = [list(range(k, k + 3)) for k in range(0, 60, 3)]
        done = list(by_processes(shares, work, 2))
        assert sorted(one for one, _ in done) == list(range(60))
        pids = {pid for _, pid in done}
        assert os.getpid() not in pids
        print(len(pids))
        """
    )
    assert told == "2"


@linux
def test_an_error_in_a_process_is_raised_as_it_is_and_ends_the_work():
    told = script(
        """
        def work(share):
            if share == 3:
                raise OSError(errno.ENOSPC, "full", "some/file.png")
            time.sleep(0.01)
            yield share
        done = []
        try:
            for one in by_processes(range(1000), work, 2):
                done.append(one)
        except OSError as error:
            print(error.errno == errno.ENOSPC, error.filename, len(done) < 500)
        """
    )
    assert told == "True some/file.png True"


@linux
def test_a_killed_process_is_told_and_not_waited_for():
    told = script(
        """
        def work(share):
            if share == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield share
        try:
            list(by_processes(range(100), work, 2))
        except UserError as error:
            print(error)
        """
    )
    assert "was killed" in told
    assert "same command again" in told


@linux
def test_no_process_outlives_a_killed_parent(tmp_path):
    code = PRELUDE + textwrap.dedent(
        f"""
        def work(share):
            Path({str(tmp_path)!r}, str(os.getpid())).touch()
            time.sleep(30)
            yield share
        list(by_processes(range(4), work, 2))
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    children = [int(path.name) for path in tmp_path.iterdir()]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    while any(_runs(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(_runs(pid) for pid in children)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_this_interpreter_with_torch_in_it_is_not_forked():
    import torch

    assert torch.__name__ in sys.modules
    assert not can_fork()


def test_threads_do_every_share_once():
    done = list(by_threads(iter(range(50)), lambda share: iter([share, -share]), 3))
    assert sorted(done) == sorted([*range(50), *(-k for k in range(50))])


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(300):
        path = tmp_path / "clips" / "ab"[k % 2] / f"{k}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(2000 + 10 * k), 8000)
    (tmp_path / "clips" / "a" / "broken.wav").write_bytes(b"no sound")
    return tmp_path / "clips"


def convert(clips: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.cli", "convert", str(clips), "--out", str(out)]
    return subprocess.run([*command, *more], capture_output=True, text=True, timeout=120)


def test_the_command_writes_the_same_files_by_one_worker_and_by_three(folder, tmp_path):
    one = convert(folder, tmp_path / "one", "--workers", "1")
    three = convert(folder, tmp_path / "three", "--workers", "3")
    assert one.returncode == three.returncode == 3
    assert "broken.wav" in one.stderr
    assert "broken.wav" in three.stderr
    names = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.png"))
    assert len(names) == 301  # the contact sheet, too
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


@linux
def test_a_command_that_is_interrupted_leaves_nothing_half_written_and_goes_on(folder, tmp_path):
    # a shell's background job ignores Ctrl-C, and so would what it starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt(folder, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "scripts.cli", "convert", str(folder), "--out", str(out)]
    running = subprocess.Popen(
        [*command, "--workers", "2", "--n-fft", "4096", "--hop-length", "4"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not list(out.rglob("*.png")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, told = running.communicate(timeout=60)
    assert running.returncode not in (0, 3)
    assert b"Traceback" not in told
    assert not list(out.rglob("*.part"))
    before = len(list(out.rglob("*.png")))
    assert 0 < before < 300
    again = convert(folder, out, "--workers", "2", "--n-fft", "4096", "--hop-length", "4")
    assert again.returncode == 3
    assert f'"new": {300 - before}' in again.stdout
