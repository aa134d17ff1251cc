"""Signed links over real HTTP."""

import hashlib
import os
import socket
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import httpx
import pytest

from storage import SignedRequest, Storage

DATA = bytes(range(256)) * 40


@pytest.fixture
def key(storage: Storage, prefix: str) -> str:
    storage.put_if_absent(f"{prefix}/a.bin", DATA)
    return f"{prefix}/a.bin"


def send(http: httpx.Client, link: SignedRequest, content: bytes = b"") -> httpx.Response:
    return http.request(link.method, link.url, headers=link.headers, content=content)


def test_a_get_link_gives_the_file(storage: Storage, http: httpx.Client, key: str) -> None:
    answer = send(http, storage.presign_get(key, expires_seconds=60))
    assert (answer.status_code, answer.content) == (200, DATA)


def test_a_get_link_gives_ranges(storage: Storage, http: httpx.Client, key: str) -> None:
    url = storage.presign_get(key, expires_seconds=60).url
    for header, piece, said in (
        ("bytes=0-9", DATA[:10], "0-9"),
        ("bytes=100-", DATA[100:], f"100-{len(DATA) - 1}"),
        ("bytes=-5", DATA[-5:], f"{len(DATA) - 5}-{len(DATA) - 1}"),
        ("bytes=0-999999", DATA, f"0-{len(DATA) - 1}"),
    ):
        answer = http.get(url, headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, piece)
        assert answer.headers["content-range"] == f"bytes {said}/{len(DATA)}"


