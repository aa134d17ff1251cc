"""What the API answers to a claim, and how a claim survives a lost answer."""

import uuid
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainers.contract.spec import Resources
from worker.client.api import Api
from worker.client.clock import boottime
from worker.transfer.files import write_whole

Variable = Annotated[str, Field(pattern=r"^(HF_TOKEN|WANDB_API_KEY|ANNEAL_SECRET_[A-Z0-9_]{1,50})$")]
"""Nothing that could change how a trainer starts, whoever sends it."""


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class AttemptPart(Part):
    id: str
    n: int
    fence: int
    token: str


class JobPart(Part):
    id: str
    name: str = ""
    project: str = Field("", pattern=r"^[A-Za-z0-9-]{0,64}$")
    method: str = ""


class FilePart(Part):
    path: str
    size: int
    sha256: str
    url: str


class InputPart(Part):
    sha256: str
    files: tuple[FilePart, ...]


class Claim(Part):
    """One attempt to run. `inputs` are by their place below in/."""

    attempt: AttemptPart
    job: JobPart
    spec: dict[str, Any]
    accelerators: tuple[int, ...] = ()
    inputs: dict[str, InputPart] = {}
    secrets: dict[Variable, str] = Field({}, repr=False)
    """For the trainer's environment alone; never on disk, never in a log."""
    missing_secrets: tuple[str, ...] = ()
    """Names that the job asks for and the project cannot give."""
    stop_grace_seconds: float = 300
    no_progress_seconds: float = 1800

    @property
    def project(self) -> str:
        """A name for the folder that only trainers of this project share."""
        return self.job.project or self.job.id

    @property
    def resources(self) -> Resources:
        """Fields of a newer API are ignored."""
        fields = self.spec.get("resources", {}).items()
        return Resources.model_validate({name: value for name, value in fields if name in Resources.model_fields})


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
        write_whole(self._path, claim_id.encode())
        return claim_id


def _attempt_in(answer: dict[str, Any]) -> AttemptPart | None:
    try:
        return AttemptPart.model_validate(answer.get("attempt"))
    except ValidationError:
        return None
