"""What stands before Django: it believes no header of strangers, and lets nothing in that no database keeps."""

import json
from typing import Any
from urllib.parse import unquote_to_bytes

from api.environment import environment
from api.errors import Problem
from api.server.body_limit import App, Receive, Send
from api.server.client_address import is_within

FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")


def fronted(app: App) -> App:
    """`app` behind the two checks; the scheme is that which a trusted proxy was called with."""

    async def front(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif "\0" in scope["path"] or b"\0" in unquote_to_bytes(scope["query_string"]):
            problem = Problem("bad_address", "The address has a null character.", hint="Remove %00 from it.")
            await problem_send(send, problem)
        else:
            await app(_believed(scope), receive, send)

    return front


async def problem_send(send: Send, problem: Problem, *headers: tuple[bytes, bytes]) -> None:
    """The answer to a refusal outside Django, in the one error shape."""
    data = json.dumps(problem.body()).encode()
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": problem.status, "headers": told})
    await send({"type": "http.response.body", "body": data})


def _believed(scope: Any) -> Any:
    peer = (scope.get("client") or ("", 0))[0]
    if not is_within(peer, environment().trusted_networks):
        kept = [(name, value) for name, value in scope["headers"] if name not in FORWARDED]
        return {**scope, "headers": kept}
    schemes = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
    return {**scope, "scheme": "https"} if schemes[-1:] == [b"https"] else scope
