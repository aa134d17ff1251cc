"""A request becomes a queued job."""

from typing import Any

from pydantic import Field

from api.accounts.models import Project
from api.catalog.devices import resources_for
from api.catalog.models import TemplateVersion
from api.catalog.selectors import resolve_inputs, template_version
from api.catalog.templates.schemas import MAX_DATASETS
from api.errors import Problem
from api.jobs.models import Job
from api.jobs.services.accelerators import accelerators_default
from api.jobs.services.enqueue import JobDraft, SubmitKey, job_enqueue, params_laid, request_digest
from foundation.plain_text import PlainLine
from trainers.contract.spec import Contract, JobSpec


class JobRequest(Contract):
    """The body of `POST jobs`: a template, or everything; with both, what is given here wins over the template."""

    template: str | None = None
    """name or name@version of a template."""
    name: PlainLine | None = Field(None, min_length=1, max_length=200)
    """For people; the template's or the method's name if left out."""
    method: str | None = None
    params: dict[str, Any] = Field({})
    """Of the method; laid over the template's, key by key. null takes the template's out, so that the default holds."""
    dataset: str | None = None
    """name or name@version"""
    further_datasets: list[str] | None = Field(None, max_length=MAX_DATASETS)
    """Read after it, in this order."""
    class_dataset: str | None = None
    """Images of the class, for prior preservation."""
    model: str | None = None
    adaptors: list[str] | None = None
    resources: dict[str, Any] | None = None
    """{accelerators: a count or exact indices, strategy}; one accelerator, if the pool has any, when left out."""
    pool: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")
    priority: int | None = Field(None, ge=-1000, le=1000)
    """Higher goes first."""


def job_create(
    *, project: Project, request: JobRequest, by: str, idempotency_key: str | None = None
) -> tuple[Job, bool]:
    """The queued job, and whether it is new: the same key gives the same job. Raises ValueError for a wrong request."""
    asked = SubmitKey(project, by, idempotency_key, request_digest(request))
    return job_enqueue(asked=asked, wanted=lambda: job_wanted(project, request))


def job_wanted(project: Project, request: JobRequest) -> JobDraft:
    """What the request stands for now. Raises Problem with fields for what is wrong with it."""
    template = template_version(project, request.template) if request.template is not None else None
    whole = _with_template(request, template) if template else request
    pool = whole.pool or "default"
    return JobDraft(
        spec=_spec(project, whole, pool),
        pool=pool,
        priority=whole.priority or 0,
        template=str(template or ""),
        template_version=template,
    )


def _with_template(request: JobRequest, template: TemplateVersion) -> JobRequest:
    base = {"name": template.template.name, **template.content}
    given = {
        key: value for key, value in request.model_dump(exclude={"template", "params"}).items() if value is not None
    }
    params = params_laid(base["params"], request.params)
    if request.method not in (None, base["method"]):
        params = request.params
    return JobRequest.model_validate({**base, **given, "params": params})


def _spec(project: Project, request: JobRequest, pool: str) -> JobSpec:
    if request.method is None:
        raise Problem(
            "invalid", "method: is needed", hint="Name a template or a method.", fields={"method": ["is needed"]}
        )
    inputs = resolve_inputs(
        project,
        dataset=request.dataset,
        further_datasets=request.further_datasets or [],
        class_dataset=request.class_dataset,
        model=request.model,
        adaptors=request.adaptors or [],
    )
    return JobSpec.model_validate(
        {
            "name": request.name or request.method,
            "method": request.method,
            "params": request.params,
            "inputs": inputs,
            "resources": resources_for(
                request.method, request.params, request.resources, lambda: accelerators_default(pool)
            ),
        }
    )
