"""The guard: what a user's address may be, and what a connection may reach. Real sockets, a fake name server."""

import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from trainers.contract.params.addresses import Origin, address_refusal, origin_of, url_check
from trainers.core.hub.outgoing import AddressRefusedError, Guard, guarded

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "2002:7f00:1::",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2001:0:7f00:1::",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_our_own_networks_is_refused_in_every_form(address: str) -> None:
    assert address in address_refusal(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert address_refusal(address) == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "ftp://example.org",
        "file:///etc/passwd",
        "https://",
        "example.org",
        "https://127.0.0.1/x",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://user:password@example.org/",
        "https://example.org@127.0.0.1/",
        "https://exa mple.org/",
        "https://①②⑦.0.0.1/",
        "https://exam%70le.org/",
        "https://example.org:99999/",
    ],
)
def test_a_url_that_is_not_plain_https_to_the_outside_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        url_check(url)


def test_https_to_a_host_name_is_allowed_and_normalized() -> None:
    assert url_check("https://Example.org./a?b#c") == Origin("https", "example.org", 443)
    assert url_check("https://8.8.8.8:8443/") == Origin("https", "8.8.8.8", 8443)


def test_only_origins_that_the_operator_listed_may_be_http_or_private() -> None:
    trusted = (origin_of("http://127.0.0.1:8080"),)
    assert url_check("http://127.0.0.1:8080/x", trusted) == trusted[0]
    for other in ("http://127.0.0.1:8081/", "https://127.0.0.1:8080/", "http://localhost:8080/"):
        with pytest.raises(ValueError):
            url_check(other, trusted)


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def get(host: str, port: int) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1"])
def test_a_connection_into_our_networks_is_refused_before_a_byte_is_sent(port: int, host: str) -> None:
    with guarded(Guard()), pytest.raises(AddressRefusedError, match=r"127\.0\.0\.1|::1"):
        get(host, port)
    assert get("127.0.0.1", port) == b"hello", "after the block nothing is guarded"


def test_a_listed_origin_is_reached_but_not_its_other_ports(port: int) -> None:
    with guarded(Guard((Origin("http", "localhost", port),))):
        assert get("127.0.0.1", port) == b"hello"
        with pytest.raises(AddressRefusedError):
            get("127.0.0.1", port + 1)


def test_a_name_that_resolves_differently_is_checked_by_the_connected_address(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["8.8.8.8", "127.0.0.1"])

    def rebinding(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        assert host == "evil.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with guarded(Guard()) as guard:
        guard.url("https://evil.example/")
        assert socket.getaddrinfo("evil.example", port)[0][4][0] == "8.8.8.8", "the answer that a check would see"
        with pytest.raises(AddressRefusedError, match=r"127\.0\.0\.1"):
            get("evil.example", port)


def test_a_connection_by_name_or_over_ipv6_is_checked_too() -> None:
    with guarded(Guard()):
        with socket.socket() as plain, pytest.raises(AddressRefusedError, match="resolved"):
            plain.connect(("localhost", 1))
        with socket.socket(socket.AF_INET6) as six, pytest.raises(AddressRefusedError, match="127"):
            six.connect(("::ffff:127.0.0.1", 1))
        with socket.socket() as quiet, pytest.raises(AddressRefusedError):
            quiet.connect_ex(("10.0.0.1", 1))


def test_every_thread_obeys(port: int) -> None:
    refused: list[BaseException] = []

    def other() -> None:
        try:
            get("127.0.0.1", port)
        except AddressRefusedError as error:
            refused.append(error)

    with guarded(Guard()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_a_proxy_of_the_operator_is_reached(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:pw@127.0.0.1:{port}")
    with guarded(Guard()):
        assert get("127.0.0.1", port) == b"hello"
