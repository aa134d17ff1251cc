"""The REST client: requests with the user's token, errors as one sentence each, a job's events as a stream.

`docs/rest.md` lists the calls.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import httpx

from cli.config import Login
from cli.errors import ApiError, CliError, ServerError, ThrottledError, UnreachableError, api_error
from foundation.protocol import PROTOCOL_HEADER

Record = dict[str, Any]
TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class Client:
    """Speaks with one API; `path` is always relative to /api/v1/. Raises ApiError or UnreachableError."""

    def __init__(self, login: Login, transport: httpx.BaseTransport | None = None) -> None:
        self.login = login
        self.http = httpx.Client(
            base_url=login.url.rstrip("/") + "/api/v1/",
            headers={"Authorization": f"Bearer {login.token}"} if login.token else {},
            timeout=TIMEOUT,
            verify=not login.url.startswith("http://"),  # reading the certificates takes long; no redirect is followed
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def request(self, verb: str, path: str, **options: Any) -> httpx.Response:
        with reachable(self.login.url):
            response = self.http.request(verb, path, **options)
        return checked(response)

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, params=without_none(query)).json()

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        response = self.request("POST", path, json={} if body is None else body, **options)
        return response.json() if response.content else None

    def put(self, path: str, body: Any) -> Any:
        return self.request("PUT", path, json=body).json()

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    def pages(self, path: str, **query: Any) -> Iterator[Record]:
        """Every record of a list, page after page.

        Of `next` only the query counts: a proxy may know the API by another name, and the token goes to no other host.
        """
        page = self.get(path, **query)
        yield from page["results"]
        while page["next"]:
            page = self.get(path, **dict(parse_qsl(urlsplit(page["next"]).query)))
            yield from page["results"]


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turns "nobody answers" into the one sentence that helps."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise CliError(f"{url!r} is not a URL", "Expected something like http://127.0.0.1:8000.") from error
    except httpx.TransportError as error:
        hint = "Is it running? `anneal up` starts a platform on this machine."
        raise UnreachableError(f"{url} does not answer ({type(error).__name__})", hint) from error


def checked(response: httpx.Response) -> httpx.Response:
    """The response, or its error as the ApiError of its status."""
    if response.is_success:
        return response
    response.read()
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "message" not in answer:
        answer = {"message": f"{response.url.path} answered {response.status_code} {response.reason_phrase}"}
    if response.status_code == 401 and not answer.get("hint"):
        answer["hint"] = "Run `anneal login URL` again."
    raise api_error(response.status_code, answer, response.headers)


def without_none(query: Record) -> Record:
    return {name: value for name, value in query.items() if value is not None}


def login(url: str, username: str, password: str, project: str | None = None, *, join: str | None = None) -> Login:
    """Trades a password for a token that opens one project: `join`, whose invitation is accepted, or `project`, or the
    first by name."""
    body = without_none({"username": username, "password": password, "project": project, "join": join})
    with Client(Login(url=url, token="")) as client:
        answer = client.post("auth/login", body)
    return Login(url=url, token=answer["token"])


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
