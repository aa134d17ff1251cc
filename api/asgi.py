"""The ASGI application: Django, signed links of the local storage, and static files."""

import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from django import setup
from django.db import connection

from api.environment import environment
from api.server.handler import StayingThreadsHandler
from api.server.http_protocol import framing_checked, null_characters_rejected, proxied
from api.server.request_limits import REPORTS, STREAMS, body_limited, in_turns
from api.server.security_headers import secured, static_files
from api.storage import LINK_PATH, storage_app, storage_probe

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
REPORTS_AT_ONCE = 4
"""Of workers to SQLite. More would only wait for the interpreter's lock while they hold the database's."""
STREAMS_OPENED_AT_ONCE = 4
"""Open streams do not count."""

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "api.settings")
setup(set_prefix=False)
handler = StayingThreadsHandler()
django: App = in_turns(handler, STREAMS, STREAMS_OPENED_AT_ONCE)
if connection.vendor == "sqlite":
    django = in_turns(django, REPORTS, REPORTS_AT_ONCE)
django = null_characters_rejected(proxied(body_limited(django), environment().trusted_networks))
links = storage_app()
static_paths, static = static_files()


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif links is not None and scope["type"] == "http" and scope["path"].startswith(LINK_PATH):
        await links(scope, receive, send)
    elif scope["type"] == "http" and scope["path"] in static_paths:
        await static(scope, receive, send)
    else:
        await django(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    threading.Thread(target=storage_probe, name="storage-probe", daemon=True).start()
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


application = secured(framing_checked(serve))
