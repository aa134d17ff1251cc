"""What browsers need beside Django: static files, and security headers on every response."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from whitenoise.base import WhiteNoise

from api.environment import environment
from api.server.request_limits import App, Receive, Send
from foundation.protocol import PROTOCOL, PROTOCOL_HEADER

NONE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
SELF = "default-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
INLINE_STYLES = "img-src 'self' data:; style-src 'self' 'unsafe-inline'"
POLICIES = (
    ("/api/docs", f"{SELF}; {INLINE_STYLES}; script-src 'self'"),
    # The panel's pages contain inline scripts, and Alpine evaluates their attributes.
    ("/admin", f"{SELF}; {INLINE_STYLES}; script-src 'self' 'unsafe-inline' 'unsafe-eval'"),
)
"""Content-Security-Policy by the start of the path; all other responses are data and get NONE."""
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (PROTOCOL_HEADER.lower().encode(), str(PROTOCOL).encode()),
)
HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


def secured(app: App) -> App:
    """`app` with these headers on each response, unless it sets them itself."""

    async def secure(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        required = headers_for(scope["path"])

        async def completed(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                names = {name.lower() for name, _ in headers}
                message = {**message, "headers": [*headers, *(pair for pair in required if pair[0] not in names)]}
            await send(message)

        await app(scope, receive, completed)

    return secure


def headers_for(path: str) -> list[tuple[bytes, bytes]]:
    policy = next((policy for start, policy in POLICIES if path.startswith(start)), NONE)
    hsts = [HSTS] if environment().is_https else []
    return [*ALWAYS, (b"content-security-policy", policy.encode()), *hsts]


StaticApp = Callable[[Any, Any, Send], Awaitable[None]]

CHUNK_BYTES = 256 * 1024
MAX_AGE_SECONDS = 3600


def static_files() -> tuple[frozenset[str], StaticApp]:
    """The paths of all static files of the installed apps (no collectstatic), and an ASGI app that serves them."""
    noise = WhiteNoise(None, max_age=MAX_AGE_SECONDS, allow_all_origins=False)
    for url, path in _files():
        noise.add_file_to_dictionary(url, path)

    async def serve(scope: Any, receive: Any, send: Send) -> None:  # noqa: ARG001 ASGI's signature
        response = noise.files[scope["path"]].get_response(scope["method"], _environ(scope))
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        await send({"type": "http.response.start", "status": HTTPStatus(response.status).value, "headers": headers})
        if response.file is not None:
            with response.file as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return frozenset(noise.files), serve


def _files() -> Iterator[tuple[str, str]]:
    """URL path and file; as with collectstatic, the app that is installed first wins."""
    paths: set[str] = set()
    for finder in get_finders():
        for path, storage in finder.list([]):
            if path not in paths:
                paths.add(path)
                yield f"{settings.STATIC_URL}{path}", storage.path(path)


def _environ(scope: Any) -> dict[str, str]:
    """The request's headers under their names in WSGI, which whitenoise reads."""
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in pairs}
