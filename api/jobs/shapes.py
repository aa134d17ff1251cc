"""Jobs, workers and artifacts as the JSON that docs/rest.md promises."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from api.environment import environment
from api.jobs.models import Artifact, Attempt, Event, Job, State, Worker
from api.jobs.waiting import waiting_sentences
from api.storage import storage


class AttemptShape(BaseModel):
    n: int
    fence: int
    worker: str
    started: datetime
    ended: datetime | None
    outcome: str | None
    exit_code: int | None
    reason: dict[str, Any] | None
    last_step: int | None
    resumed_from: int | None
    """Step that it went on from."""


class AdaptorShape(BaseModel):
    name: str
    version: int
    partial: bool


class JobShape(BaseModel):
    id: UUID
    name: str
    method: str
    state: str
    stopping: bool
    pool: str
    priority: int
    params: dict[str, Any]
    inputs: dict[str, Any]
    resources: dict[str, Any]
    created: datetime
    started: datetime | None
    ended: datetime | None
    phase: str | None
    """What a claimed job's attempt does: fetching, importing or loading; null where its worker does not say."""
    progress: dict[str, Any] | None
    """Data of the trainer's last `step` or `progress` event."""
    attempts: list[AttemptShape]
    reason: dict[str, Any] | None
    adaptor: AdaptorShape | None
    waiting: str | None
    """Why a queued job has not started."""
    not_before: datetime | None
    """A queued job waits until then, after a failure that was not its own."""
    failed_tries: int
    """Tries in a row that failed for the storage, the network or a worker."""
    max_tries: int
    """At so many of them the job fails."""
    warnings: list[str]
    template: str | None
    """name@version that it came from."""
    parent: UUID | None
    """The job that it repeats."""
    labels: list[str]
    notes: str


class MetricsShape(BaseModel):
    series: dict[str, list[list[float]]]
    """[step, value] by name."""


class EventShape(BaseModel):
    seq: int
    kind: str
    time: datetime
    attempt: int | None
    """n of the attempt that said it."""
    data: dict[str, Any]


class ArtifactFileShape(BaseModel):
    path: str
    size: int
    sha256: str
    url: str


class ArtifactShape(BaseModel):
    kind: str
    step: int | None
    path: str
    size_bytes: int
    sha256: str
    url: str | None
    """Signed link of a single file; null for a folder, whose `files` have one each."""
    files: list[ArtifactFileShape]
    details: dict[str, Any]
    damaged: str
    """Why no job resumes from this checkpoint; empty for one that is whole."""
    created: datetime


class WorkerShape(BaseModel):
    id: UUID
    host: str
    pools: list[str]
    slots: int
    free_slots: int
    accelerators: list[dict[str, Any]]
    labels: dict[str, Any]
    wall: str
    last_seen: datetime
    draining: bool
    gone: bool
    room_bytes: int | None
    """Room for a job's inputs on its disk, as last reported."""
    quarantined_at: datetime | None
    quarantine: dict[str, Any] | None
    """The Reason of the last of the failures that led to its quarantine."""


def job_shapes(jobs: list[Job]) -> list[dict[str, Any]]:
    """Of jobs that came from `selectors.jobs_of`, which fetches what is shown here."""
    waiting = waiting_sentences(jobs)
    return [_job(job, waiting.get(job.pk)).model_dump(mode="json") for job in jobs]


def job_shape(job: Job) -> dict[str, Any]:
    return job_shapes([job])[0]


def event_shape(event: Event, attempt_n: int | None) -> dict[str, Any]:
    shape = EventShape(seq=event.seq, kind=event.kind, time=event.time, attempt=attempt_n, data=event.data)
    return shape.model_dump(mode="json")


def artifact_shape(artifact: Artifact) -> dict[str, Any]:
    files = [ArtifactFileShape(**file, url=_link(artifact, file["path"])) for file in artifact.files]
    alone = len(files) == 1 and files[0].path == artifact.path
    return ArtifactShape(
        kind=artifact.kind,
        step=artifact.step,
        path=artifact.path,
        size_bytes=artifact.size_bytes,
        sha256=files[0].sha256 if alone else artifact.sha256,
        url=files[0].url if alone else None,
        files=files,
        details=artifact.details,
        damaged=artifact.damaged,
        created=artifact.created,
    ).model_dump(mode="json")


def worker_shape(worker: Worker) -> dict[str, Any]:
    return WorkerShape.model_validate(worker, from_attributes=True).model_dump(mode="json")


def _job(job: Job, waiting: str | None) -> JobShape:
    spec = job.spec
    adaptor = max(job.shown_adaptors, key=lambda made: (not made.partial, made.version), default=None)
    return JobShape(
        id=job.pk,
        name=job.name,
        method=job.method,
        state=job.state,
        stopping=job.stopping,
        pool=job.pool,
        priority=job.priority,
        params=spec["params"],
        inputs=spec["inputs"],
        resources=spec["resources"],
        created=job.created,
        started=job.started,
        ended=job.ended,
        phase=_phase(job),
        progress=job.progress,
        attempts=[_attempt(attempt) for attempt in job.shown_attempts],
        reason=job.reason,
        adaptor=adaptor and AdaptorShape(name=adaptor.name, version=adaptor.version, partial=adaptor.partial),
        waiting=waiting,
        not_before=job.not_before,
        failed_tries=job.failed_tries,
        max_tries=environment().max_tries,
        warnings=job.warnings,
        template=job.template or None,
        parent=job.parent_id,
        labels=sorted(label.name for label in job.shown_labels),
        notes=job.notes,
    )


def _phase(job: Job) -> str | None:
    if job.state != State.CLAIMED:
        return None
    return next((attempt.phase for attempt in job.shown_attempts if attempt.ended_at is None), "") or None


def _attempt(attempt: Attempt) -> AttemptShape:
    return AttemptShape(
        n=attempt.n,
        fence=attempt.fence,
        worker=attempt.worker.host,
        started=attempt.started_at,
        ended=attempt.ended_at,
        outcome=attempt.outcome or None,
        exit_code=attempt.exit_code,
        reason=attempt.reason,
        last_step=attempt.last_step,
        resumed_from=attempt.start_step or None,
    )


def _link(artifact: Artifact, path: str) -> str:
    key = f"{artifact.attempt.prefix}/{path}"
    return storage().presign_get(key, expires_seconds=environment().link_seconds).url
