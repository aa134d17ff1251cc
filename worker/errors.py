"""A failure of the worker's own work on an attempt, whose Reason is known."""

from trainers.contract.errors import ReasonCode, reason


class AttemptError(Exception):
    def __init__(self, code: ReasonCode, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason(code, message, detail)
