"""Signed links of the local backend: method, key, expiry, size and digest, signed by HMAC-SHA256."""

import hashlib
import hmac
import json
import time
from dataclasses import asdict, dataclass
from urllib.parse import parse_qsl, quote, urlencode


@dataclass(frozen=True)
class Grant:
    """What a link allows. All fields are signed."""

    method: str
    key: str
    expires: int
    """Unix seconds."""
    size: int | None = None
    """PUT: exact number of bytes."""
    sha256: str | None = None
    """PUT: digest of the content."""
    part: str | None = None
    """PUT: a part of an upload instead of the object, as "<upload id>/<number>"."""
    filename: str | None = None
    """GET: under which a browser saves it."""


class LinkExpiredError(ValueError):
    """The signature is valid, but the link has expired."""


class LinkForgedError(ValueError):
    """The signature does not match the link."""


def link_make(grant: Grant, *, base: str, secret: str) -> str:
    fields = {name: value for name, value in asdict(grant).items() if value is not None and name != "key"}
    query = urlencode({**fields, "signature": _signature(grant, secret)})
    return f"{base.rstrip('/')}/{quote(grant.key)}?{query}"


def link_read(key: str, query: str, *, secret: str, now: float | None = None) -> Grant:
    """The grant of a link's path and query. Raises LinkForgedError or LinkExpiredError."""
    fields = dict(parse_qsl(query, keep_blank_values=True))
    signature = fields.pop("signature", "")
    try:
        grant = Grant(
            method=fields["method"],
            key=key,
            expires=int(fields["expires"]),
            size=int(fields["size"]) if "size" in fields else None,
            sha256=fields.get("sha256"),
            part=fields.get("part"),
            filename=fields.get("filename"),
        )
    except (KeyError, ValueError):
        raise LinkForgedError("the link is not one of ours") from None
    if not hmac.compare_digest(signature.encode(), _signature(grant, secret).encode()):
        raise LinkForgedError("the link's signature does not fit; it was changed or cut off")
    if (time.time() if now is None else now) >= grant.expires:
        raise LinkExpiredError("the link's time is over; ask for a new one")
    return grant


def _signature(grant: Grant, secret: str) -> str:
    message = json.dumps(asdict(grant), sort_keys=True).encode()
    return hmac.new(f"anneal.storage.link:{secret}".encode(), message, hashlib.sha256).hexdigest()
