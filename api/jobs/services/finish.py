"""The end that an agent reports: adaptor row, attempt's end and job's end in one transaction, repeatable."""

import hashlib
from typing import Any, Literal

from django.db import transaction
from pydantic import Field, field_validator

from api.audit.clock import now
from api.catalog.adaptors.services import adaptor_publish
from api.errors import Problem
from api.jobs.agent.incoming import Incoming
from api.jobs.models import Attempt, Job, Manifest, Outcome, State, Stop
from api.jobs.services.attempt import ended_problem
from api.jobs.services.ending import attempt_end
from api.jobs.services.files import File, files_missing
from api.jobs.services.job_outputs import KIND_OF_PRODUCT, products, version_publish
from api.jobs.transitions import job_lock
from trainers.contract.errors import Reason, ReasonCode
from trainers.contract.errors import reason as reason_of
from trainers.contract.spec import MAX_INT, canonical_json

WITH_MANIFEST = ("succeeded", "stopped")
REASON_CODES = {code.value for code in ReasonCode}


class Finish(Incoming):
    outcome: Literal["succeeded", "failed", "stopped", "drained", "lost"]
    exit_code: int | None = Field(None, ge=-MAX_INT, le=MAX_INT)
    reason: Reason | None = None
    manifest: dict[str, Any] | None = None
    files: list[File] = Field([], max_length=10_000)
    """All that the attempt uploaded and the manifest names, paths relative to `out/`."""
    last_step: int | None = Field(None, ge=0, le=MAX_INT)
    resends: bool = False
    """The agent still has the files: it is told which are missing (409 file_missing) and sends them again."""

    @field_validator("reason", mode="before")
    @classmethod
    def _code_of_a_newer_worker(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("code") not in REASON_CODES:
            return {**value, "code": ReasonCode.INTERNAL}
        return value

    def digest(self) -> str:
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude={"resends"}))).hexdigest()


def attempt_finish(*, attempt: Attempt, finish: Finish) -> Attempt:
    """Records the end. The same finish again changes nothing. Raises Problem: 410 for another one, 409 file_missing.

    A `succeeded` whose manifest is not whole is recorded as failed: exit code 0 alone is no success.
    """
    if attempt.ended_at is not None:
        return _again(attempt, finish)
    gap = _manifest_gap(attempt, finish)
    if gap is None and finish.outcome in WITH_MANIFEST and (missing := files_missing(attempt, finish.files)):
        gap = "; ".join(list(missing.values())[:5])
        if finish.resends:
            problem = f"{len(missing)} of {len(finish.files)} files are not there whole: {gap}."
            fields: dict[str, list[Any]] = {"missing": list(missing)}
            raise Problem("file_missing", problem, status=409, hint="Upload them again.", fields=fields)
    return _record(attempt.pk, finish, gap, _checkpoint_damage(attempt, finish))


@transaction.atomic
def _record(attempt_id: Any, finish: Finish, gap: str | None, damage: str | None) -> Attempt:
    job = job_lock(Attempt.objects.values_list("job", flat=True).get(pk=attempt_id))
    attempt = Attempt.objects.select_for_update().get(pk=attempt_id)
    if attempt.ended_at is not None:
        return _again(attempt, finish)
    gap = gap or _adaptor_refusal(job, attempt, finish) or _version_refusal(job, attempt, finish)
    outcome, reason = _judge(finish, gap, Stop(job.stop_requested))
    if damage:
        reason = reason_of(ReasonCode.CHECKPOINT_DAMAGED, damage, reason.message if reason else "")
    told = {"exit_code": finish.exit_code, "finish_digest": finish.digest()}
    told |= {"last_step": attempt.last_step if finish.last_step is None else finish.last_step}
    by = f"attempt:{attempt.pk}"
    attempt_end(job=job, attempt=attempt, outcome=outcome, reason=reason, by=by, at=now(), **told)
    if finish.manifest is not None:
        Manifest.objects.update_or_create(attempt=attempt, defaults={"data": finish.manifest})
    attempt.refresh_from_db()
    return attempt


def _adaptor_refusal(job: Job, attempt: Attempt, finish: Finish) -> str | None:
    """Publishes the adaptor of a whole result, partial where the job was stopped; or why the catalog refused it."""
    if finish.manifest is None or "adaptor" not in products(job) or finish.outcome not in WITH_MANIFEST:
        return None
    files = [file.model_dump(mode="json") for file in finish.files]
    partial = finish.outcome == "stopped"
    if partial and not job.stop_requested:
        return None
    try:
        with transaction.atomic():
            adaptor_publish(job=job, attempt=attempt, manifest=finish.manifest, files=files, partial=partial)
    except Problem as problem:
        return problem.message
    return None


