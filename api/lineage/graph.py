"""Where an adaptor came from and what came of it, in one answer."""

from typing import Any

from api.catalog.models import Adaptor
from api.jobs.models import Job
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


class TryShape(Schema):
    n: int
    worker: str
    outcome: str | None
    last_step: int | None
    resumed_from: int | None


class LineageShape(Schema):
    adaptor: str
    job: JobLinkShape
    template: str | None
    """name@version that the job came from."""
    template_kept: bool
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


class UsedByShape(Schema):
    num_jobs: int
    jobs: list[JobLinkShape]
    """The newest 50."""
    templates: list[str]
    adaptors: list[str]
    """The newest 50 that were trained on it."""


def lineage(adaptor: Adaptor) -> dict[str, Any]:
    """Five queries. `adaptor` comes with its base model."""
    job = Job.objects.select_related("parent").get(pk=adaptor.job_id)
    attempts = job.attempts.select_related("worker").order_by("n")
    return LineageShape(
        adaptor=str(adaptor),
        job=job_link(job),
        template=job.template or None,
        template_kept=job.template_version_id is not None,
        parent=job_link(job.parent) if job.parent else None,
        reruns=[job_link(one) for one in job.reruns.order_by("-created")[:MAX_NAMED]],
        inputs=_inputs(job),
        base_model=str(adaptor.base_model) if adaptor.base_model else None,
        attempts=[
            TryShape(
                n=one.n,
                worker=one.worker.host,
                outcome=one.outcome or None,
                last_step=one.last_step,
                resumed_from=one.start_step or None,
            )
            for one in attempts
        ],
        spec_digest=job.spec_digest,
        rerun_url=f"/api/v1/jobs/{job.pk}/rerun",
    ).model_dump(mode="json")


def used_by(version: Used) -> dict[str, Any]:
    """Jobs that read it, templates that name it, adaptors that were trained on it."""
    jobs = jobs_using(version)
    return UsedByShape(
        num_jobs=jobs.count(),
        jobs=[job_link(job) for job in jobs[:MAX_NAMED]],
        templates=templates_using(version),
        adaptors=[str(adaptor) for adaptor in adaptors_from(version)[:MAX_NAMED]],
    ).model_dump(mode="json")


def job_link(job: Job) -> JobLinkShape:
    return JobLinkShape(id=str(job.pk), name=job.name, state=job.state)


def _inputs(job: Job) -> list[InputShape]:
    given = job.spec["inputs"]
    named = [("dataset", given.get("dataset")), ("model", given.get("model"))]
    named += [("further dataset", ref) for ref in given.get("further_datasets", [])]
    named.append(("class dataset", given.get("class_dataset")))
    named += [("adaptor", ref) for ref in given.get("adaptors", [])]
    return [InputShape(role=role, name=ref["name"], sha256=ref["sha256"]) for role, ref in named if ref]
