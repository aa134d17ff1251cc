"""What goes while a job runs: checkpoints over `keep_checkpoints`, and pieces of files that are whole now."""

from django.db import transaction

from api.catalog.removals import removal_add
from api.jobs.models import Artifact, Attempt, Job
from foundation.live_files import LIVE


def checkpoints_prune(*, job: Job) -> int:
    """How many went. The row goes before its files, so that nobody resumes from what is half there.

    What a live attempt may still be fetching stays.
    """
    keep = int(job.spec["params"].get("keep_checkpoints", 1))
    rows = Artifact.objects.filter(job=job, kind=Artifact.Kind.CHECKPOINT).select_related("attempt")
    fetched = set(Attempt.objects.filter(job=job, ended_at=None).values_list("checkpoint", flat=True))
    damaged = [*rows.exclude(damaged="")]
    old = [row for row in (*rows.filter(damaged="").order_by("-id")[keep:], *damaged) if row.pk not in fetched]
    for row in old:
        _forget(row)
    return len(old)


@transaction.atomic
def pieces_prune(*, attempt: Attempt) -> None:
    """The pieces of files that were still written; to be called when the whole files are published."""
    removal_add(prefix=f"{attempt.prefix}/{LIVE}/")
    Artifact.objects.filter(attempt=attempt, path__startswith=f"{LIVE}/").delete()


@transaction.atomic
def _forget(row: Artifact) -> None:
    """The files go after the commit, by the sweep."""
    removal_add(prefix=f"{row.attempt.prefix}/{row.path}/")
    row.delete()
