"""What uses a version of a dataset, a base model or an adaptor: guards its deletion, and is shown to people."""

from dataclasses import dataclass, field
from typing import Any, Self

from django.db.models import Q, QuerySet

from api.accounts.models import Project
from api.audit.names import ref_read
from api.catalog.models import KINDS, Adaptor, DatasetVersion, PretrainedModelVersion, Template, VersionState
from api.jobs.models import Attempt, Job
from api.jobs.states import State
from api.openapi import Schema

Used = DatasetVersion | PretrainedModelVersion | Adaptor
MAX_NAMED = 50
UNFINISHED = (State.QUEUED, State.CLAIMED, State.RUNNING, State.PAUSED)
"""A paused job may be resumed, and then fetches its inputs again."""
COLUMNS: dict[type[Any], tuple[str, ...]] = {
    DatasetVersion: ("dataset", "further_datasets", "class_dataset"),
    PretrainedModelVersion: ("model",),
    Adaptor: ("adaptors",),
}
"""Columns of a template that name one or several of the kind."""


@dataclass(frozen=True)
class Uses:
    jobs: list[Job] = field(default_factory=list)
    """The newest, at most MAX_NAMED."""
    templates: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Empty if nothing uses it."""
        jobs = ", ".join(f"job {job.name} ({job.pk})" for job in self.jobs[:5])
        templates = ", ".join(f"template {name}" for name in self.templates[:5])
        return ", ".join(part for part in (jobs, templates) if part)

    def fields(self) -> dict[str, list[Any]]:
        return {"jobs": [str(job.pk) for job in self.jobs], "templates": [*self.templates]}


def uses_now(version: Used) -> Uses:
    """Jobs that may still read it, and templates that name it: both prevent its deletion."""
    jobs = jobs_using(version).filter(state__in=UNFINISHED)
    return Uses(list(jobs[:MAX_NAMED]), templates_using(version))


def jobs_using(version: Used) -> QuerySet[Job]:
    """Every job that has read it or will, the newest first."""
    return Job.objects.filter(inputs__key=version.key).distinct().order_by("-created", "-id")


def adaptors_from(version: Used) -> QuerySet[Adaptor]:
    """Adaptors that were trained on it, the newest first."""
    return Adaptor.objects.filter(job__inputs__key=version.key).distinct().order_by("-created", "-id")


def templates_using(version: Used) -> list[str]:
    """Templates whose newest version names it: as name@version, or by the bare name that means it."""
    refs = {str(version)} | ({_name(version)} if _is_meant_by_name(version) else set())
    return templates_naming(_project(version), type(version), refs)


def templates_naming(project: Project, kind: type[Any], refs: set[str]) -> list[str]:
    """Templates whose newest version names one of `refs` as an input of that kind, by name."""
    columns = COLUMNS[kind]
    rows = Template.objects.filter(project=project).order_by("name").values_list("name", *columns)
    return [str(name) for name, *values in rows if any(refs & _refs(value) for value in values)]


def used_version(project: Project, kind: str, ref: str) -> Used | None:
    """The version that `ref` names among the "datasets" or "models", or None."""
    name, number = ref_read(ref, "name")
    versions = KINDS[kind][1].objects.select_related("record").filter(record__project=project, record__name=name)
    condition = Q(state=VersionState.READY) if number is None else Q(version=number)
    version: Used | None = versions.filter(condition).order_by("-version").first()
    return version


def _refs(value: Any) -> set[str]:
    return set(value) if isinstance(value, list) else {value}


def _name(version: Used) -> str:
    return version.name if isinstance(version, Adaptor) else version.record.name


def _project(version: Used) -> Project:
    return version.project if isinstance(version, Adaptor) else version.record.project


def _is_meant_by_name(version: Used) -> bool:
    if isinstance(version, Adaptor):
        others = Adaptor.objects.filter(project=version.project_id, name=version.name).order_by("partial", "-version")
        return others.values_list("pk", flat=True).first() == version.pk
    rows: Any = type(version)
    ready = rows.objects.filter(record=version.record_id, state=VersionState.READY).order_by("-version")
    return bool(ready.values_list("pk", flat=True).first() == version.pk)


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
