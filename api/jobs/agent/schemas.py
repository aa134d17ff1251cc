"""The responses to worker hosts and to the agents of attempts, as docs/protocol.md describes them."""

from typing import Any, Self

from pydantic import BaseModel, Field

from api.environment import environment
from api.jobs.models import Artifact, Attempt, Worker
from api.jobs.schemas import SpecInputShape
from api.jobs.services.claim import Claim
from api.jobs.services.inputs import AttemptSecrets, attempt_inputs, attempt_spec
from api.upload_links import UploadLinkShape
from foundation.protocol import OLDEST_WORKER, PROTOCOL

Seconds = int | float


class HelloShape(BaseModel):
    worker: str
    draining: bool
    protocol: int
    oldest_protocol: int
    heartbeat_seconds: Seconds
    lease_seconds: Seconds
    self_fence_seconds: Seconds
    kill_seconds: Seconds
    poll_seconds: Seconds
    request_timeout_seconds: Seconds
    no_progress_seconds: Seconds
    stop_grace_seconds: Seconds

    @classmethod
    def of(cls, worker: Worker) -> Self:
        times = {name: getattr(environment(), name) for name in cls.model_fields if name.endswith("_seconds")}
        versions = {"protocol": PROTOCOL, "oldest_protocol": OLDEST_WORKER}
        return cls(worker=str(worker.pk), draining=worker.draining, **versions, **times)


class HostHeartbeatShape(BaseModel):
    draining: bool
    quarantine: str | None
    """Code of the Reason."""

    @classmethod
    def of(cls, worker: Worker) -> Self:
        code = worker.quarantine["code"] if worker.quarantine else None
        return cls(draining=worker.draining, quarantine=code)


class ClaimedAttemptShape(BaseModel):
    id: str
    n: int
    fence: int
    token: str = Field(repr=False)


class ClaimedJobShape(BaseModel):
    id: str
    name: str
    project: str
    method: str


class ClaimShape(BaseModel):
    attempt: ClaimedAttemptShape
    job: ClaimedJobShape
    spec: dict[str, Any]
    accelerators: list[int]
    inputs: dict[str, SpecInputShape]
    """By folder below `in/`."""
    secrets: dict[str, str] = Field(repr=False)
    """Values by environment variable."""
    missing_secrets: list[str]
    stop_grace_seconds: Seconds
    no_progress_seconds: Seconds

    @classmethod
    def of(cls, claim: Claim, secrets: AttemptSecrets) -> Self:
        attempt, job = claim.attempt, claim.attempt.job
        return cls.model_validate(
            {
                "attempt": {"id": str(attempt.pk), "n": attempt.n, "fence": attempt.fence, "token": claim.token},
                "job": {"id": str(job.pk), "name": job.name, "project": str(job.project_id), "method": job.method},
                "spec": attempt_spec(attempt),
                "accelerators": attempt.accelerators,
                "inputs": attempt_inputs(attempt),
                "secrets": secrets.values,
                "missing_secrets": list(secrets.missing),
                "stop_grace_seconds": environment().stop_grace_seconds,
                "no_progress_seconds": environment().no_progress_seconds,
            }
        )


class ControlShape(BaseModel):
    seq: int
    command: str


class HeartbeatShape(BaseModel):
    stop: str | None
    """pause, cancel or drain"""
    control: ControlShape | None
    """The newest command that the trainer has not obeyed."""
    interval: Seconds
    """Seconds to the next heartbeat."""

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        job = attempt.job
        stop = job.stop_requested or ("drain" if attempt.worker.draining else None)
        has_control = job.control_command and job.control_seq > job.control_obeyed
        control = ControlShape(seq=job.control_seq, command=job.control_command)
        interval = environment().heartbeat_seconds
        return cls(stop=stop, control=control if has_control else None, interval=interval)


class RecordedShape(BaseModel):
    next_seq: int
    """Of the event that is expected next."""


class UploadsShape(BaseModel):
    files: list[UploadLinkShape]


class JoinedFileShape(BaseModel):
    path: str
    size: int
    sha256: str


class PublishedShape(BaseModel):
    id: int
    kind: str
    path: str

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        return cls(id=artifact.pk, kind=artifact.kind, path=artifact.path)


class FinishedShape(BaseModel):
    outcome: str
    reason: dict[str, Any] | None

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        return cls(outcome=attempt.outcome, reason=attempt.reason)


class LinkShape(BaseModel):
    path: str
    url: str


class LinksShape(BaseModel):
    files: list[LinkShape]
