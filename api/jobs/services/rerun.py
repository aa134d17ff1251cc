"""A job again: the same inputs by version, with what the request changes."""

from typing import Any

from pydantic import Field

from api.catalog.devices import devices_named, resources_for
from api.catalog.selectors import resolve_inputs
from api.catalog.templates.schemas import INPUT_ROLES, MAX_DATASETS
from api.jobs.models import Job
from api.jobs.services.placement import accelerators_default
from api.jobs.services.submit import JobDraft, SubmitKey, job_enqueue, params_laid, request_digest
from foundation.plain_text import PlainLine
from trainers.contract.spec import Contract, JobSpec


class RerunRequest(Contract):
    """What shall differ; an empty one is a clone."""

    name: PlainLine | None = Field(None, min_length=1, max_length=200)
    params: dict[str, Any] = Field({})
    """Laid over the job's, key by key; null takes one out, so that its default holds."""
    dataset: str | None = None
    """name or name@version; left out: the very version that the job read."""
    further_datasets: list[str] | None = Field(None, max_length=MAX_DATASETS)
    """Read after it, in this order."""
    class_dataset: str | None = None
    """Images of the class, for prior preservation."""
    model: str | None = None
    adaptors: list[str] | None = None
    resources: dict[str, Any] | None = None
    """Laid over the job's, key by key."""
    pool: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")
    priority: int | None = Field(None, ge=-1000, le=1000)


def job_rerun(*, parent: Job, request: RerunRequest, by: str, idempotency_key: str | None = None) -> tuple[Job, bool]:
    """Returns the new queued job, whose `parent` is the old one, and whether it is new. Raises as `job_create` does.

    409 if an input was deleted meanwhile and the request names no other.
    """
    digest = request_digest(request, context=f"rerun of {parent.pk}")
    key = SubmitKey(parent.project, by, idempotency_key, digest)
    return job_enqueue(key=key, resolve=lambda: _resolve(parent, request))


def _resolve(parent: Job, request: RerunRequest) -> JobDraft:
    spec, pool = parent.spec, request.pool or parent.pool
    params = params_laid(spec["params"], request.params)
    resources = {} if devices_named(parent.method, request.params) else spec["resources"]
    changed = {
        "name": request.name or spec["name"],
        "params": params,
        "inputs": {**spec["inputs"], **_changed_inputs(parent, request)},
        "resources": resources_for(
            parent.method, params, {**resources, **(request.resources or {})}, lambda: accelerators_default(pool)
        ),
    }
    return JobDraft(
        spec=JobSpec.model_validate({**spec, **changed}),
        pool=pool,
        priority=parent.priority if request.priority is None else request.priority,
        template=parent.template,
        template_version=parent.template_version,
        parent=parent,
    )


def _changed_inputs(parent: Job, request: RerunRequest) -> dict[str, Any]:
    """Those that the request names."""
    refs = {role: ref for role in INPUT_ROLES if (ref := getattr(request, role)) is not None}
    resolved = resolve_inputs(parent.project, **refs)
    return {role: getattr(resolved, role) for role in refs}
