"""Who is at the other end: `X-Forwarded-For` counts only where a proxy of ours wrote it."""

from ipaddress import ip_address

from django.http import HttpRequest

from api.environment import Network, environment


def client_address(request: HttpRequest) -> str:
    """The nearest address that is none of the trusted proxies'. What lies further away, anybody can have written."""
    trusted = environment().trusted_networks
    address = str(request.META.get("REMOTE_ADDR", ""))
    hops = [hop.strip() for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
    while hops and is_within(address, trusted):
        address = hops.pop()
    return address[:45]


def is_within(address: str, known: list[Network]) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in known)
