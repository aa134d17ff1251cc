"""What the API answers to a claim, and how a claim survives a lost answer."""

import uuid
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foundation.boottime import boottime
from worker.client.api import Api
from worker.client.payloads import AttemptPart, Claim
from worker.transfer.files import write_bytes


class UnknownClaimError(Exception):
    """The API's answer has another shape than this worker knows; `attempt` is what can be told of it."""

    def __init__(self, problem: ValidationError, attempt: AttemptPart | None) -> None:
        super().__init__(
            f"{problem.error_count()} fields of the claim are not understood: {problem.errors()[0]['loc']}"
        )
        self.attempt = attempt


class Claimer:
    """Asks for one attempt at a time. The id is on disk before the request, and is used again until an answer came."""

    def __init__(self, api: Api, path: Path) -> None:
        self._api = api
        self._path = path

    def claim(self, body: dict[str, Any]) -> tuple[Claim, float] | None:
        """A claim and when its request was sent (CLOCK_BOOTTIME); None where nothing fits.

        Call `taken` once the claim is on disk. Raises UnreachableError, RefusedError or UnknownClaimError.
        """
        claim_id = self._pending() or self._new()
        sent_at = boottime()
        answer = self._api.post("claims", {**body, "claim_id": claim_id})
        if answer is None:
            self.taken()
            return None
        try:
            return Claim.model_validate(answer), sent_at
        except ValidationError as error:
            raise UnknownClaimError(error, _attempt_in(answer)) from error

    def unanswered(self) -> bool:
        """A claim was sent whose answer never came."""
        return self._path.exists()

    def taken(self) -> None:
        """The answer is safe; the next claim is a new one."""
        self._path.unlink(missing_ok=True)

    def _pending(self) -> str | None:
        return self._path.read_text() if self._path.exists() else None

    def _new(self) -> str:
        claim_id = str(uuid.uuid4())
        write_bytes(self._path, claim_id.encode())
        return claim_id


def _attempt_in(answer: dict[str, Any]) -> AttemptPart | None:
    try:
        return AttemptPart.model_validate(answer.get("attempt"))
    except ValidationError:
        return None
