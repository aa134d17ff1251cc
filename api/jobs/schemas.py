"""The responses of the endpoints of jobs, each a class that is built from its rows; the base of what workers send."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db.models import Count, F, Sum
from pydantic import ConfigDict, Field

from api.accounts.models import Project
from api.catalog.models import Adaptor, DatasetVersion, PretrainedModelVersion
from api.environment import environment
from api.jobs.models import Artifact, Attempt, Event, Job, Manifest, Worker
from api.jobs.placement import waiting_sentences
from api.jobs.states import State
from api.openapi import Schema
from api.storage import storage
from trainers.contract.spec import Contract

SPEC_FIELDS = ("params", "inputs", "resources")
"""Fields of a job that come from its spec."""


class Incoming(Contract):
    """Base of what workers send: fields that this API does not know are ignored, so that a newer worker may call it."""

    model_config = ConfigDict(extra="ignore")


class AttemptShape(Schema):
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

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        return cls(
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


class AdaptorShape(Schema):
    name: str
    version: int
    partial: bool

    @classmethod
    def best_of(cls, job: Job) -> Self | None:
        """The newest complete one, or the newest."""
        best = max(job.shown_adaptors, key=lambda adaptor: (not adaptor.partial, adaptor.version), default=None)
        return best and cls(name=best.name, version=best.version, partial=best.partial)


class JobShape(Schema):
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

    @classmethod
    def of(cls, job: Job, waiting: str | None) -> Self:
        """`job` comes from `selectors.jobs_of`, which prefetches what is shown."""
        return cls(**_shown(job, waiting), **{name: job.spec[name] for name in SPEC_FIELDS})


class JobRowShape(JobShape):
    """A job in a list, without the fields of its spec that the request does not name in `fields`."""

    params: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of_row(cls, job: Job, waiting: str | None, fields: Collection[str]) -> Self:
        return cls(**_shown(job, waiting), **{name: job.spec[name] for name in fields})


def job_schemas(jobs: Sequence[Job]) -> list[JobShape]:
    """Of jobs that come from `selectors.jobs_of`."""
    waiting = waiting_sentences(jobs)
    return [JobShape.of(job, waiting.get(job.pk)) for job in jobs]


def job_rows(jobs: Sequence[Job], fields: Collection[str]) -> list[JobRowShape]:
    """Of jobs that come from `selectors.jobs_of`; `fields` of SPEC_FIELDS are set, the spec is not read without any."""
    waiting = waiting_sentences(jobs)
    return [JobRowShape.of_row(job, waiting.get(job.pk), fields) for job in jobs]


def _shown(job: Job, waiting: str | None) -> dict[str, Any]:
    """All fields but those of the spec."""
    return {
        "id": job.pk,
        "name": job.name,
        "method": job.method,
        "state": job.state,
        "stopping": job.stopping,
        "pool": job.pool,
        "priority": job.priority,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "phase": _phase(job),
        "progress": job.progress,
        "attempts": [AttemptShape.of(attempt) for attempt in job.shown_attempts],
        "reason": job.reason,
        "adaptor": AdaptorShape.best_of(job),
        "waiting": waiting,
        "not_before": job.not_before,
        "failed_tries": job.failed_tries,
        "max_tries": environment().max_tries,
        "warnings": job.warnings,
        "template": job.template or None,
        "parent": job.parent_id,
        "labels": sorted(label.name for label in job.shown_labels),
        "notes": job.notes,
    }


def _phase(job: Job) -> str | None:
    if job.state != State.CLAIMED:
        return None
    return next((attempt.phase for attempt in job.shown_attempts if attempt.ended_at is None), "") or None


class MetricsShape(Schema):
    series: dict[str, list[list[float]]]
    """[step, value] by name."""

    @staticmethod
    def of(series: Any) -> "MetricsShape":
        """Without validation, so that steps stay integers; dump it with `warnings=False`."""
        return MetricsShape.model_construct(series=series)


class EventShape(Schema):
    seq: int
    kind: str
    time: datetime
    attempt: int | None
    """n of the attempt that emitted it."""
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        """`event` comes with its attempt."""
        n = event.attempt.n if event.attempt else None
        return cls(seq=event.seq, kind=event.kind, time=event.time, attempt=n, data=event.data)


class ManifestShape(Schema):
    attempt: int
    """n of the attempt that wrote it."""
    manifest: dict[str, Any]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        return cls(attempt=manifest.attempt.n, manifest=manifest.data)


class InputFileShape(Schema):
    path: str
    size: int
    sha256: str
    url: str


class SpecInputShape(Schema):
    sha256: str
    files: list[InputFileShape]


class SpecShape(Schema):
    spec: dict[str, Any]
    """With the checkpoint from which the job would go on; of a job that succeeded, without."""
    inputs: dict[str, SpecInputShape]
    """By folder below `in/`."""


class ArtifactFileShape(Schema):
    path: str
    size: int
    sha256: str
    url: str


class ArtifactShape(Schema):
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

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """`artifact` comes with its attempt."""
        files = [ArtifactFileShape(**file, url=_link(artifact, file["path"])) for file in artifact.files]
        is_file = len(files) == 1 and files[0].path == artifact.path
        return cls(
            kind=artifact.kind,
            step=artifact.step,
            path=artifact.path,
            size_bytes=artifact.size_bytes,
            sha256=files[0].sha256 if is_file else artifact.sha256,
            url=files[0].url if is_file else None,
            files=files,
            details=artifact.details,
            damaged=artifact.damaged,
            created=artifact.created,
        )


def _link(artifact: Artifact, path: str) -> str:
    key = f"{artifact.attempt.prefix}/{path}"
    return storage().presign_get(key, expires_seconds=environment().link_seconds).url


class WorkerShape(Schema):
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

    @classmethod
    def of(cls, worker: Worker) -> Self:
        return cls.model_validate(worker, from_attributes=True)


class SizeShape(Schema):
    count: int
    size_bytes: int


class UsageShape(Schema):
    datasets: SizeShape
    """Versions."""
    models: SizeShape
    adaptors: SizeShape
    artifacts: dict[str, SizeShape]
    """By kind: checkpoint, sample, ..."""
    logs: SizeShape
    jobs: int
    total_bytes: int

    @classmethod
    def of(cls, project: Project) -> Self:
        """Six aggregates. Files that no row names are not counted: open uploads, files that wait for a sweep."""
        sizes = {
            "datasets": _size(DatasetVersion.objects.filter(record__project=project)),
            "models": _size(PretrainedModelVersion.objects.filter(record__project=project)),
            "adaptors": _size(Adaptor.objects.filter(project=project)),
            "logs": _size(Attempt.objects.filter(job__project=project), "log_bytes"),
        }
        kinds = Artifact.objects.filter(job__project=project).order_by("kind").values("kind")
        artifacts = {
            row["kind"]: SizeShape(count=row["count"], size_bytes=row["size"])
            for row in kinds.annotate(count=Count("pk"), size=Sum("size_bytes"))
        }
        parts = (*sizes.values(), *artifacts.values())
        return cls(
            **sizes,
            artifacts=artifacts,
            jobs=Job.objects.filter(project=project).count(),
            total_bytes=sum(part.size_bytes for part in parts),
        )


def _size(rows: Any, column: str = "size_bytes") -> SizeShape:
    total = rows.aggregate(count=Count("pk"), size=Sum(F(column)))
    return SizeShape(count=total["count"], size_bytes=total["size"] or 0)
