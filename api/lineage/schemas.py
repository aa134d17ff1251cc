"""The responses about the origin of an adaptor, and about the uses of any version."""

from typing import Self

from api.catalog.models import Adaptor
from api.jobs.models import Attempt, Job
from api.lineage.uses import MAX_NAMED, Used, adaptors_from, jobs_using, templates_using
from api.openapi import Schema


class InputShape(Schema):
    role: str
    name: str
    """name@version, as it was called then."""
    sha256: str


class JobLinkShape(Schema):
    id: str
    name: str
    state: str

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(id=str(job.pk), name=job.name, state=job.state)


class TryShape(Schema):
    n: int
    worker: str
    outcome: str | None
    last_step: int | None
    resumed_from: int | None

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        return cls(
            n=attempt.n,
            worker=attempt.worker.host,
            outcome=attempt.outcome or None,
            last_step=attempt.last_step,
            resumed_from=attempt.start_step or None,
        )


class LineageShape(Schema):
    adaptor: str
    job: JobLinkShape
    template: str | None
    """name@version that the job came from."""
    template_exists: bool
    """Whether that version is still there."""
    parent: JobLinkShape | None
    """The job that the job repeats."""
    reruns: list[JobLinkShape]
    """Jobs that repeat it."""
    inputs: list[InputShape]
    base_model: str | None
    attempts: list[TryShape]
    spec_digest: str
    rerun_url: str
    """POST there to queue the same job again."""

    @classmethod
    def of(cls, adaptor: Adaptor) -> Self:
        """Five queries. `adaptor` comes with its base model."""
        job = Job.objects.select_related("parent").get(pk=adaptor.job_id)
        attempts = job.attempts.select_related("worker").order_by("n")
        return cls(
            adaptor=str(adaptor),
            job=JobLinkShape.of(job),
            template=job.template or None,
            template_exists=job.template_version_id is not None,
            parent=JobLinkShape.of(job.parent) if job.parent else None,
            reruns=[JobLinkShape.of(rerun) for rerun in job.reruns.order_by("-created")[:MAX_NAMED]],
            inputs=_inputs(job),
            base_model=str(adaptor.base_model) if adaptor.base_model else None,
            attempts=[TryShape.of(attempt) for attempt in attempts],
            spec_digest=job.spec_digest,
            rerun_url=f"/api/v1/jobs/{job.pk}/rerun",
        )


class UsedByShape(Schema):
    num_jobs: int
    jobs: list[JobLinkShape]
    """The newest 50."""
    templates: list[str]
    adaptors: list[str]
    """The newest 50 that were trained on it."""

    @classmethod
    def of(cls, version: Used) -> Self:
        """Jobs that read it, templates that name it, adaptors that were trained on it."""
        jobs = jobs_using(version)
        return cls(
            num_jobs=jobs.count(),
            jobs=[JobLinkShape.of(job) for job in jobs[:MAX_NAMED]],
            templates=templates_using(version),
            adaptors=[str(adaptor) for adaptor in adaptors_from(version)[:MAX_NAMED]],
        )


def _inputs(job: Job) -> list[InputShape]:
    inputs = job.spec["inputs"]
    refs = [("dataset", inputs.get("dataset")), ("model", inputs.get("model"))]
    refs += [("further dataset", ref) for ref in inputs.get("further_datasets", [])]
    refs.append(("class dataset", inputs.get("class_dataset")))
    refs += [("adaptor", ref) for ref in inputs.get("adaptors", [])]
    return [InputShape(role=role, name=ref["name"], sha256=ref["sha256"]) for role, ref in refs if ref]
