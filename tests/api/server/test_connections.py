"""Connections on a real socket: half a request is closed, and a request has one end."""

import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from django.core.management import call_command

from api.server.http_protocol import TimedProtocol
from tests.api.served import served

pytestmark = pytest.mark.django_db(transaction=True)
HEAD = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Hasty(TimedProtocol):
    """With times that a test can wait for."""

    header_seconds = 0.2
    body_silent_seconds = 0.2


@pytest.fixture
def url() -> Iterator[str]:
    with served(Hasty) as address:
        yield address


def answered(url: str, *pieces: bytes, timeout: float = 30) -> bytes:
    """All that comes until the server closes the connection. Raises TimeoutError where it does not."""
    place = urlsplit(url)
    with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=timeout) as connection:
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while more := connection.recv(65536):
                received += more
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /healthz HT",
        HEAD,
        HEAD + b"Content-Length: 100\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["nothing", "line", "headers", "body", "chunks"],
)
def test_half_a_request_is_closed(url: str, start: bytes) -> None:
    assert answered(url, start) == b""


def test_half_of_a_second_request_is_closed_too(url: str) -> None:
    complete = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    received = answered(url, complete, b"GET /healthz HT")
    assert received.startswith(b"HTTP/1.1 200") and received.count(b"HTTP/1.1") == 1


def test_two_framings_of_one_body_are_refused_and_the_connection_ends(url: str) -> None:
    framing = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    smuggled = b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for path in (b"/api/v1/auth/login", b"/storage/x", b"/healthz"):
        received = answered(url, HEAD.replace(b"/api/v1/auth/login", path) + framing + smuggled)
        assert received.startswith(b"HTTP/1.1 400") and received.count(b"HTTP/1.1") == 1, received


@pytest.mark.parametrize("lengths", [b"Content-Length: 4\r\nContent-Length: 5\r\n", b"Content-Length: +4\r\n"])
def test_lengths_that_disagree_are_refused(url: str, lengths: bytes) -> None:
    assert answered(url, HEAD + lengths + b"\r\n{}{}").startswith(b"HTTP/1.1 400")


def test_headers_past_64_kib_are_refused(url: str) -> None:
    assert answered(url, HEAD + b"X-A: " + b"a" * (1 << 17)).startswith((b"HTTP/1.1 400", b""))


def test_an_answer_may_take_longer_than_a_request(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late = threading.Event()
    monkeypatch.setattr("api.monitoring._database", lambda: "late" if late.wait(4 * Hasty.header_seconds) else "ok")
    answer = httpx.get(f"{url}/readyz", trust_env=False, timeout=30)
    assert answer.json()["database"] == "ok"


def test_the_server_keeps_connections_longer_than_workers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers speak httpx with its defaults; of two equal times a report now and then met a connection that closed."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda _, **settings: options.update(settings))
    call_command("serve")
    assert options["timeout_keep_alive"] > 3 * (httpx.Limits().keepalive_expiry or 0)
