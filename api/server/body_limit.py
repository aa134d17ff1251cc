"""Refuses large request bodies before Django reads them; Django alone would first lay all of a body on the disk."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class BodyLimit:
    """How much one request body may hold."""

    max_bytes: int
    max_values: int
    """JSON values, at any depth."""


PASSWORD = BodyLimit(16 << 10, 100)
"""Routes that anybody may call with a password."""
DEFAULT = BodyLimit(1 << 20, 20_000)
LISTS = BodyLimit(8 << 20, 500_000)
"""A list of 50,000 files, 10,000 captions, a batch of 500 events. Files themselves go to signed links."""
ROUTES = (
    (re.compile(r"/api/v1/(auth/|me/password)|/admin/login/"), PASSWORD),
    (re.compile(r"/api/v1/datasets/[^/]+/(uploads|captions)$|/api/v1/models/[^/]+/uploads$|/internal/v1/"), LISTS),
)
"""The first pattern that matches the start of the path counts."""


class BodyTooLargeError(Exception):
    """More came than the Content-Length said, or than is allowed without one."""


def body_limit_for(path: str) -> BodyLimit:
    return next((limit for pattern, limit in ROUTES if pattern.match(path)), DEFAULT)


def body_limited(app: App) -> App:
    """`app` behind a counter of body bytes: 413 at once where Content-Length says it, else as soon as too much came."""

    async def limited(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        limit = body_limit_for(scope["path"]).max_bytes
        if _announced(scope) > limit:
            await _refuse(send, limit)
            return
        started, count = False, 0

        async def counted() -> Message:
            nonlocal count
            message: Message = await receive()
            count += len(message.get("body", b""))
            if count > limit:
                raise BodyTooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, counted, noted)
        except BodyTooLargeError:
            if not started:
                await _refuse(send, limit)

    return limited


def _announced(scope: Any) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0


async def _refuse(send: Send, limit: int) -> None:
    body = {
        "code": "too_large",
        "message": f"The body is larger than {limit} bytes, the limit of this address.",
        "hint": "Send files to the signed links that `uploads` answers.",
        "fields": {},
    }
    data = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(data)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": data})
