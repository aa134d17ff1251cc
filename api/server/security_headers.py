"""Headers that keep browsers from doing harm, on every answer of this server, whoever makes it."""

from typing import Any

from api.environment import environment
from api.server.body_limit import App, Receive, Send
from foundation.protocol import PROTOCOL, PROTOCOL_HEADER

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
OWN = "default-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
INLINE_STYLES = "img-src 'self' data:; style-src 'self' 'unsafe-inline'"
POLICIES = (
    ("/api/docs", f"{OWN}; {INLINE_STYLES}; script-src 'self'"),
    # The panel's own pages carry inline scripts, and Alpine evaluates what stands in their attributes.
    ("/admin", f"{OWN}; {INLINE_STYLES}; script-src 'self' 'unsafe-inline' 'unsafe-eval'"),
)
"""Content-Security-Policy by the start of the path; all else is data, and may do nothing in a browser."""
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
    """`app` with these headers on each answer; what it set itself stays."""

    async def secure(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        wanted = headers_for(scope["path"])

        async def completed(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                known = {name.lower() for name, _ in given}
                message = {**message, "headers": [*given, *(pair for pair in wanted if pair[0] not in known)]}
            await send(message)

        await app(scope, receive, completed)

    return secure


def headers_for(path: str) -> list[tuple[bytes, bytes]]:
    policy = next((policy for start, policy in POLICIES if path.startswith(start)), NOTHING)
    hsts = [HSTS] if environment().is_https else []
    return [*ALWAYS, (b"content-security-policy", policy.encode()), *hsts]
