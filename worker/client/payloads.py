"""What the API answers to a claim."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from trainers.contract.spec import Resources

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


class Timings(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    heartbeat_seconds: float = 15
    lease_seconds: float = 300
    self_fence_seconds: float = 240
    kill_seconds: float = 20
    poll_seconds: float = 5
    request_timeout_seconds: float = 10
