"""Signed links over real HTTP."""

import hashlib
import os
import socket
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from storage import DigestMismatchError, SignedRequest, Storage

DATA = bytes(range(256)) * 40


@pytest.fixture
def key(storage: Storage, prefix: str) -> str:
    storage.put_if_absent(f"{prefix}/a.bin", DATA)
    return f"{prefix}/a.bin"


def send(http: httpx.Client, link: SignedRequest, content: bytes = b"") -> httpx.Response:
    return http.request(link.method, link.url, headers=link.headers, content=content)


def test_a_get_link_serves_the_file(storage: Storage, http: httpx.Client, key: str) -> None:
    answer = send(http, storage.presign_get(key, expires_seconds=60))
    assert (answer.status_code, answer.content) == (200, DATA)


def test_a_get_link_serves_ranges(storage: Storage, http: httpx.Client, key: str) -> None:
    url = storage.presign_get(key, expires_seconds=60).url
    for header, piece, message in (
        ("bytes=0-9", DATA[:10], "0-9"),
        ("bytes=100-", DATA[100:], f"100-{len(DATA) - 1}"),
        ("bytes=-5", DATA[-5:], f"{len(DATA) - 5}-{len(DATA) - 1}"),
        ("bytes=0-999999", DATA, f"0-{len(DATA) - 1}"),
    ):
        answer = http.get(url, headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, piece)
        assert answer.headers["content-range"] == f"bytes {message}/{len(DATA)}"


def test_a_put_link_stores_the_announced_file(storage: Storage, http: httpx.Client, prefix: str) -> None:
    name = f"{prefix}/ünï 日本 🐕.jpg"
    sha256 = hashlib.sha256(DATA).hexdigest()
    link = storage.presign_put(name, size=len(DATA), sha256=sha256, expires_seconds=60)
    assert send(http, link, DATA).status_code == 200
    assert storage.stat(name).sha256 == sha256
    assert send(http, storage.presign_get(name, expires_seconds=60)).content == DATA


def test_an_empty_file_goes_both_ways(storage: Storage, http: httpx.Client, prefix: str) -> None:
    link = storage.presign_put(f"{prefix}/e", size=0, sha256=hashlib.sha256().hexdigest(), expires_seconds=60)
    assert send(http, link).status_code == 200
    assert send(http, storage.presign_get(f"{prefix}/e", expires_seconds=60)).content == b""


def test_an_interrupted_put_stores_nothing(storage: Storage, prefix: str, http: httpx.Client) -> None:
    link = storage.presign_put(f"{prefix}/a", size=len(DATA), sha256=None, expires_seconds=60)
    parts = urlsplit(link.url)
    with socket.create_connection((parts.hostname, parts.port)) as raw:
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n"
        raw.sendall(head.encode() + DATA[:100])
    assert send(http, storage.presign_get(f"{prefix}/a", expires_seconds=60)).status_code == 404
    assert list(storage.list(f"{prefix}/")) == []


def test_a_link_sets_the_filename_of_a_download(storage: Storage, http: httpx.Client, key: str) -> None:
    link = storage.presign_get(key, expires_seconds=60, filename='my "adaptor"\r\nX: y.bin')
    assert (
        send(http, link)
        .headers["content-disposition"]
        .endswith("filename*=UTF-8''my%20%22adaptor%22%0D%0AX%3A%20y.bin")
    )


def test_parts_are_joined_in_order(storage: Storage, http: httpx.Client, prefix: str) -> None:
    size = max(storage.capabilities().min_part_bytes, 1000)
    pieces = [os.urandom(size), os.urandom(size), b"end"]
    links = storage.presign_parts(f"{prefix}/a", sizes=[len(p) for p in pieces], expires_seconds=60)
    answers = [send(http, link, piece) for link, piece in reversed(list(zip(links.parts, pieces, strict=True)))]
    etags = [answer.headers["etag"].strip('"') for answer in reversed(answers)]
    complete = b"".join(pieces)
    stat = storage.complete_parts(f"{prefix}/a", links.upload_id, etags, sha256=hashlib.sha256(complete).hexdigest())
    assert stat.size == len(complete)
    assert b"".join(storage.open_range(f"{prefix}/a")) == complete


def test_parts_that_are_missing_or_changed_are_refused(storage: Storage, http: httpx.Client, prefix: str) -> None:
    links = storage.presign_parts(f"{prefix}/a", sizes=[3, 3], expires_seconds=60)
    etag = send(http, links.parts[0], b"abc").headers["etag"].strip('"')
    with pytest.raises(ValueError, match="part"):
        storage.complete_parts(f"{prefix}/a", links.upload_id, [etag, etag])
    send(http, links.parts[1], b"def")
    with pytest.raises(ValueError, match="part"):
        storage.complete_parts(f"{prefix}/a", links.upload_id, [etag, etag])
    assert list(storage.list(f"{prefix}/")) == []