@pytest.mark.parametrize("header", ["bytes=5-1", "bytes=-", "bytes=a-b", "rows=1-2", "bytes=0-1,4-5"])
def test_a_range_that_is_no_single_range_gives_the_whole(
    storage: Storage, http: httpx.Client, key: str, header: str
) -> None:
    answer = http.get(storage.presign_get(key, expires_seconds=60).url, headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_a_range_behind_the_end_is_416(storage: Storage, http: httpx.Client, key: str) -> None:
    answer = http.get(storage.presign_get(key, expires_seconds=60).url, headers={"Range": f"bytes={len(DATA)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    assert answer.json().keys() == {"code", "message", "hint", "fields"}


def test_a_head_of_a_get_link_has_the_size_and_no_body(storage: Storage, http: httpx.Client, key: str) -> None:
    answer = http.head(storage.presign_get(key, expires_seconds=60).url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(DATA))


def test_a_get_link_of_nothing_is_404(storage: Storage, http: httpx.Client, prefix: str) -> None:
    answer = send(http, storage.presign_get(f"{prefix}/none", expires_seconds=60))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_put_link_stores_what_was_promised(storage: Storage, http: httpx.Client, prefix: str) -> None:
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


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (DATA + b"x", 413, "too_large"),
        (DATA[:-1], 400, "wrong_size"),
        (DATA[:-1] + b"!", 400, "wrong_digest"),
    ],
)
def test_a_put_of_something_else_is_refused_and_leaves_nothing(
    storage: Storage, http: httpx.Client, prefix: str, content: bytes, status: int, code: str
) -> None:
    sha256 = hashlib.sha256(DATA).hexdigest()
    link = storage.presign_put(f"{prefix}/a", size=len(DATA), sha256=sha256, expires_seconds=60)
    answer = send(http, link, content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert list(storage.list(f"{prefix}/")) == []


def test_a_put_without_a_length_is_counted_while_it_comes(storage: Storage, http: httpx.Client, prefix: str) -> None:
    link = storage.presign_put(f"{prefix}/a", size=10, sha256=None, expires_seconds=60)
    answer = http.put(link.url, content=iter([b"x" * 8, b"x" * 8]))
    assert answer.status_code == 413
    assert list(storage.list(f"{prefix}/")) == []


def test_a_put_that_breaks_off_leaves_nothing(storage: Storage, prefix: str, http: httpx.Client) -> None:
    link = storage.presign_put(f"{prefix}/a", size=len(DATA), sha256=None, expires_seconds=60)
    parts = urlsplit(link.url)
    with socket.create_connection((parts.hostname, parts.port)) as raw:
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n"
        raw.sendall(head.encode() + DATA[:100])
    assert send(http, storage.presign_get(f"{prefix}/a", expires_seconds=60)).status_code == 404
    assert list(storage.list(f"{prefix}/")) == []


@pytest.mark.parametrize("change", ["key", "method", "expires", "size", "sha256", "signature", "extra"])
def test_a_changed_link_is_refused(storage: Storage, http: httpx.Client, prefix: str, change: str) -> None:
    sha256 = hashlib.sha256(DATA).hexdigest()
    parts = urlsplit(storage.presign_put(f"{prefix}/a", size=len(DATA), sha256=sha256, expires_seconds=60).url)
    query, path = dict(parse_qsl(parts.query)), parts.path
    new = {"expires": "99999999999", "size": "99999", "sha256": "0" * 64, "method": "GET", "signature": "0" * 64}
    if change == "key":
        path = path.replace("/a", "/b")
    elif change == "extra":
        query["part"] = "a/0"
    else:
        query[change] = new[change]
    answer = http.put(f"{parts.scheme}://{parts.netloc}{path}?{urlencode(query)}", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (403, "link_forged")
    assert list(storage.list(f"{prefix}/")) == []


def test_an_expired_link_is_410(storage: Storage, http: httpx.Client, key: str) -> None:
    answer = send(http, storage.presign_get(key, expires_seconds=-1))
    assert (answer.status_code, answer.json()["code"]) == (410, "link_expired")


def test_a_link_is_for_its_method_only(storage: Storage, http: httpx.Client, key: str) -> None:
    get = storage.presign_get(key, expires_seconds=60).url
    for method in ("PUT", "DELETE", "POST"):
        answer = http.request(method, get, content=b"x")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    put = storage.presign_put(key, size=1, sha256=None, expires_seconds=60).url
    assert http.get(put).status_code == 405
    assert storage.stat(key).size == len(DATA)


def test_no_link_at_all_is_refused(storage: Storage, http: httpx.Client, key: str) -> None:
    base = storage.presign_get(key, expires_seconds=60).url.split("?")[0]
    assert http.get(base).status_code == 403
    assert http.get(f"{base}?signature=ü&method=GET&expires=x").status_code == 403


def test_pictures_are_shown_and_all_else_is_saved(storage: Storage, http: httpx.Client, prefix: str) -> None:
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    for name, data, kind, shown in (
        ("a.png", b"\x89PNG\r\n\x1a\n....", "image/png", "inline"),
        ("png_named.jpg", b"\x89PNG\r\n\x1a\n....", "image/png", "inline"),
        ("a.jpg", b"\xff\xd8\xff\xe0....", "image/jpeg", "inline"),
        ("text_named.png", b"<html>", "application/octet-stream", "attachment"),
        ("a.svg", svg, "application/octet-stream", "attachment"),
        ("a.html", b"<script>", "application/octet-stream", "attachment"),
        ("a.txt", b"<script>", "text/plain; charset=utf-8", "attachment"),
    ):
        storage.put_if_absent(f"{prefix}/{name}", data)
        headers = send(http, storage.presign_get(f"{prefix}/{name}", expires_seconds=60)).headers
        assert headers["content-type"] == kind, name
        assert headers["content-disposition"] == f"{shown}; filename*=UTF-8''{quote(name)}"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_a_link_can_say_what_the_file_is_saved_as(storage: Storage, http: httpx.Client, key: str) -> None:
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
    whole = b"".join(pieces)
    stat = storage.complete_parts(f"{prefix}/a", links.upload_id, etags, sha256=hashlib.sha256(whole).hexdigest())
    assert stat.size == len(whole)
    assert b"".join(storage.open_range(f"{prefix}/a")) == whole


def test_parts_that_are_missing_or_changed_are_refused(storage: Storage, http: httpx.Client, prefix: str) -> None:
    links = storage.presign_parts(f"{prefix}/a", sizes=[3, 3], expires_seconds=60)
    etag = send(http, links.parts[0], b"abc").headers["etag"].strip('"')
    with pytest.raises(ValueError, match="part"):
        storage.complete_parts(f"{prefix}/a", links.upload_id, [etag, etag])
    send(http, links.parts[1], b"def")
    with pytest.raises(ValueError, match="part"):
        storage.complete_parts(f"{prefix}/a", links.upload_id, [etag, etag])
    assert list(storage.list(f"{prefix}/")) == []
