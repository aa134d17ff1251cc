"""Checks addresses that users name: https, and nothing inside our networks. Standard library only."""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

PORTS = {"https": 443, "http": 80}
NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
"""A last label like this makes a resolver read the host as a number: 2130706433, 0x7f.1, 0177.0.0.1."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address


class Origin(NamedTuple):
    scheme: str
    host: str
    """In lower case, IPv6 without brackets."""
    port: int


def url_check(url: str, trusted: tuple[Origin, ...] = ()) -> Origin:
    """The origin of `url`. Raises ValueError unless it is https to a public host, or the operator trusts it.

    Names are not resolved here: their addresses are checked on connection (`trainers.core.hub.outgoing`).
    """
    origin = origin_of(url)
    if origin in trusted:
        return origin
    if origin.scheme != "https":
        raise ValueError(f"expected https://, got {origin.scheme}://{origin.host}")
    if (literal := _literal(origin.host)) and (refusal := address_refusal(literal)):
        raise ValueError(refusal)
    return origin


def origin_of(url: str) -> Origin:
    """Raises ValueError for anything but http(s)://host[:port]/... with an unambiguous host."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"expected https://host, got {url[:200]!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"expected an address without user and password, got one for host {parts.hostname!r}")
    host = parts.hostname.removesuffix(".")
    if not host or not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise ValueError(f"expected a host of letters, digits, dots and dashes, got {host[:200]!r}")
    _literal(host)
    return Origin(parts.scheme, host, parts.port or PORTS[parts.scheme])


def address_refusal(address: str) -> str:
    """Why no job may connect to this IP address; empty for one of the public internet."""
    addresses = ipaddress.ip_address(address)
    inner = _inner(addresses)
    if any(_is_ours(one) for one in (addresses, *inner)):
        return f"{address} is an address of a private, local or reserved network"
    return ""


def _literal(host: str) -> str:
    """The host if it is an IP address, else empty. Raises ValueError for other numeric forms."""
    if ":" in host:
        return str(ipaddress.IPv6Address(host))
    if NUMERIC.fullmatch(host.rpartition(".")[2]) is None:
        return ""
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise ValueError(f"expected a host name or an address such as 192.0.2.1, got {host!r}") from None


def _inner(address: IPv4 | IPv6) -> list[IPv4]:
    """The IPv4 addresses embedded in an IPv6 address: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, IPv4):
        return []
    addresses = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        addresses.append(IPv4(int(address) & 0xFFFFFFFF))
    return [one for one in addresses if one is not None]


def _is_ours(address: IPv4 | IPv6) -> bool:
    """A mapped or NAT64 address is judged only by the one embedded in it; Python counts the range as private."""
    if isinstance(address, IPv6) and (address.ipv4_mapped or address in NAT64):
        return False
    odd = address.is_multicast or address.is_reserved or address.is_unspecified
    return odd or not address.is_global or (isinstance(address, IPv6) and address.is_site_local)
