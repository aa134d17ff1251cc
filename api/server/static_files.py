"""Static files of the panel and of pages, served without Django: no second server, no request thread."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from whitenoise.base import WhiteNoise

Send = Callable[[Any], Awaitable[None]]
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
