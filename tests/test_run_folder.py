"""The folder of a run: what a kill leaves is known for ours and can be gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audio.settings import UserError
from scripts.run_folder import RunFolder, open_run

IDENTITY = {"settings": {"a": 1}}


class Killed(BaseException):
    """Stands for kill -9 at one place."""


def killed(*_: object, **__: object) -> None:
    raise Killed


def begun(path: Path, *, overwrite: bool = False, identity: dict | None = None) -> RunFolder:
    with open_run(path, overwrite=overwrite) as folder:
        folder.begin("finetune", identity or IDENTITY, ["x"])
        return folder


@pytest.mark.parametrize(
    "place", ["scripts.run_folder.write_atomically", "scripts.run_folder.Path.mkdir"]
)
def test_a_run_killed_as_it_begins_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with open_run(out, overwrite=False) as folder:
        monkeypatch.setattr(place, killed)
        with pytest.raises(Killed):
            folder.begin("finetune", IDENTITY, ["x"])
    monkeypatch.undo()
    assert begun(out).work.is_dir()
    assert begun(out, overwrite=True, identity={"settings": {"a": 2}}).work.is_dir()


def test_a_kill_while_an_old_run_is_removed_leaves_what_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path / "run")
    for name in ("train", "validation"):
        (folder.path / name).mkdir()
    for name in ("a.html", "z.html"):
        (folder.path / name).touch()
    removed = []

    def remove(path: Path) -> None:
        removed.append(path)
        if len(removed) == 2:
            raise Killed
        path.rmdir()

    monkeypatch.setattr(shutil, "rmtree", remove)
    with pytest.raises(Killed), open_run(folder.path, overwrite=True):
        pass
    monkeypatch.undo()
    assert (folder.path / "settings.json").exists()
    again = begun(folder.path, overwrite=True, identity={"settings": {"a": 2}})
    assert sorted(path.name for path in again.path.iterdir()) == [".lock", "settings.json", "work"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    for overwrite in (False, True):
        with (
            pytest.raises(UserError, match=r"holds no run of melbandit \(mine.txt is in it\)"),
            open_run(tmp_path, overwrite=overwrite),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
