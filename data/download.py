"""Archives of published corpora: fetched with resume, held to their checksum, unpacked safely."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import json
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from audio.settings import UserError

Progress = Callable[[int, int], None]

_CHUNK = 1 << 20
_TIMEOUT_S = 60
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # what a later request may get past


class DownloadError(UserError):
    """An archive could not be fetched, is not the published one, or cannot be unpacked."""


@dataclass(frozen=True)
class Archive:
    """A published file.

    url: where its authors put it. name: what it is called on disk. n_bytes: its size. checksum:
    `md5:...` or `sha256:...`. Size and checksum are None where none is published, as of archives
    that GitHub packs anew on each request.
    """

    url: str
    name: str
    n_bytes: int | None = None
    checksum: str | None = None


class _Interrupted(Exception):
    """The transfer stopped; what is there can be gone on from."""


def fetch(
    archive: Archive,
    folder: Path,
    *,
    progress: Progress | None = None,
    attempts: int = 5,
    wait_s: float = 1.0,
) -> Path:
    """Return the archive's path in `folder`, fetched if it is not there, its checksum verified.

    What was fetched is kept in NAME.part: after a break, or in another process after a kill, the
    transfer goes on from there (HTTP Range), unless the server's file has changed. progress:
    called with bytes done and bytes in all.

    Raises:
        DownloadError: the server refuses, the transfer breaks `attempts` times, the disk is full,
            or the file is not the published one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / archive.name
    if path.exists():
        _verify(path, archive, "remove it and fetch it again")
        return path
    part = path.with_name(path.name + ".part")
    with part.open("ab") as file:
        _lock(file, part)
        try:
            for attempt in range(1, attempts + 1):
                try:
                    _transfer(archive, file, part, progress)
                    break
                except _Interrupted as error:
                    if attempt == attempts:
                        raise DownloadError(
                            f"{archive.url}: stopped after {file.tell():,} bytes ({error}); the "
                            "same command goes on from there."
                        ) from None
                    time.sleep(wait_s * 2 ** (attempt - 1))
        finally:
            if not file.tell():  # nothing came: leave nothing
                part.unlink()
        try:  # under the lock still
            _verify(part, archive, "removed; the same command fetches it again from the start")
        except DownloadError:
            part.unlink()
            raise
        finally:
            _note(part).unlink(missing_ok=True)
        part.replace(path)
    return path


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder that one process alone fetches and unpacks into, made if need be.

    Raises:
        DownloadError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        _lock(file, folder)
        yield


