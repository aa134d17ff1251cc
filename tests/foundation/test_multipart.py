"""Each part is the right slice of the file, sent by its current link."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from foundation import multipart
from foundation.multipart import MissingETagError, Part, parts_upload

CONTENT = bytes(range(250))
PARTS: list[Part] = [
    {"number": 1, "url": "http://s/1", "size": 100},
    {"number": 2, "url": "http://s/2", "size": 100},
    {"number": 3, "url": "http://s/3", "size": 50},
]


def upload(
    path: Path,
    answer: Callable[[httpx.Request], httpx.Response],
    parts: list[Part],
    repeat: Callable[[int, Callable[[], str]], str] = lambda _, send: send(),
    on_bytes: Callable[[int], None] = lambda _: None,
) -> list[str]:
    path.write_bytes(CONTENT)
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return parts_upload(
        client,
        path,
        parts,
        check=lambda response, _: response.raise_for_status(),
        repeat=repeat,
        timeout=httpx.Timeout(5),
        on_bytes=on_bytes,
    )


def test_parts_are_consecutive_slices_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "CHUNK_BYTES", 64)
    bodies: dict[str, bytes] = {}
    counts: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies[request.url.path] = request.read()
        assert request.headers["Content-Length"] == str(len(bodies[request.url.path]))
        return httpx.Response(200, headers={"ETag": f'"{request.url.path}"'})

    assert upload(tmp_path / "a", answer, PARTS, on_bytes=counts.append) == ["/1", "/2", "/3"]
    assert b"".join(bodies.values()) == CONTENT and [*bodies] == ["/1", "/2", "/3"]
    assert counts == [64, 36, 64, 36, 50]


def test_a_repetition_uses_the_link_that_replaced_an_expired_one(tmp_path: Path) -> None:
    parts = [*PARTS]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403 if request.url.path == "/2" else 200, headers={"ETag": request.url.path})

    def repeat(index: int, send: Callable[[], str]) -> str:
        try:
            return send()
        except httpx.HTTPStatusError:
            parts[index] = {**parts[index], "url": "http://s/new"}
            return send()

    assert upload(tmp_path / "a", answer, parts, repeat) == ["/1", "/new", "/3"]


def test_a_storage_without_etags_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingETagError, match="no ETag for part 1 of a"):
        upload(tmp_path / "a", lambda _: httpx.Response(200), PARTS)
