"""A job goes with all that it left. Its files go after the commit, by the sweep."""

from typing import Any

from django.db import transaction

from api.audit.clock import now
from api.audit.services import audit_add
from api.catalog.removals import removal_add
from api.errors import Problem
from api.jobs.models import Job, State
from api.jobs.services.job_outputs import versions_of_job
from api.jobs.transitions import job_lock

ENDED_FOR_GOOD = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@transaction.atomic
def job_delete(*, job_id: Any, by: str) -> None:
    """Raises Problem 409 for a job that has not ended for good, or whose adaptor is still there."""
    job = job_lock(job_id)
    if job.state not in ENDED_FOR_GOOD:
        said = f"Job {job.name} is {job.state}; only an ended one can be deleted."
        raise Problem("job_state", said, status=409, hint="Cancel it first.", fields={"state": [job.state]})
    _require_unused(job)
    removal_add(prefix=f"jobs/{job.pk}/")
    told = {"name": job.name, "method": job.method, "state": job.state}
    about = f"job:{job.pk}"
    audit_add(actor=by, kind="job_deleted", object=about, project_id=job.project_id, at=now(), data=told)
    job.delete()


def _require_unused(job: Job) -> None:
    if made := [str(adaptor) for adaptor in job.adaptors.all()]:
        said = f"Job {job.name} made {', '.join(made)}, which lies among its files."
        raise Problem("in_use", said, status=409, hint="Delete the adaptor first.", fields={"adaptors": [*made]})
    if fetched := [str(version) for version in versions_of_job(job)]:
        said = f"Job {job.name} fetched {', '.join(fetched)}, which lies among its files."
        raise Problem("in_use", said, status=409, hint="Delete the version first.", fields={"versions": [*fetched]})
