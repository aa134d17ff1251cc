"""Security headers for browsers, on every response of the server."""

from typing import Any

from api.environment import environment
from api.server.body_limit import App, Receive, Send
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
