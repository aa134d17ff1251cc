"""Exceptions of the worker."""

from typing import Any

from trainers.contract.errors import ReasonCode, reason


class AttemptError(Exception):
    """A failure of the worker's own work on an attempt, whose Reason is known."""

    def __init__(self, code: ReasonCode, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason(code, message, detail)


class UnreachableError(Exception):
    """No final answer of our API: no connection, a timeout, 5xx, 408, 425, 429, a gateway's page. Retrying may help."""


class RefusedError(Exception):
    """A 4xx with the API's error envelope and header: final."""

    def __init__(self, status: int, code: str, message: str, fields: dict[str, Any] | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.fields = fields or {}


class FencedError(Exception):
    """The attempt is not ours any more: nothing of it may be published."""


class StopError(Exception):
    """A stop was asked before the trainer ran."""