@pytest.mark.parametrize("content", [DATA + b"x", DATA[:-1], DATA[:-1] + b"!"])
def test_a_put_of_another_content_is_refused_by_every_backend_and_not_stored(
    storage: Storage, http: httpx.Client, prefix: str, content: bytes
) -> None:
    assert storage.capabilities().put_checks_sha256
    sha256 = hashlib.sha256(DATA).hexdigest()
    link = storage.presign_put(f"{prefix}/a", size=len(DATA), sha256=sha256, expires_seconds=60)
    assert 400 <= send(http, link, content).status_code < 500
    assert list(storage.list(f"{prefix}/")) == []


@pytest.mark.parametrize("word", ["expires", "signature"])
def test_a_link_that_was_changed_is_refused_by_every_backend(
    storage: Storage, http: httpx.Client, key: str, word: str
) -> None:
    parts = urlsplit(storage.presign_get(key, expires_seconds=60).url)
    query = dict(parse_qsl(parts.query))
    name = next(name for name in query if name.lower().removeprefix("x-amz-") == word)
    query[name] = query[name][:-1] + ("1" if query[name][-1] != "1" else "2")
    answer = http.get(f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(query)}")
    assert answer.status_code in (400, 403)


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("a.png", "image/png", "inline"),
        ("a.svg", "application/octet-stream", "attachment"),
        ("a.html", "application/octet-stream", "attachment"),
        ("a.txt", "text/plain; charset=utf-8", "attachment"),
    ],
)
def test_only_images_are_shown_by_a_browser(
    storage: Storage, http: httpx.Client, prefix: str, name: str, kind: str, shown: str
) -> None:
    storage.put_if_absent(f"{prefix}/{name}", b"\x89PNG\r\n\x1a\n" if name == "a.png" else b"<script>")
    headers = send(http, storage.presign_get(f"{prefix}/{name}", expires_seconds=60)).headers
    assert (headers["content-type"], headers["content-disposition"]) == (kind, f"{shown}; filename*=UTF-8''{name}")


def test_an_upload_in_parts_continues_with_new_links(storage: Storage, http: httpx.Client, prefix: str) -> None:
    first = storage.presign_parts(f"{prefix}/a", sizes=[3], expires_seconds=60)
    fresh = storage.presign_parts(f"{prefix}/a", sizes=[3], expires_seconds=60, upload_id=first.upload_id)
    etag = send(http, fresh.parts[0], b"abc").headers["etag"].strip('"')
    assert storage.complete_parts(f"{prefix}/a", first.upload_id, [etag]).size == 3


def test_parts_of_another_content_than_announced_store_nothing(
    storage: Storage, http: httpx.Client, prefix: str
) -> None:
    links = storage.presign_parts(f"{prefix}/a", sizes=[3], expires_seconds=60)
    etag = send(http, links.parts[0], b"abc").headers["etag"].strip('"')
    with pytest.raises(DigestMismatchError, match="expected SHA-256 0000"):
        storage.complete_parts(f"{prefix}/a", links.upload_id, [etag], sha256="0" * 64)
    assert list(storage.list(f"{prefix}/")) == []


def test_an_aborted_upload_takes_no_more_parts(storage: Storage, http: httpx.Client, prefix: str) -> None:
    links = storage.presign_parts(f"{prefix}/a", sizes=[3], expires_seconds=60)
    storage.abort_parts(f"{prefix}/a", links.upload_id)
    storage.abort_parts(f"{prefix}/a", links.upload_id)
    assert send(http, links.parts[0], b"abc").status_code in (404, 409)
    with pytest.raises(ValueError, match="part"):
        storage.complete_parts(f"{prefix}/a", links.upload_id, ["x"])


def test_abandoned_parts_are_swept_and_younger_ones_stay(storage: Storage, http: httpx.Client, prefix: str) -> None:
    links = storage.presign_parts(f"{prefix}/a", sizes=[3], expires_seconds=60)
    storage.sweep_parts(older_than_seconds=3600)
    assert send(http, links.parts[0], b"abc").status_code == 200
    assert storage.sweep_parts(older_than_seconds=-60) >= 1
    assert send(http, links.parts[0], b"abc").status_code in (404, 409)


def test_the_probe_finds_what_both_backends_can(storage: Storage) -> None:
    result = storage.capabilities()
    assert (result.if_absent, result.put_checks_sha256, result.ranges, result.parts) == (True, True, True, True)
    assert result is storage.capabilities() or result == storage.capabilities()
