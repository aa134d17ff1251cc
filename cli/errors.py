"""Errors that end a command: one sentence, a hint, an exit code."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes of every `anneal` command."""

    DONE = 0
    """Done; for `watch` and everything that waits: the job succeeded."""
    FAILED = 1
    """The request was refused, or the job failed."""
    USAGE = 2
    """The command line itself is wrong."""
    STOPPED = 3
    """The job was cancelled or paused."""
    UNREACHABLE = 4
    """The API does not answer."""


class CliError(Exception):
    """Raised where the cause is known; `cli.main` prints it without a traceback."""

    def __init__(self, message: str, hint: str = "", *, code: str = "error", exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.exit_code = exit_code
        self.fields: dict[str, Any] = {}


class UnreachableError(CliError):
    """The API is unreachable; a retry may help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, code="unreachable", exit_code=Exit.UNREACHABLE)


class ApiError(CliError):
    """The API's answer was an error: `{code, message, hint, fields}`. `api_error` picks the class for its status."""

    def __init__(self, status: int, answer: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        message = str(answer.get("message") or f"the API answered {status}")
        super().__init__(message, str(answer.get("hint") or ""), code=str(answer.get("code") or f"http_{status}"))
        self.status = status
        self.fields = answer.get("fields") or {}
        self.headers = headers or {}


class InvalidError(ApiError):
    """400, 413, 415, 422: the request is wrong; `fields` names what, as in `{"params.lora_r": ["..."]}`."""


class LoginError(ApiError):
    """401: the token is unknown, expired or revoked, or the password is wrong."""


class ForbiddenError(ApiError):
    """403: the token may not do this."""


class NotFoundError(ApiError):
    """404: there is no such thing in the caller's project."""


class ConflictError(ApiError):
    """409: it cannot be done in the state that the thing is in."""


class ThrottledError(ApiError):
    """429: too many requests."""

    @property
    def retry_after_seconds(self) -> float:
        """Seconds to wait before the next try; 1 if the API gives none."""
        value = self.headers.get("Retry-After", "")
        return float(value) if value.isdigit() else 1.0


class ServerError(ApiError):
    """5xx: the API failed; the cause is in its log."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: LoginError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidError,
    415: InvalidError,
    422: InvalidError,
    429: ThrottledError,
}


def api_error(status: int, answer: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> ApiError:
    kind = ServerError if status >= 500 else BY_STATUS.get(status, ApiError)
    return kind(status, answer, headers)
