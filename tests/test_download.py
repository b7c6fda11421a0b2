"""Archives over a real local server: resume, checksum, damage, and names that lead elsewhere."""

from __future__ import annotations

import fcntl
import hashlib
import io
import re
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.download import Archive, DownloadError, fetch, unpack

CONTENT = bytes(range(256)) * 20_000  # 5 MB, five of the pieces that are read at a time


@dataclass
class Server:
    """A file behind HTTP, and how it misbehaves."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    ranges: bool = True
    cut_at: list[int] = field(default_factory=list)  # bytes after which a request breaks, in turn
    status: list[int] = field(default_factory=list)  # answered instead, in turn
    lengthless: bool = False
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status:
                self.send_error(state.status.pop(0))
                return
            content, start = state.content, 0
            known = self.headers.get("If-Range") in (None, state.etag)
            if wanted and state.ranges and known:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            else:
                self.send_response(200)
            if not state.lengthless:
                self.send_header("Content-Length", str(len(content) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            end = state.cut_at.pop(0) if state.cut_at else len(content)
            self.wfile.write(content[start : max(start, end)])
            if end < len(content):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # connections that were cut on purpose

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_address[1]}/corpus.zip"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def archive(server: Server, **changes: object) -> Archive:
    sha = hashlib.sha256(CONTENT).hexdigest()
    values = {"n_bytes": len(CONTENT), "checksum": f"sha256:{sha}"} | changes
    return Archive(server.url, "corpus.zip", **values)  # type: ignore[arg-type]


def test_a_file_arrives_whole_with_its_progress(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = fetch(archive(server), tmp_path / "new", progress=lambda *at: told.append(at))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["corpus.zip"]
    fetch(archive(server), tmp_path / "new")
    assert len(server.asked) == 1  # what is there is verified, not fetched


def test_a_broken_transfer_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cut_at = [2_000_000, 4_000_000]
    assert fetch(archive(server), tmp_path, wait_s=0).read_bytes() == CONTENT
    assert server.asked[0] is None
    starts = [int(re.findall(r"\d+", asked)[0]) for asked in server.asked[1:] if asked]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(CONTENT)


def test_another_process_goes_on_where_the_first_was_killed(server: Server, tmp_path: Path) -> None:
    server.cut_at = [3_000_000]
    with pytest.raises(DownloadError, match=r"stopped after [\d,]+ bytes .*goes on from there"):
        fetch(archive(server), tmp_path, attempts=1)
    part = (tmp_path / "corpus.zip.part").stat().st_size
    assert 0 < part <= 3_000_000
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[1] == f"bytes={part}-"


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(
    server: Server, tmp_path: Path
) -> None:
    loose = {"checksum": None, "n_bytes": None}
    server.content, server.cut_at = stored_zip(CONTENT), [2_000_000]
    with pytest.raises(DownloadError, match="stopped"):
        fetch(archive(server, **loose), tmp_path, attempts=1)
    server.content, server.etag = stored_zip(CONTENT[::-1] + b"longer"), '"two"'
    assert fetch(archive(server, **loose), tmp_path).read_bytes() == server.content


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
def test_a_server_without_ranges_or_validators_still_gives_the_whole_file(
    etag: str | None, server: Server, tmp_path: Path
) -> None:
    server.etag, server.ranges, server.cut_at = etag, etag is None, [2_000_000]
    server.content = stored_zip(CONTENT)
    loose = archive(server, checksum=None, n_bytes=None)
    assert fetch(loose, tmp_path, wait_s=0).read_bytes() == server.content


@pytest.mark.parametrize("sent", ["a page", "a part"])
def test_what_is_no_archive_is_not_kept_for_one(sent: str, server: Server, tmp_path: Path) -> None:
    whole = stored_zip(CONTENT)
    server.lengthless = True  # the end of the connection is the end of the file
    server.content = b"<html>log in</html>" if sent == "a page" else whole[:1_000_000]
    loose = archive(server, checksum=None, n_bytes=None)
    with pytest.raises(DownloadError, match="neither zip nor tar, or a part of one"):
        fetch(loose, tmp_path)
    assert not list(tmp_path.iterdir())
    server.content = whole
    assert fetch(loose, tmp_path).read_bytes() == whole


@pytest.mark.parametrize("note", ["[]", "{}", "null", '{"url": 1}'])
def test_a_note_that_is_not_ours_is_no_obstacle(note: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "corpus.zip.part").write_bytes(CONTENT[:1000])
    (tmp_path / "corpus.zip.part.json").write_text(note)
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(
    server: Server, tmp_path: Path
) -> None:
    server.status = [503, 429]
    assert fetch(archive(server), tmp_path / "a", wait_s=0).read_bytes() == CONTENT
    server.status = [404]
    with pytest.raises(DownloadError, match=r"corpus\.zip: HTTP 404 .*--root"):
        fetch(archive(server), tmp_path / "b", wait_s=0)
    assert len(server.asked) == 4
    assert list((tmp_path / "b").iterdir()) == []


def test_a_truncated_file_is_never_taken_for_the_whole(server: Server, tmp_path: Path) -> None:
    server.lengthless, server.cut_at = True, [1_000_000] * 2
    with pytest.raises(DownloadError, match=r"truncated: [\d,]+ of 5,120,000 bytes"):
        fetch(archive(server), tmp_path, attempts=2, wait_s=0)
    assert not (tmp_path / "corpus.zip").exists()


def test_a_wrong_checksum_is_told_and_the_file_removed(server: Server, tmp_path: Path) -> None:
    wrong = archive(server, checksum="md5:" + "0" * 32)
    have = hashlib.md5(CONTENT).hexdigest()
    with pytest.raises(DownloadError, match=f"its md5 is {have}, not the published 0{{32}}"):
        fetch(wrong, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "corpus.zip").write_bytes(CONTENT)  # a user's own file is left to the user
    with pytest.raises(DownloadError, match="remove it"):
        fetch(wrong, tmp_path)
    assert (tmp_path / "corpus.zip").exists()
    with pytest.raises(DownloadError, match="5,120,000 bytes, not the published 7"):
        fetch(archive(server, n_bytes=7), tmp_path)


def test_a_part_longer_than_the_file_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "corpus.zip.part").write_bytes(b"x" * (len(CONTENT) + 5))
    assert fetch(archive(server), tmp_path, wait_s=0).read_bytes() == CONTENT


def test_no_server_is_told_with_the_url(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x.zip"
        with pytest.raises(DownloadError, match=re.escape(url)):
            fetch(Archive(url, "x.zip"), tmp_path, attempts=2, wait_s=0)


def test_a_local_file_url_works(tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_bytes(CONTENT)
    there = Archive((tmp_path / "there.zip").as_uri(), "here.zip", len(CONTENT))
    assert fetch(there, tmp_path / "to").read_bytes() == CONTENT


def test_two_processes_do_not_write_one_file(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "corpus.zip.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process"):
            fetch(archive(server), tmp_path)


def test_a_disk_too_small_is_told_before_the_transfer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    free = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(DownloadError, match=r"0\.0 GB are needed"):
        fetch(archive(server), tmp_path)


# Unpacking


@pytest.mark.parametrize("harm", ["nul", "password"])
def test_a_member_that_cannot_be_read_is_told(harm: str, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", **{"aXb.wav": b"sound"})
    data = bytearray(path.read_bytes())
    if harm == "nul":
        data = data.replace(b"aXb", b"a\0b")
    else:  # bit 0 of the flags, in both headers
        data[6] |= 1
        data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DownloadError, match=r"a\.zip: .*fetch it again"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def stored_zip(data: bytes) -> bytes:
    """Return a zip that holds `data` as it is."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(zipfile.ZipInfo("a.bin"), data)
    return out.getvalue()


