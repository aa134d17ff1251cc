"""Files of an attempt: signed links to upload them, the rows that publish them, and the pruning of old ones."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from pydantic import ConfigDict, Field

from api.audit.clock import now
from api.catalog.removals import removal_add
from api.errors import Problem
from api.jobs.models import Artifact, Attempt, Job
from api.jobs.schemas import Incoming
from api.jobs.selectors import params_stored
from api.jobs.services.attempt_lifecycle import live_lock, require_live
from api.jobs.transitions import event_add, job_audit
from api.storage import in_parallel, storage
from api.upload_links import Parts, UploadLinkShape, links_check, parts_join, upload_link
from foundation.protocol import LIVE
from storage.base import key_check
from trainers.contract.spec import MAX_FILE_BYTES, MAX_INT, Sha256, folder_digest

MAX_FILES = 1000


class File(Incoming):
    path: str = Field(min_length=1, max_length=500)
    """Relative to the trainer's `out/`."""
    size: int = Field(ge=0, le=MAX_FILE_BYTES)
    sha256: Sha256


class FileToSend(File):
    upload_id: str | None = Field(None, min_length=1, max_length=1024)
    """Of an upload in parts that is open, to get fresh links for it."""


class Uploads(Incoming):
    files: list[FileToSend] = Field(min_length=1, max_length=MAX_FILES)


class Joining(Parts):
    model_config = ConfigDict(extra="ignore")

    size: int = Field(ge=0, le=MAX_FILE_BYTES)
    sha256: Sha256


class Publication(Incoming):
    kind: Artifact.Kind
    step: int | None = Field(None, ge=0, le=MAX_INT)
    path: str = Field(min_length=1, max_length=500)
    files: list[File] = Field(min_length=1, max_length=MAX_FILES)
    details: dict[str, Any] = Field({})


def uploads_grant(*, attempt: Attempt, uploads: Uploads) -> list[UploadLinkShape]:
    """Signed PUTs below the attempt's prefix, parts for large files; neither for a file that is already stored."""
    require_live(attempt)
    _require_unpublished(attempt, uploads.files)
    links_check([file.model_dump() for file in uploads.files])
    return in_parallel(lambda file: _grant(attempt, file), uploads.files)


def upload_join(*, attempt: Attempt, joining: Joining) -> File:
    """Joins the uploaded parts into one file. Idempotent. Raises Problem(409)."""
    require_live(attempt)
    file = File(path=joining.path, size=joining.size, sha256=joining.sha256)
    _require_unpublished(attempt, [file])
    parts = Parts(path=joining.path, upload_id=joining.upload_id, etags=joining.etags)
    parts_join(file_key(attempt, file.path), file.model_dump(), parts)
    return file


def artifact_publish(*, attempt: Attempt, publication: Publication) -> Artifact:
    """Publishes uploaded files as an artifact. Raises Problem(409) for a file that is missing or incomplete."""
    require_live(attempt)
    _require_below(publication)
    if missing := files_missing(attempt, publication.files):
        raise Problem(
            "file_missing",
            f"{len(missing)} of {len(publication.files)} files are missing or incomplete: "
            f"{'; '.join(list(missing.values())[:5])}.",
            status=409,
            hint="Upload them again.",
        )
    artifact = _publish(attempt.pk, publication)
    if artifact.kind == Artifact.Kind.CHECKPOINT:
        checkpoints_prune(job=attempt.job)
    if artifact.kind == Artifact.Kind.TENSORBOARD and not artifact.path.startswith(f"{LIVE}/"):
        pieces_prune(attempt=attempt)
    return artifact


def files_missing(attempt: Attempt, files: list[File]) -> dict[str, str]:
    """By path: what is wrong with each file that is not stored with its size and digest."""
    faults = in_parallel(lambda file: _fault(attempt, file), files)
    return {file.path: f"{file.path}: {fault}" for file, fault in zip(files, faults, strict=True) if fault}


def _fault(attempt: Attempt, file: File) -> str | None:
    """What is wrong with the stored file; None if it is complete."""
    try:
        stat = storage().stat(file_key(attempt, file.path))
    except FileNotFoundError:
        return "is missing"
    if (stat.size, stat.sha256) != (file.size, file.sha256):
        return f"expected {file.size} bytes with {file.sha256[:12]}, got {stat.size} with {stat.sha256[:12]}"
    return None


