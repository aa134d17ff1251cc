"""What only the local folder has: its own link server, its place on disk, its digest cache."""

import hashlib
import http.client
import itertools
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from storage import Stat, open_storage
from storage.links import link_app
from storage.local import LocalStorage
from storage.signing import Grant, LinkExpiredError, LinkForgedError, link_make, link_read
from tests.patience import PATIENCE_SECONDS
from tests.storage.backends import SECRET
from tests.storage.hostile import HOSTILE_KEYS
from tests.storage.server import serving

FAR = 99_999_999_999
HTTP = httpx.Client(verify=False, trust_env=False, timeout=PATIENCE_SECONDS)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(tmp_path / "root", link_base="http://127.0.0.1:1/storage", secret=SECRET)
    with serving(lambda _: link_app(storage)) as base:
        storage.link_base = f"{base}/storage"
        yield storage


def test_even_a_well_signed_hostile_key_reaches_no_file(local: LocalStorage) -> None:
    """As if the signer had a hole: the server checks the key again."""
    before = sorted(local.root.parent.rglob("*"))
    for method, key in itertools.product(("GET", "PUT"), HOSTILE_KEYS):
        if "\ud800" in key:
            continue  # no URL can carry it
        link = urlsplit(link_make(Grant(method, key, FAR, size=4), base=local.link_base, secret=SECRET))
        connection = http.client.HTTPConnection(link.netloc, timeout=PATIENCE_SECONDS)
        connection.request(method, f"/storage/{quote(key)}?{link.query}", body=b"evil" if method == "PUT" else None)
        assert connection.getresponse().status in (403, 404, 409), key
        connection.close()
    assert sorted(local.root.parent.rglob("*")) == before


