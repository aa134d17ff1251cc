"""Only the latest checkpoints of a job are kept: as many as its parameter `keep_checkpoints` says."""

import logging

from api.files import storage
from api.jobs.models import Artifact, Attempt, Job

log = logging.getLogger(__name__)


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
        prefix = f"{row.attempt.prefix}/{row.path}/"
        row.delete()
        _delete(prefix)
    return len(old)


def _delete(prefix: str) -> None:
    """Files without a row cost room and nothing else."""
    try:
        storage().delete_prefix(prefix)
    except OSError as error:
        log.warning("old checkpoint %s stays in the storage: %s", prefix, error)