def file_key(attempt: Attempt, path: str) -> str:
    """Raises ValueError for a path that leaves the attempt's prefix."""
    return key_check(f"{attempt.prefix}/{path}")


def _grant(attempt: Attempt, file: FileToSend) -> UploadLinkShape:
    key = file_key(attempt, file.path)
    if _fault(attempt, file) is None:
        return UploadLinkShape.existing(file.path)
    return upload_link(key, file.model_dump(), upload_id=file.upload_id)


def _require_unpublished(attempt: Attempt, files: Sequence[File]) -> None:
    """Raises Problem(409) for a path that was published with other content: it must not be overwritten."""
    rows = Artifact.objects.filter(attempt=attempt).values_list("files", flat=True)
    published = {file["path"]: file["sha256"] for row in rows for file in row}
    for file in files:
        if published.get(file.path, file.sha256) != file.sha256:
            message = f"{file.path} was published with SHA-256 {published[file.path]}, got {file.sha256}"
            raise Problem("artifact_differs", f"{message}.", status=409, hint="Send it under another path.")


def _require_below(publication: Publication) -> None:
    for file in publication.files:
        if file.path != publication.path and not file.path.startswith(publication.path + "/"):
            raise ValueError(f"files of the artifact {publication.path!r} must be below it, got {file.path!r}")


@transaction.atomic
def _publish(attempt_id: Any, publication: Publication) -> Artifact:
    job, attempt = live_lock(attempt_id)
    files = [file.model_dump(mode="json") for file in publication.files]
    digest = folder_digest(files)
    existing = Artifact.objects.filter(attempt=attempt, kind=publication.kind, path=publication.path).first()
    if existing and existing.sha256 != digest:
        message = f"{publication.kind} {publication.path} was published with another content."
        raise Problem("artifact_differs", message, status=409)
    if existing:
        return existing
    at = now()
    artifact = Artifact.objects.create(
        job=job,
        attempt=attempt,
        kind=publication.kind,
        step=publication.step,
        path=publication.path,
        files=files,
        sha256=digest,
        size_bytes=sum(file.size for file in publication.files),
        details=publication.details,
        created=at,
    )
    data = {"artifact": artifact.pk, "kind": artifact.kind, "step": artifact.step, "path": artifact.path}
    if not artifact.path.startswith(f"{LIVE}/"):
        event_add(job=job, kind="artifact", data=data, at=at, attempt=attempt)
    if artifact.kind == Artifact.Kind.CHECKPOINT:
        _resume_from(job, artifact)
        job_audit(job=job, kind="checkpoint_published", by=f"attempt:{attempt.pk}", at=at, data=data)
    return artifact


def _resume_from(job: Job, artifact: Artifact) -> None:
    """The next attempt starts here; losses and failed tries before it no longer count."""
    Job.objects.filter(pk=job.pk).update(checkpoint=artifact, losses_without_checkpoint=0, failed_tries=0)


def checkpoints_prune(*, job: Job) -> int:
    """Removes damaged checkpoints and those beyond `max_checkpoints`, except what a live attempt may be fetching.

    The row goes before its files, so that no job resumes from an incomplete checkpoint. Returns their number.
    """
    num_newest = params_stored(job).max_checkpoints
    rows = Artifact.objects.filter(job=job, kind=Artifact.Kind.CHECKPOINT).select_related("attempt")
    fetched = set(Attempt.objects.filter(job=job, ended_at=None).values_list("checkpoint", flat=True))
    damaged = [*rows.exclude(damaged="")]
    old = [row for row in (*rows.filter(damaged="").order_by("-id")[num_newest:], *damaged) if row.pk not in fetched]
    for row in old:
        _checkpoint_delete(row)
    return len(old)


@transaction.atomic
def pieces_prune(*, attempt: Attempt) -> None:
    """Removes the pieces of files that were still growing; call it once the complete files are published."""
    removal_add(prefix=f"{attempt.prefix}/{LIVE}/")
    Artifact.objects.filter(attempt=attempt, path__startswith=f"{LIVE}/").delete()


@transaction.atomic
def _checkpoint_delete(row: Artifact) -> None:
    """A later sweep removes the files."""
    removal_add(prefix=f"{row.attempt.prefix}/{row.path}/")
    row.delete()
