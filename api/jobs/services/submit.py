"""A request becomes a queued job."""

import hashlib
from typing import Any

from django.db import IntegrityError, transaction
from pydantic import Field

from api.accounts.models import Project
from api.catalog.selectors import resolve_inputs, template_request
from api.errors import Problem
from api.jobs import queue
from api.jobs.clock import now
from api.jobs.models import Job
from api.jobs.selectors import workers_live
from api.jobs.services.accelerators import needs_text
from api.jobs.transitions import audit_add, event_add
from trainers.spec import Contract, JobSpec, canonical_json

MAX_KEY = 200


class JobRequest(Contract):
    """The body of `POST jobs`: a template, or everything; with both, what is given here wins over the template."""

    template: str | None = None
    """Name of a template."""
    name: str | None = Field(None, min_length=1, max_length=200)
    """For people; the template's or the method's name if left out."""
    method: str | None = None
    params: dict[str, Any] = Field({})
    """Of the method; laid over the template's, key by key."""
    dataset: str | None = None
    """name or name@version"""
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
    if idempotency_key and len(idempotency_key) > MAX_KEY:
        raise ValueError(f"Idempotency-Key has {len(idempotency_key)} characters; at most {MAX_KEY} are allowed")
    digest = hashlib.sha256(canonical_json(request.model_dump(mode="json"))).hexdigest()
    if idempotency_key and (found := _of_key(project, idempotency_key, digest)):
        return found, False
    whole = _with_template(project, request)
    pool = whole.pool or "default"
    spec = _spec(project, whole, pool)
    values = {
        "project": project,
        "pool": pool,
        "priority": whole.priority or 0,
        "actor": by,
        "idempotency_key": idempotency_key or None,
        "request_digest": digest,
    }
    try:
        return _insert(spec, values), True
    except IntegrityError:
        if idempotency_key and (found := _of_key(project, idempotency_key, digest)):
            return found, False
        raise


@transaction.atomic
def _insert(spec: JobSpec, values: dict[str, Any]) -> Job:
    at = now()
    job = Job.objects.create(
        name=spec.name,
        method=spec.method,
        accelerators=spec.resources.num_accelerators,
        needs=needs_text(spec.resources),
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        warnings=spec.params.warnings(),
        created=at,
        queued_at=at,
        **values,
    )
    event_add(job=job, kind="state", data={"state": job.state, "reason": None}, at=at)
    audit_add(
        actor=job.actor,
        kind="job_created",
        object=f"job:{job.pk}",
        project_id=job.project_id,
        at=at,
        data={"digest": job.spec_digest},
    )
    transaction.on_commit(lambda: queue.wake(job.pool))
    return job


def _of_key(project: Project, key: str, digest: str) -> Job | None:
    found = Job.objects.filter(project=project, idempotency_key=key).first()
    if found and found.request_digest != digest:
        raise Problem(
            "idempotency_key_reused",
            f"The key {key!r} already belongs to another request: job {found.pk}.",
            status=409,
            hint="Use a new Idempotency-Key for a new request.",
        )
    return found


def _with_template(project: Project, request: JobRequest) -> JobRequest:
    if request.template is None:
        return request
    base = template_request(project, request.template)
    given = {
        key: value for key, value in request.model_dump(exclude={"template", "params"}).items() if value is not None
    }
    params = {**base.get("params", {}), **request.params}
    if request.method not in (None, base.get("method")):
        params = request.params
    return JobRequest.model_validate({**base, "name": base.get("name") or request.template, **given, "params": params})


def _spec(project: Project, request: JobRequest, pool: str) -> JobSpec:
    if request.method is None:
        raise Problem(
            "invalid", "method: is needed", hint="Name a template or a method.", fields={"method": ["is needed"]}
        )
    inputs = resolve_inputs(project, dataset=request.dataset, model=request.model, adaptors=request.adaptors or [])
    return JobSpec.model_validate(
        {
            "name": request.name or request.method,
            "method": request.method,
            "params": request.params,
            "inputs": inputs,
            "resources": {"accelerators": _default_accelerators(pool), **(request.resources or {})},
        }
    )


def _default_accelerators(pool: str) -> int:
    return 1 if any(worker.accelerators for worker in workers_live(pool)) else 0
