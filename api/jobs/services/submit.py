"""A request, or the repetition of a job, becomes a queued job: find by key, resolve, check, insert."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from django.db import IntegrityError, transaction
from pydantic import BaseModel, Field

from api.accounts.models import Project
from api.audit.clock import now
from api.audit.models import audit_add
from api.catalog.devices import devices_named, resources_for
from api.catalog.models import TemplateVersion
from api.catalog.selectors import named_files_check, resolve_inputs, template_version
from api.catalog.templates.schemas import INPUT_ROLES, MAX_DATASETS
from api.environment import environment
from api.errors import Problem
from api.jobs import queue
from api.jobs.models import Job
from api.jobs.placement import accelerators_default, needs_text
from api.jobs.services.inputs import inputs_record, secrets_check
from api.jobs.transitions import event_add
from foundation.plain_text import PlainLine
from trainers.contract.params import params_class
from trainers.contract.params.base import Params
from trainers.contract.spec import Contract, JobSpec, canonical_json

MAX_KEY = 200
"""Characters of an Idempotency-Key."""
PREVIEW_METHOD = "inspect_dataset"
PREVIEWED_METHODS = get_args(params_class(PREVIEW_METHOD).model_fields["template_method"].annotation)


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


class PreviewRequest(Contract):
    """What is given here wins over the template."""

    params: dict[str, Any] = Field({})
    """Laid over the template's, key by key; null takes one out."""
    dataset: str | None = None
    """name or name@version"""
    model: str | None = None
    num_rows: int = Field(8, ge=1, le=64)
    """How many samples are shown."""
    pool: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")


def job_create(
    *, project: Project, request: JobRequest, by: str, idempotency_key: str | None = None
) -> tuple[Job, bool]:
    """Returns the queued job and whether it is new. The same key returns the same job. Raises ValueError for an invalid
    request."""
    key = SubmitKey(project, by, idempotency_key, request_digest(request))
    return job_enqueue(key=key, resolve=lambda: _resolve(project, request))


def preview_create(*, project: Project, template: str, request: PreviewRequest, by: str) -> Job:
    """Returns the queued job, which needs no accelerator. Raises Problem if the template's method reads no dataset."""
    content = template_version(project, template, "name").content
    if content["method"] not in PREVIEWED_METHODS:
        message = f"a template of {content['method']} has no preview; those of {', '.join(PREVIEWED_METHODS)} have"
        raise Problem("invalid", f"name: {message}.", fields={"name": [message]})
    job_request = JobRequest(
        name=f"preview of {template}",
        method=PREVIEW_METHOD,
        params={
            "template_method": content["method"],
            "template_params": params_laid(content["params"], request.params),
            "num_rows": request.num_rows,
        },
        dataset=request.dataset or content["dataset"],
        further_datasets=[] if request.dataset else content.get("further_datasets"),
        model=request.model or content["model"],
        resources={"accelerators": 0},
        pool=request.pool or content["pool"],
    )
    return job_create(project=project, request=job_request, by=by)[0]


@dataclass(frozen=True)
class SubmitKey:
    """Who submits, and the key that identifies a repeated request."""

    project: Project
    by: str
    key: str | None
    digest: str
    """Of the complete request."""


@dataclass(frozen=True)
class JobDraft:
    """A job before its row exists: what will run, and what it was derived from."""

    spec: JobSpec
    pool: str
    priority: int
    template: str = ""
    """name@version"""
    template_version: TemplateVersion | None = None
    parent: Job | None = None


def request_digest(request: BaseModel, context: str = "") -> str:
    """`context`: what identifies the request beside its body, such as the job that it repeats."""
    return hashlib.sha256(context.encode() + canonical_json(request.model_dump(mode="json"))).hexdigest()


