"""The local backend's own link server: what it answers to the last header."""

import hashlib
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import httpx
import pytest

from storage import Storage
from tests.storage.backends import local
from tests.storage.test_links import DATA, send


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with local(tmp_path_factory.mktemp("own")) as backend:
        yield backend


@pytest.fixture
def key(storage: Storage, prefix: str) -> str:
    storage.put_if_absent(f"{prefix}/a.bin", DATA)
    return f"{prefix}/a.bin"


@pytest.mark.parametrize("header", ["bytes=5-1", "bytes=-", "bytes=a-b", "rows=1-2", "bytes=0-1,4-5"])
def test_a_header_without_one_range_selects_the_complete_file(
    storage: Storage, http: httpx.Client, key: str, header: str
) -> None:
    answer = http.get(storage.presign_get(key, expires_seconds=60).url, headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_a_range_after_the_end_is_416(storage: Storage, http: httpx.Client, key: str) -> None:
    answer = http.get(storage.presign_get(key, expires_seconds=60).url, headers={"Range": f"bytes={len(DATA)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    assert answer.json().keys() == {"code", "message", "hint", "fields"}


def test_a_head_of_a_get_link_has_the_size_and_no_body(storage: Storage, http: httpx.Client, key: str) -> None:
    answer = http.head(storage.presign_get(key, expires_seconds=60).url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(DATA))


def test_a_get_link_of_a_missing_file_is_404(storage: Storage, http: httpx.Client, prefix: str) -> None:
    answer = send(http, storage.presign_get(f"{prefix}/none", expires_seconds=60))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (DATA + b"x", 413, "too_large"),
        (DATA[:-1], 400, "wrong_size"),
        (DATA[:-1] + b"!", 400, "wrong_digest"),
    ],
)
def test_a_put_of_another_content_is_refused_and_not_stored(
    storage: Storage, http: httpx.Client, prefix: str, content: bytes, status: int, code: str
) -> None:
    sha256 = hashlib.sha256(DATA).hexdigest()
    link = storage.presign_put(f"{prefix}/a", size=len(DATA), sha256=sha256, expires_seconds=60)
    answer = send(http, link, content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert list(storage.list(f"{prefix}/")) == []


def test_a_put_without_a_length_is_counted_as_it_arrives(storage: Storage, http: httpx.Client, prefix: str) -> None:
    link = storage.presign_put(f"{prefix}/a", size=10, sha256=None, expires_seconds=60)
    answer = http.put(link.url, content=iter([b"x" * 8, b"x" * 8]))
    assert answer.status_code == 413
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
    head = http.head(put)
    assert (head.status_code, head.headers["allow"]) == (405, "PUT")
    assert storage.stat(key).size == len(DATA)


def test_no_link_at_all_is_refused(storage: Storage, http: httpx.Client, key: str) -> None:
    base = storage.presign_get(key, expires_seconds=60).url.split("?")[0]
    assert http.get(base).status_code == 403
    assert http.get(f"{base}?signature=ü&method=GET&expires=x").status_code == 403


def test_images_are_shown_and_all_else_is_saved(storage: Storage, http: httpx.Client, prefix: str) -> None:
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