def test_a_symbolic_link_in_the_folder_is_not_followed(local: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (local.root / "objects" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leaves the storage folder"):
        local.stat("link/secret")
    with pytest.raises(ValueError, match="leaves the storage folder"):
        local.put_if_absent("link/new", b"data")
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]


def test_a_file_changed_outside_the_storage_has_its_new_digest(local: LocalStorage) -> None:
    local.put_if_absent("a", b"old")
    assert local.stat("a").sha256 == hashlib.sha256(b"old").hexdigest()
    (local.root / "objects" / "a").write_bytes(b"rotten")
    assert local.stat("a").sha256 == hashlib.sha256(b"rotten").hexdigest()


def test_a_key_cannot_be_a_file_and_a_folder(local: LocalStorage) -> None:
    local.put_if_absent("a", b"file")
    link = local.presign_put("a/b", size=1, sha256=None, expires_seconds=60)
    answer = HTTP.put(link.url, content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    local.put_if_absent("c/d", b"file")
    assert (
        HTTP.put(local.presign_put("c", size=1, sha256=None, expires_seconds=60).url, content=b"x").status_code == 409
    )


def test_nothing_stays_in_incoming(local: LocalStorage) -> None:
    local.put_if_absent("a", b"data")
    local.put_if_absent("a", b"again")
    HTTP.put(local.presign_put("b", size=1, sha256="0" * 64, expires_seconds=60).url, content=b"x")
    HTTP.put(local.presign_put("b", size=1, sha256=None, expires_seconds=60).url, content=b"xx")
    assert list((local.root / "incoming").iterdir()) == []


def test_large_files_stream_in_constant_memory(local: LocalStorage) -> None:
    size, piece = 48 << 20, b"x" * (1 << 20)
    put = local.presign_put("large", size=size, sha256=None, expires_seconds=60)
    tracemalloc.start()
    assert HTTP.put(put.url, content=(piece for _ in range(48)), timeout=PATIENCE_SECONDS).status_code == 200
    with HTTP.stream("GET", local.presign_get("large", expires_seconds=60).url) as answer:
        assert sum(len(part) for part in answer.iter_bytes()) == size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20


def test_a_link_is_read_back_as_it_was_signed() -> None:
    grant = Grant("PUT", "a b/ü", 1000, size=5, sha256="0" * 64, part="x/1")
    link = link_make(grant, base="http://x/storage", secret=SECRET)
    query = urlsplit(link).query
    assert link_read("a b/ü", query, secret=SECRET, now=999) == grant
    with pytest.raises(LinkExpiredError):
        link_read("a b/ü", query, secret=SECRET, now=1000)
    with pytest.raises(LinkForgedError):
        link_read("a b/ü", query, secret="another secret", now=999)


@pytest.mark.parametrize(
    "url", ["", "/tmp/x", "file:relative", "file://host/x", "file:///", "s3://", "s3://key:secret@bucket", "http://x"]
)
def test_an_invalid_storage_url_names_the_expected_form(url: str) -> None:
    with pytest.raises(ValueError, match="file:///absolute/folder"):
        open_storage(url, link_base="http://x/storage", secret=SECRET)


def test_a_storage_url_opens_a_folder_with_odd_letters(tmp_path: Path) -> None:
    storage = open_storage(f"file://{quote(str(tmp_path / 'ü b'))}", link_base="http://x/storage", secret=SECRET)
    assert storage.put_if_absent("a", b"x")
    assert (tmp_path / "ü b" / "objects" / "a").read_bytes() == b"x"


def test_a_short_link_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 characters"):
        LocalStorage(tmp_path, link_base="http://x", secret="short")


def test_incomplete_files_of_a_killed_process_are_removed_after_a_week(local: LocalStorage) -> None:
    incoming = local.root / "incoming"
    for name in ("old.tmp", "new.tmp"):
        (incoming / name).write_bytes(b"half")
    (incoming / "parts").mkdir()
    for name in ("old.tmp", "parts"):
        os.utime(incoming / name, (0, 0))
    LocalStorage(local.root, link_base=local.link_base, secret=SECRET)
    assert [path.name for path in incoming.iterdir()] == ["new.tmp"]


def test_a_disconnected_client_ends_the_read(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    size, ended = 1 << 40, threading.Event()

    def endless(_key: str, _start: int, length: int) -> Iterator[bytes]:
        try:
            for _ in range(length >> 20):
                yield b"x" * (1 << 20)
        finally:
            if length == size:
                ended.set()

    link = local.presign_get("a", expires_seconds=60)
    monkeypatch.setattr(local, "open_range", endless)
    monkeypatch.setattr(local, "stat", lambda key: Stat(key, size, "0" * 64))
    with socket.create_connection((urlsplit(link.url).hostname, urlsplit(link.url).port)) as raw:
        raw.sendall(f"GET {urlsplit(link.url).path}?{urlsplit(link.url).query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        raw.recv(1 << 16)
    assert ended.wait(PATIENCE_SECONDS)


def test_objects_are_durable_before_they_are_visible(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the calls that decide it: fsync of the file, its rename, fsync of the folder."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    source = local.root / "source"
    source.write_bytes(b"data")
    local.put_file("a", source)
    assert calls[:3] == ["fsync", "rename", "fsync"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("announced", "pieces", "read"), [(True, 3, 3), (True, 99, 16), (False, 3, 3), (False, 99, 17)]
)
async def test_a_refused_body_is_read_to_its_end_or_one_mebibyte(
    tmp_path: Path, announced: bool, pieces: int, read: int
) -> None:
    """A connection that is closed with bytes unread is reset, and a client may never see why it was refused."""
    storage = LocalStorage(tmp_path, link_base="http://x/storage", secret=SECRET)
    link = urlsplit(storage.presign_put("a", size=10, sha256=None, expires_seconds=60).url)
    length = [(b"content-length", str(pieces << 16).encode())] if announced else []
    scope = {"type": "http", "method": "PUT", "path": link.path, "query_string": link.query.encode(), "headers": length}
    sent: list[MutableMapping[str, object]] = []
    received = 0

    async def receive() -> dict[str, object]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"x" * (1 << 16), "more_body": received < pieces}

    async def send(message: MutableMapping[str, object]) -> None:
        sent.append(message)

    await link_app(storage)(scope, receive, send)
    assert (sent[0]["status"], received) == (413, read)