def job_enqueue(*, key: SubmitKey, resolve: Callable[[], JobDraft]) -> tuple[Job, bool]:
    """Returns the queued job and whether it is new. The same key returns the same job; `resolve` runs only for a new
    one.

    Raises Problem 409 if the key belongs to another request, ValueError if it is too long.
    """
    if key.key and len(key.key) > MAX_KEY:
        raise ValueError(f"Idempotency-Key has {len(key.key)} characters; at most {MAX_KEY} are allowed")
    if existing := _find_by_key(key):
        return existing, False
    draft = resolve()
    _check(key.project, draft)
    try:
        return _insert(key, draft), True
    except IntegrityError:
        if existing := _find_by_key(key):
            return existing, False
        raise


def params_laid(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`override` over `base`, key by key; null removes a key. (No nullable parameter has a default other than null.)"""
    return {name: value for name, value in {**base, **override}.items() if value is not None}


def _find_by_key(key: SubmitKey) -> Job | None:
    if not key.key:
        return None
    job = Job.objects.filter(project=key.project, idempotency_key=key.key).first()
    if job and job.request_digest != key.digest:
        raise Problem(
            "idempotency_key_reused",
            f"The key {key.key!r} already belongs to another request: job {job.pk}.",
            status=409,
            hint="Use a new Idempotency-Key for a new request.",
        )
    return job


def _resolve(project: Project, request: JobRequest) -> JobDraft:
    """The draft that the request stands for now. Raises Problem with the fields that are invalid."""
    template = template_version(project, request.template) if request.template is not None else None
    complete = _with_template(request, template) if template else request
    pool = complete.pool or "default"
    return JobDraft(
        spec=_spec(project, complete, pool),
        pool=pool,
        priority=complete.priority or 0,
        template=str(template or ""),
        template_version=template,
    )


def _with_template(request: JobRequest, template: TemplateVersion) -> JobRequest:
    base = {"name": template.template.name, **template.content}
    override = {
        key: value for key, value in request.model_dump(exclude={"template", "params"}).items() if value is not None
    }
    params = params_laid(base["params"], request.params)
    if request.method not in (None, base["method"]):
        params = request.params
    return JobRequest.model_validate({**base, **override, "params": params})


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


def _check(project: Project, draft: JobDraft) -> None:
    """Raises Problem if the parameters name a secret or a Hub that the job may not use, or a file that does not
    exist."""
    secrets_check(project, draft.spec.params)
    hub_check(draft.spec.params)
    named_files_check(draft.spec)


def hub_check(params: Params) -> None:
    """Raises Problem for a Hub that the operator did not list. The trainer's guard checks each connection."""
    endpoint = params.hub()
    allowed = environment().hubs
    if endpoint is None or endpoint in allowed or not params.connects():
        return
    message = f"{endpoint!r:.200} is not among the Hubs of this installation: {', '.join(allowed) or 'none'}"
    hint = "The operator lists Hubs in ANNEAL_HUB_ENDPOINTS."
    raise Problem("hub_not_allowed", f"params.endpoint: {message}.", hint=hint, fields={"params.endpoint": [message]})


@transaction.atomic
def _insert(key: SubmitKey, draft: JobDraft) -> Job:
    at, spec = now(), draft.spec
    job = Job.objects.create(
        project=key.project,
        name=spec.name,
        method=spec.method,
        pool=draft.pool,
        priority=draft.priority,
        accelerators=spec.resources.num_accelerators,
        needs=needs_text(spec.resources),
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        warnings=spec.params.warnings(),
        actor=key.by,
        idempotency_key=key.key or None,
        request_digest=key.digest,
        template=draft.template,
        template_version=draft.template_version,
        parent=draft.parent,
        created=at,
        queued_at=at,
    )
    inputs_record(job=job, inputs=spec.inputs)
    event_add(job=job, kind="state", data={"state": job.state, "reason": None}, at=at)
    data = {"digest": job.spec_digest, "template": job.template, "parent": str(job.parent_id or "")}
    audit_add(actor=job.actor, kind="job_created", object=f"job:{job.pk}", project_id=job.project_id, at=at, data=data)
    transaction.on_commit(lambda: queue.wake(job.pool))
    return job


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
    return job_enqueue(key=key, resolve=lambda: _rerun_resolve(parent, request))


def _rerun_resolve(parent: Job, request: RerunRequest) -> JobDraft:
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
