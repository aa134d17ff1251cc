"""HTTP to the API: one request, one answer or one of two errors; repeating is the caller's choice."""

from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import structlog
from tenacity import retry_if_exception_type

from foundation.plain_text import value_clean
from foundation.protocol import PROTOCOL_HEADER
from foundation.retry import Pause, repeat
from worker.client.lease import Lease
from worker.errors import FencedError, RefusedError, UnreachableError

Answer = TypeVar("Answer")
LOG_LIMIT = 256 * 1024
"""Most bytes of one log request."""
EVENT_LIMIT = 500
"""Most events of one request."""
AGAIN = {408, 425, 429}
OVER = {"fenced", "attempt_ended", "authentication_failed"}
"""Codes of the API that mean that an attempt has ended or belongs to somebody else."""
SHOWN = 200
"""Characters of an unexpected answer that a log line repeats."""

log = structlog.get_logger()


class Api:
    """The worker's half of docs/protocol.md. Safe to use from several threads."""

    def __init__(self, url: str, token: str, timeout_seconds: float = 10.0) -> None:
        self._client = httpx.Client(base_url=f"{url}/internal/v1/", timeout=timeout_seconds)
        self._token = token
        self.url = url

    def set_timeout(self, seconds: float) -> None:
        self._client.timeout = httpx.Timeout(seconds)

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer's JSON; None for 204. Raises UnreachableError or RefusedError."""
        return _json(self.send("POST", path, self._token, json=body))

    def attempt(self, attempt: str, token: str, lease: Lease) -> "AttemptApi":
        return AttemptApi(self, attempt, token, lease)

    def finish(self, attempt: str, token: str, body: dict[str, Any]) -> None:
        """The end of an attempt; no lease is asked, since an ended attempt must be able to repeat it."""
        if "outcome" not in (_json(self.send("POST", f"attempts/{attempt}/finish", token, json=body)) or {}):
            raise UnreachableError(f"the finish of {attempt} was answered without an outcome")

    def send(self, method: str, path: str, token: str, **content: Any) -> httpx.Response:
        """The API's own answer; JSON is cleaned of what it could not store. Raises UnreachableError, RefusedError."""
        headers = {"Authorization": f"Bearer {token}", **content.pop("headers", {})}
        if "json" in content:
            content["json"] = value_clean(content["json"])
        try:
            response = self._client.request(method, path, headers=headers, **content)
        except httpx.RequestError as error:
            raise UnreachableError(f"{method} {path}: {type(error).__name__} {error}") from error
        if response.is_success and PROTOCOL_HEADER in response.headers:
            return response
        if refusal := _refusal(response):
            raise refusal
        raise UnreachableError(f"{method} {path}: status {response.status_code} {response.text[:SHOWN]!r}")


class AttemptApi:
    """What an agent says, with its attempt's own token. Raises FencedError where the API says that it is over."""

    def __init__(self, api: Api, attempt: str, token: str, lease: Lease) -> None:
        self._api = api
        self._path = f"attempts/{attempt}"
        self._token = token
        self._lease = lease
        self.url = api.url
        self.num_answers = 0
        """Answers of the API to any call of this attempt, refusals included."""

    def post(self, what: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        """what: heartbeat, events, uploads, uploads/complete, artifacts or links. `options` of httpx, as `timeout`."""
        return _json(self._send("POST", what, json=body, **options)) or {}

    def log(self, offset: int, data: bytes) -> int:
        """Appends to the log at `offset`; returns the offset to go on from, which the API may correct."""
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
        try:
            answer = self._send("PATCH", "log", content=data, headers=headers)
        except RefusedError as error:
            if error.code != "log_offset":
                raise
            return int(error.fields["expected"][0])
        return int(answer.headers.get("Upload-Offset", offset + len(data)))

    def _send(self, method: str, what: str, **content: Any) -> httpx.Response:
        try:
            response = self._api.send(method, f"{self._path}/{what}", self._token, **content)
            self.num_answers += 1
            return response
        except RefusedError as error:
            self.num_answers += 1
            if error.code in OVER:
                self._lease.refuse(str(error))
                raise FencedError(str(error)) from error
            raise


def insist(call: Callable[[], Answer], first_seconds: float, pause: Pause) -> Answer:
    """Repeats `call` while the API is unreachable, for as long as `pause` lets it."""

    def request() -> Answer:
        pause(0)
        try:
            return call()
        except UnreachableError as error:
            log.warning("api_unreachable", error=str(error))
            raise

    return repeat(request, when=retry_if_exception_type(UnreachableError), first_seconds=first_seconds, pause=pause)


def _json(response: httpx.Response) -> dict[str, Any] | None:
    if response.status_code == 204 or not response.content:
        return None
    try:
        answer = response.json()
    except ValueError as error:
        raise UnreachableError(f"expected JSON from {response.url.path}, got {response.text[:200]!r}") from error
    if not isinstance(answer, dict):
        raise UnreachableError(f"expected a JSON object from {response.url.path}, got {response.text[:200]!r}")
    return answer


def _refusal(response: httpx.Response) -> RefusedError | None:
    """The refusal that our API pronounced; None where the answer may be another's, or another try may help."""
    status = response.status_code
    if not 400 <= status < 500 or status in AGAIN or PROTOCOL_HEADER not in response.headers:
        return None
    try:
        body = response.json()
    except ValueError:
        return None
    if not isinstance(body, dict) or not isinstance(code := body.get("code"), str) or not code:
        return None
    return RefusedError(status, code, str(body.get("message", "")), body.get("fields"))