def _version_refusal(job: Job, attempt: Attempt, finish: Finish) -> str | None:
    """Makes versions of a whole result; or why the catalog refused one. A stopped job leaves none."""
    if finish.manifest is None or finish.outcome != "succeeded":
        return None
    files = [file.model_dump(mode="json") for file in finish.files]
    told: dict[str, Any] = {"job": job, "attempt": attempt, "manifest": finish.manifest, "files": files, "at": now()}
    try:
        with transaction.atomic():
            for product in products(job):
                if product in KIND_OF_PRODUCT:
                    version_publish(product=product, **told)
    except ValueError as error:
        return str(error)
    return None


def _again(attempt: Attempt, finish: Finish) -> Attempt:
    assert attempt.ended_at is not None
    if attempt.finish_digest != finish.digest():
        raise ended_problem(attempt.ended_at, attempt.outcome)
    return attempt


def _judge(finish: Finish, gap: str | None, wanted: Stop) -> tuple[Outcome, Reason | None]:
    match finish.outcome:
        case "succeeded" if gap:
            return Outcome.FAILED, reason_of(ReasonCode.NO_MANIFEST, detail=gap)
        case "succeeded":
            return Outcome.SUCCEEDED, None
        case "failed":
            said = f"The trainer failed with exit code {finish.exit_code}."
            return Outcome.FAILED, finish.reason or reason_of(ReasonCode.INTERNAL, said)
        case "stopped" if wanted:
            code = ReasonCode.CANCELLED if wanted == Stop.CANCEL else ReasonCode.PAUSED
            return Outcome.STOPPED, finish.reason or reason_of(code)
        case "stopped":
            return Outcome.PREEMPTED, finish.reason or reason_of(ReasonCode.PREEMPTED)
        case "drained":
            return Outcome.PREEMPTED, finish.reason or reason_of(ReasonCode.DRAINED)
        case "lost":
            return Outcome.LOST, finish.reason or reason_of(ReasonCode.WORKER_LOST)


def _manifest_gap(attempt: Attempt, finish: Finish) -> str | None:
    """What keeps the manifest from being whole; None when it is, and for ends that need none."""
    if finish.outcome not in WITH_MANIFEST:
        return None
    manifest = finish.manifest
    if manifest is None:
        return "there is no manifest"
    if manifest.get("outcome") != finish.outcome:
        return f"the manifest says outcome={manifest.get('outcome')!r}, the agent {finish.outcome!r}"
    if manifest.get("spec_digest", attempt.job.spec_digest) != attempt.job.spec_digest:
        return "the manifest belongs to another spec"
    sent = {(file.path, file.size, file.sha256) for file in finish.files}
    try:
        named = {(file["path"], file["size"], file["sha256"]) for file in manifest.get("files", [])}
    except (KeyError, TypeError) as error:
        return f"the manifest's list of files cannot be read: {error!r}"
    if unsent := sorted(path for path, _, _ in named - sent):
        return f"the manifest names files that were not sent: {', '.join(unsent[:5])}"
    for folder in _folders(attempt.job, finish):
        if not any(file.path.startswith(folder) for file in finish.files):
            return f"there is no file below {folder}"
    return None


def _checkpoint_damage(attempt: Attempt, finish: Finish) -> str | None:
    """Why the checkpoint that the attempt was given cannot be read, where it failed before its trainer started: the
    worker cannot tell a missing file from a storage that refuses it. None while the storage does not answer."""
    checkpoint, reason = attempt.checkpoint, finish.reason
    if checkpoint is None or reason is None or attempt.job.state != State.CLAIMED:
        return None
    if finish.outcome != "failed" or reason.code not in (ReasonCode.STORAGE_REFUSED, ReasonCode.INPUT_CORRUPT):
        return None
    try:
        missing = files_missing(checkpoint.attempt, [File.model_validate(file) for file in checkpoint.files])
    except OSError:
        return None
    return f"{'; '.join(list(missing.values())[:3])}." if missing else None


def _folders(job: Job, finish: Finish) -> list[str]:
    """Where each product must lie, with a slash at its end; a stopped job owes no version."""
    owed = ("adaptor", *(KIND_OF_PRODUCT if finish.outcome == "succeeded" else ()))
    return [f"{product}/" for product in products(job) if product in owed]
