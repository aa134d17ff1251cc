"""Streams a job's events by server-sent events; resumes after a broken connection."""

import json
import time
from collections.abc import Iterable, Iterator

import httpx

from cli.errors import ApiError, ServerError, ThrottledError, UnreachableError
from cli.http import Client, Record, checked, reachable
from foundation.protocol import PROTOCOL_HEADER

TERMINAL = ("succeeded", "failed", "cancelled", "paused")
READ_TIMEOUT_SECONDS = 60.0
GIVE_UP_SECONDS = 120.0


def job_events(client: Client, job: str, after: int = 0) -> Iterator[Record | None]:
    """Events of `job` from seq `after` + 1 until it ended; None now and then while nothing happens.

    A connection that breaks is opened again with Last-Event-ID, and so is one that a gateway answered in place of the
    API. Raises the error after GIVE_UP_SECONDS without an answer of the API, and at once where the API itself refuses.
    """
    broken_since: float | None = None
    while True:
        try:
            for event in stream(client, job, after):
                broken_since = None
                after = event["seq"] if event else after
                yield event
            if client.get(f"jobs/{job}")["state"] in TERMINAL:
                return
        except (UnreachableError, ApiError) as error:
            if _refused_by_the_api(error):
                raise
            broken_since = broken_since or time.monotonic()
            if time.monotonic() - broken_since > GIVE_UP_SECONDS:
                raise
            yield None
        time.sleep(0.5)


def _refused_by_the_api(error: UnreachableError | ApiError) -> bool:
    """Whether the response came from the API and a retry cannot help."""
    if isinstance(error, UnreachableError | ServerError | ThrottledError):
        return False
    return PROTOCOL_HEADER in error.headers


def stream(client: Client, job: str, after: int) -> Iterator[Record | None]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=5.0)
    with (
        reachable(client.login.url),
        client.http.stream("GET", f"jobs/{job}/stream", headers=headers, timeout=timeout) as response,
    ):
        yield from parse(checked(response).iter_lines())


def parse(lines: Iterable[str]) -> Iterator[Record | None]:
    """Server-sent events: a blank line ends one; None for a comment (keep-alive)."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith(":"):
            yield None
        elif not line and data:
            yield json.loads("\n".join(data))
            data = []
