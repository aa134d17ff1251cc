"""What ends a command: one sentence, a hint, an exit code."""

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


class ApiError(CliError):
    """The API's answer was an error: `{code, message, hint, fields}`."""

    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        message = str(answer.get("message") or f"the API answered {status}")
        super().__init__(message, str(answer.get("hint") or ""), code=str(answer.get("code") or f"http_{status}"))
        self.status = status
        self.fields = answer.get("fields") or {}
