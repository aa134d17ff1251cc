"""Guards connections to hosts that a user named: none reaches our own networks, whatever a name or redirect leads to.

The check sits on `socket.connect` itself (an audit hook of Python), on the address that is really connected to. A name
is resolved once, by the caller's library, so that a second answer of a hostile name server is never used unchecked.
A proxy that the operator set is trusted, and has to do the same check.
"""

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies

from trainers.contract.params.addresses import Origin, address_refusal, origin_of, url_check

Resolve = Callable[[str, int], set[str]]


class AddressRefusedError(Exception):
    """No OSError: a library that tries the next address or waits for the network must not catch it."""


class Guard:
    """What may be connected to. `trusted`: origins that the operator listed, also with http or a private address."""

    def __init__(self, trusted: tuple[Origin, ...] = (), resolve: Resolve | None = None) -> None:
        self.trusted = trusted
        self._resolve = resolve or addresses_of
        self._always = (*trusted, *_proxies())

    def url(self, url: str) -> None:
        """Checks a request, also one that follows a redirect. Raises AddressRefusedError."""
        try:
            url_check(url, self.trusted)
        except ValueError as error:
            raise AddressRefusedError(str(error)) from None

    def address(self, host: str, port: int) -> None:
        """Checks a connection. Raises AddressRefusedError."""
        try:
            refusal = address_refusal(host)
        except ValueError:
            raise AddressRefusedError(f"{host!r} was to be connected to without being resolved first") from None
        if refusal and not any(o.port == port and _plain(host) in self._resolve(o.host, port) for o in self._always):
            raise AddressRefusedError(refusal)


@contextmanager
def guarded(guard: Guard) -> Iterator[Guard]:
    """All connections of this process obey `guard` until the end of the block."""
    _install()
    before, _ACTIVE[:] = list(_ACTIVE), [guard]
    try:
        yield guard
    finally:
        _ACTIVE[:] = before


def addresses_of(host: str, port: int) -> set[str]:
    """The IP addresses of a name; none where it has none."""
    try:
        return {_plain(str(results[4][0])) for results in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


_ACTIVE: list[Guard] = []
_INSTALLED: list[bool] = []


def _install() -> None:
    """An audit hook cannot be removed, so it is installed once and consults the active guard."""
    if not _INSTALLED:
        _INSTALLED.append(True)
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not _ACTIVE:
        return
    address = arguments[1]
    if isinstance(address, tuple):  # a Unix socket has a path, which no URL leads to
        _ACTIVE[0].address(str(address[0]), int(address[1]))


def _plain(address: str) -> str:
    """One spelling; a mapped IPv4 address is the IPv4 address."""
    results = ipaddress.ip_address(address)
    mapped = results.ipv4_mapped if isinstance(results, ipaddress.IPv6Address) else None
    return str(mapped or results)


def _proxies() -> tuple[Origin, ...]:
    results = []
    for scheme, url in getproxies().items():
        if scheme in ("http", "https", "all"):
            bare = url.rpartition("@")[2].rpartition("//")[2]
            results.append(origin_of(f"http://{bare}"))
    return tuple(results)
