"""What was asked for becomes the row of a queued job, once for each idempotency key."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from pydantic import BaseModel

from api.accounts.models import Project
from api.audit.clock import now
from api.audit.services import audit_add
from api.catalog.models import TemplateVersion
from api.catalog.named_files import named_files_check
from api.errors import Problem
from api.jobs import queue
from api.jobs.models import Job
from api.jobs.services.accelerators import needs_text
from api.jobs.services.hubs import hub_check
from api.jobs.services.job_inputs import inputs_record
from api.jobs.services.secrets import secrets_check
from api.jobs.transitions import event_add
from trainers.contract.spec import JobSpec, canonical_json

MAX_KEY = 200


@dataclass(frozen=True)
class JobDraft:
    """A job before it is a row: what will be run, and where the wish came from."""

    spec: JobSpec
    pool: str
    priority: int
    template: str = ""
    """name@version"""
    template_version: TemplateVersion | None = None
    parent: Job | None = None


@dataclass(frozen=True)
class SubmitKey:
    """Who asks, and by which key the question is known when it comes again."""

    project: Project
    by: str
    key: str | None
    digest: str
    """Of the whole request."""


def request_digest(request: BaseModel, about: str = "") -> str:
    """`about`: what the request does not say itself, as the job that it repeats."""
    return hashlib.sha256(about.encode() + canonical_json(request.model_dump(mode="json"))).hexdigest()


def job_enqueue(*, asked: SubmitKey, wanted: Callable[[], JobDraft]) -> tuple[Job, bool]:
    """The queued job, and whether it is new: the same key gives the same job. `wanted` is asked only for a new one.

    Raises Problem 409 where the key belongs to another request, ValueError for one that is too long.
    """
    if asked.key and len(asked.key) > MAX_KEY:
        raise ValueError(f"Idempotency-Key has {len(asked.key)} characters; at most {MAX_KEY} are allowed")
    if found := _of_key(asked):
        return found, False
    try:
        return _insert(asked, _allowed(asked.project, wanted())), True
    except IntegrityError:
        if found := _of_key(asked):
            return found, False
        raise


def params_laid(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `below`, key by key; null takes one out. (No parameter has another default where it may be null.)"""
    return {name: value for name, value in {**below, **given}.items() if value is not None}


def _allowed(project: Project, wanted: JobDraft) -> JobDraft:
    """Raises Problem where the parameters name a secret or a Hub that this job may not have, or a file that is none."""
    secrets_check(project, wanted.spec.params)
    hub_check(wanted.spec.params)
    named_files_check(wanted.spec)
    return wanted


@transaction.atomic
def _insert(asked: SubmitKey, wanted: JobDraft) -> Job:
    at, spec = now(), wanted.spec
    job = Job.objects.create(
        project=asked.project,
        name=spec.name,
        method=spec.method,
        pool=wanted.pool,
        priority=wanted.priority,
        accelerators=spec.resources.num_accelerators,
        needs=needs_text(spec.resources),
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        warnings=spec.params.warnings(),
        actor=asked.by,
        idempotency_key=asked.key or None,
        request_digest=asked.digest,
        template=wanted.template,
        template_version=wanted.template_version,
        parent=wanted.parent,
        created=at,
        queued_at=at,
    )
    inputs_record(job=job, inputs=spec.inputs)
    event_add(job=job, kind="state", data={"state": job.state, "reason": None}, at=at)
    told = {"digest": job.spec_digest, "template": job.template, "parent": str(job.parent_id or "")}
    about = f"job:{job.pk}"
    audit_add(actor=job.actor, kind="job_created", object=about, project_id=job.project_id, at=at, data=told)
    transaction.on_commit(lambda: queue.wake(job.pool))
    return job


def _of_key(asked: SubmitKey) -> Job | None:
    if not asked.key:
        return None
    found = Job.objects.filter(project=asked.project, idempotency_key=asked.key).first()
    if found and found.request_digest != asked.digest:
        raise Problem(
            "idempotency_key_reused",
            f"The key {asked.key!r} already belongs to another request: job {found.pk}.",
            status=409,
            hint="Use a new Idempotency-Key for a new request.",
        )
    return found