def zip_of(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(zipfile.ZipInfo(name), data)
    return path


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for member, data in members:
            member.size = len(data) if member.isfile() else 0
            out.addfile(member, io.BytesIO(data))
    return path


def test_zip_and_tar_unpack_to_the_same_files(tmp_path: Path) -> None:
    files = {"top/a.wav": b"one", "top/deep/b.wav": b"two" * 9999}
    zip_of(tmp_path / "a.zip", **files)
    infos = [(tarfile.TarInfo(f"./{name}"), data) for name, data in files.items()]
    tar_of(tmp_path / "a.tar.gz", *infos)
    for name in ("a.zip", "a.tar.gz"):
        out = tmp_path / f"from {name}"
        told: list[tuple[int, int]] = []
        unpack(tmp_path / name, out, progress=lambda *at, told=told: told.append(at))
        got = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.wav")}
        assert got == files
        assert told
        assert told[-1][0] <= told[-1][1]


@pytest.mark.parametrize("name", ["../out.wav", "/out.wav", "top/../../out.wav", "..\\out.wav"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_leads_out_is_refused_and_nothing_is_written(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"bad.{kind}"
    if kind == "zip":
        zip_of(path, **{"good.wav": b"good", name: b"bad"})
    else:
        tar_of(path, (tarfile.TarInfo("good.wav"), b"good"), (tarfile.TarInfo(name), b"bad"))
    with pytest.raises(DownloadError, match="leads out of it"):
        unpack(path, tmp_path / "in" / "folder")
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, "/etc/passwd"
    tar_of(tmp_path / "bad.tar.gz", (link, b""))
    with pytest.raises(DownloadError, match="link"):
        unpack(tmp_path / "bad.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("damage", ["cut", "flip", "none of it"])
def test_a_damaged_archive_is_told_and_leaves_nothing(
    damage: str, kind: str, tmp_path: Path, rng
) -> None:
    noise = rng.bytes(50_000)
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        zip_of(path, **{"a.wav": noise, "b.wav": noise[::-1]})
    else:
        tar_of(path, (tarfile.TarInfo("a.wav"), noise), (tarfile.TarInfo("b.wav"), noise[::-1]))
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[20_000] ^= 255
    path.write_bytes({"cut": data[: len(data) // 2], "flip": data}.get(damage, b"<html>"))
    with pytest.raises(DownloadError, match="fetch it again"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()