def _lock(file: IO[Any], what: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DownloadError(f"{what}: another process is fetching it; wait for it.") from None


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _validator(part: Path, archive: Archive) -> str | None:
    """Return what tells whether the server's file is still the one that `part` is the start of."""
    try:
        note = json.loads(_note(part).read_text("utf-8"))
        return note["validator"] if note["url"] == archive.url else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or not ours
        return None


def _transfer(archive: Archive, file: IO[bytes], part: Path, progress: Progress | None) -> None:
    """Fetch the rest of the archive to the end of `file`.

    Raises:
        _Interrupted: it broke off. DownloadError: it cannot be had.
    """
    have = file.seek(0, 2)
    headers = {"User-Agent": "melbandit", "Accept-Encoding": "identity"}
    validator = _validator(part, archive)
    if have and (validator or archive.checksum):
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(archive.url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            goes_on = getattr(response, "status", None) == 206
            if goes_on and not _starts_at(response, have):
                raise _Interrupted("the server sent another part than was asked for")
            if not goes_on:
                have = 0
                file.truncate(0)
                file.seek(0)
                _write_note(part, archive, response)
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else archive.n_bytes
            _check_room(part.parent, (total or 0) - have)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, total or have)
            file.flush()
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send, or the file is another one by now
            if archive.n_bytes is not None and have == archive.n_bytes:
                return
            file.truncate(0)
            raise _Interrupted("the server's file is shorter than what is there") from None
        if error.code in _AGAIN:
            raise _Interrupted(f"HTTP {error.code} {error.reason}") from None
        raise DownloadError(
            f"{archive.url}: HTTP {error.code} {error.reason}. Fetch it by hand and give its "
            "folder by --root."
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as e:
        reason = e.reason if isinstance(e, urllib.error.URLError) else (str(e) or type(e).__name__)
        raise _Interrupted(str(reason)) from None
    if total is not None and have < total:
        raise _Interrupted(f"truncated: {have:,} of {total:,} bytes came")


def _starts_at(response: Any, have: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _write_note(part: Path, archive: Archive, response: Any) -> None:
    tag = response.headers.get("ETag")
    if tag is None or tag.startswith("W/"):  # weak: says nothing about bytes (RFC 9110, 13.1.5)
        tag = response.headers.get("Last-Modified")
    note = {"url": archive.url, "validator": tag}
    _note(part).write_text(json.dumps(note), encoding="utf-8")


def _verify(path: Path, archive: Archive, remedy: str) -> None:
    """Raise where the file is not the published one."""
    size = path.stat().st_size
    if archive.n_bytes is not None and size != archive.n_bytes:
        raise DownloadError(
            f"{path}: {size:,} bytes, not the published {archive.n_bytes:,}; {remedy}."
        )
    if archive.checksum is None:
        if archive.n_bytes is None and not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
            raise DownloadError(f"{path}: neither zip nor tar, or a part of one; {remedy}.")
        return
    kind, _, want = archive.checksum.partition(":")
    with path.open("rb") as file:
        have = hashlib.file_digest(file, kind).hexdigest()
    if have != want:
        raise DownloadError(f"{path}: its {kind} is {have}, not the published {want}; {remedy}.")


def _check_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DownloadError(
            f"{folder}: {n_bytes / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; make "
            "room, or give another --root."
        )


def unpack(archive: Path, folder: Path, *, progress: Progress | None = None) -> None:
    """Unpack a zip or tar archive as `folder`, which is there whole or not at all.

    progress: called with bytes read and bytes in all.

    Raises:
        DownloadError: it is damaged, holds a link, or a name that leads out of the folder.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            members = _zip_members(archive)
        elif tarfile.is_tarfile(archive):
            members = _tar_members(archive)
        else:
            raise DownloadError(f"{archive}: neither zip nor tar; remove it and fetch it again.")
        for name, n_bytes, content, done in members:
            target = _inside(part, name, archive)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            _check_room(part, n_bytes)
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as out:
                shutil.copyfileobj(content, out, _CHUNK)
            if progress:
                progress(*done)
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        ValueError,  # a name with a NUL
        RuntimeError,  # a member that needs a password or another way of compression
    ) as error:
        raise DownloadError(
            f"{archive}: damaged or of another kind ({error}); remove it and fetch it again."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


_Member = tuple[str, int, IO[bytes] | None, tuple[int, int]]


def _zip_members(path: Path) -> Iterator[_Member]:
    """Yield (name, size, content or None for a folder, progress)."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total, done = sum(m.compress_size for m in members), 0
        for member in members:
            done += member.compress_size
            # orig_filename: `filename` is cut and mended by zipfile, and would hide a bad name
            content = None if member.is_dir() else archive.open(member)
            yield member.orig_filename, member.file_size, content, (done, total)


def _tar_members(path: Path) -> Iterator[_Member]:
    total = path.stat().st_size
    with path.open("rb") as raw, tarfile.open(fileobj=raw) as archive:
        for member in archive:
            if not member.isfile() and not member.isdir():
                raise DownloadError(f"{path}: {member.name} is a link or a device, not a file.")
            content = archive.extractfile(member) if member.isfile() else None
            yield member.name, member.size, content, (min(raw.tell(), total), total)
        rest = archive.fileobj
        while rest is not None and rest.read(_CHUNK):  # gzip's checksum comes after tar's end
            pass


def _inside(folder: Path, name: str, archive: Path) -> Path:
    """Return where a member goes; refuse a name that leads elsewhere."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not name or name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":":
        raise DownloadError(f"{archive}: holds {name!r}, which leads out of it; not unpacked.")
    return folder.joinpath(*parts)
