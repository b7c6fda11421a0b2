"""The folder of a run: one process at a time, its record, and whether to go on or start over."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from audio.files import write_atomically
from audio.settings import UserError

_RECORDED = ("melbandit", "torch", "transformers", "optuna", "numpy", "soundfile", "soxr")


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process holds the lock of.

    path: the folder. work: what is only needed until the run is done (decoded clips, checkpoints).
    """

    path: Path

    @property
    def work(self) -> Path:
        """The run's scratch folder."""
        return self.path / "work"

    @property
    def is_done(self) -> bool:
        """Whether an earlier command finished this run."""
        return (self.path / "results.json").exists()

    def results(self) -> dict[str, Any]:
        """Return what the finished run wrote."""
        result: dict[str, Any] = json.loads((self.path / "results.json").read_text("utf-8"))
        return result

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        text = json.dumps(value, indent=1, ensure_ascii=False)
        write_atomically(self.path / name, (text + "\n").encode("utf-8"))

    def write_table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Write a CSV file into the folder, whole or not at all."""
        out = io.StringIO(newline="")
        table = csv.writer(out)
        table.writerow(header)
        table.writerows(rows)
        write_atomically(self.path / name, out.getvalue().encode("utf-8"))

    def write_failures(self, failures: Sequence[tuple[str, str]]) -> None:
        """Write failures.csv, or remove an old one where nothing failed."""
        if failures:
            self.write_table("failures.csv", ("path", "reason"), failures)
        else:
            (self.path / "failures.csv").unlink(missing_ok=True)

    def is_of(self, identity: dict[str, Any]) -> bool:
        """Return whether the folder's record has these entries."""
        try:
            have = json.loads((self.path / "settings.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return all(have.get(key) == value for key, value in identity.items())

    def begin(self, command: str, identity: dict[str, Any], argv: Sequence[str]) -> None:
        """Write the record (settings.json), or check that the one there is of the same run.

        identity: what must be equal for a run to be the same run; `settings` and `seed` in it.

        Raises:
            UserError: the folder holds another run; names what differs.
        """
        record_path = self.path / "settings.json"
        identity = json.loads(json.dumps({"command": command} | identity))
        if record_path.exists():
            have = json.loads(record_path.read_text("utf-8"))
            differs = _differences({key: have.get(key) for key in identity}, identity)
            if differs:
                raise UserError(
                    f"{self.path}: holds a run that differs in {'; '.join(differs[:5])}. Give "
                    "another --out, or --overwrite to start over."
                )
        else:
            more = {
                "argv": ["melbandit", command, *argv],
                "versions": _versions(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
                "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            }
            self.write_json("settings.json", identity | more)
        self.work.mkdir(exist_ok=True)  # after the record, by which the folder is known for ours

    def amend(self, more: dict[str, Any]) -> None:
        """Add entries to the record that do not make it another run."""
        record = json.loads((self.path / "settings.json").read_text("utf-8"))
        if {key: record.get(key) for key in more} != more:
            self.write_json("settings.json", record | more)

    def finish(self, results: dict[str, Any]) -> None:
        """Write results.json, which marks the run done, and drop the scratch folder."""
        self.write_json("results.json", results)
        shutil.rmtree(self.work, ignore_errors=True)


@contextlib.contextmanager
def open_run(path: Path, *, overwrite: bool) -> Iterator[RunFolder]:
    """Give the run folder at `path`, made if need be, held by this process alone.

    overwrite: remove the run that is there first.

    Raises:
        UserError: another process holds it, or it holds something that is no run.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; give a folder.")
    path.mkdir(parents=True, exist_ok=True)
    lock_path = path / ".lock"
    with lock_path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path}: another melbandit is at work in it; wait for it, or give another --out."
            ) from None
        others = [p for p in path.iterdir() if p.name != ".lock"]
        ours = (path / "settings.json").exists() or (path / "settings.json.part").exists()
        if others and not ours:
            lock_path.unlink()
            raise UserError(
                f"{path}: is not empty and holds no run of melbandit ({others[0].name} is in it); "
                "give an empty or new folder."
            )
        if overwrite:  # the record last: a kill on the way leaves a folder that is known for ours
            for other in sorted(others, key=lambda p: p.name.startswith("settings.json")):
                if other.is_dir() and not other.is_symlink():
                    shutil.rmtree(other)
                else:
                    other.unlink()
        yield RunFolder(path)


def _differences(have: Any, want: Any, name: str = "") -> list[str]:
    """Return lines like `n_mels (64 there, 80 here)`."""
    if isinstance(have, dict) and isinstance(want, dict):
        lines: list[str] = []
        for key in sorted(set(have) | set(want)):
            lines += _differences(have.get(key), want.get(key), key)
        return lines
    return [] if have == want else [f"{name} ({have} there, {want} here)"]


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _RECORDED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
