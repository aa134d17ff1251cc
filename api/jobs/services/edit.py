"""What may be changed of a job that is there: its place in the queue, and what people write beside it."""

from typing import Annotated, Any

from django.db import transaction
from pydantic import Field, StringConstraints

from api.audit.clock import now
from api.audit.services import audit_add
from api.errors import Problem
from api.jobs.models import Job, JobLabel, State
from api.jobs.transitions import job_lock
from foundation.plain_text import PlainText
from trainers.contract.spec import Contract

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,49}$")]


class JobEdit(Contract):
    """What is left out stays."""

    priority: int | None = Field(None, ge=-1000, le=1000)
    """Higher goes first; while the job is queued."""
    notes: PlainText | None = Field(None, max_length=10_000)
    labels: list[Label] | None = Field(None, max_length=20)
    """All of them: those that are not named go."""


@transaction.atomic
def job_edit(*, job_id: Any, edit: JobEdit, by: str) -> Job:
    """Raises Problem 409 for another priority of a job that is no longer queued."""
    job = job_lock(job_id)
    told = {name: value for name, value in edit.model_dump(exclude_none=True).items() if name != "notes"}
    if edit.priority not in (None, job.priority):
        _require_queued(job)
        job.priority = edit.priority
    if edit.notes is not None:
        job.notes = edit.notes
    job.save(update_fields=["priority", "notes"])
    if edit.labels is not None:
        job.labels.all().delete()
        JobLabel.objects.bulk_create(JobLabel(job=job, name=name) for name in sorted(set(edit.labels)))
    about = f"job:{job.pk}"
    audit_add(actor=by, kind="job_edited", object=about, project_id=job.project_id, at=now(), data=told)
    return job


def _require_queued(job: Job) -> None:
    if job.state != State.QUEUED:
        said = f"Job {job.name} is {job.state}; its priority counts only while it is queued."
        raise Problem("job_state", said, status=409, fields={"state": [job.state]})
