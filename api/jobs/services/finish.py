"""The end that an agent reports: results, end of the attempt and end of the job in one idempotent transaction."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from django.db import transaction
from pydantic import Field, field_validator

from api.audit.clock import now
from api.catalog.adaptors.services import adaptor_publish
from api.catalog.models import KINDS
from api.catalog.versions.create import AnyVersion, version_from_files
from api.errors import Problem
from api.jobs.models import Attempt, Job, Manifest
from api.jobs.schemas import Incoming
from api.jobs.selectors import params_of
from api.jobs.services.attempt_lifecycle import attempt_end, ended_problem
from api.jobs.services.files import File, files_missing
from api.jobs.states import Outcome, State, Stop
from api.jobs.transitions import event_add, job_lock
from trainers.contract.errors import Reason, ReasonCode
from trainers.contract.errors import reason as reason_of
from trainers.contract.params.base import Product
from trainers.contract.spec import MAX_INT, canonical_json

WITH_MANIFEST = ("succeeded", "stopped")
REASON_CODES = {code.value for code in ReasonCode}


class Finish(Incoming):
    outcome: Literal["succeeded", "failed", "stopped", "drained", "lost"]
    exit_code: int | None = Field(None, ge=-MAX_INT, le=MAX_INT)
    reason: Reason | None = None
    manifest: dict[str, Any] | None = None
    files: list[File] = Field([], max_length=10_000)
    """Files that the attempt uploaded and the manifest names, paths relative to `out/`."""
    last_step: int | None = Field(None, ge=0, le=MAX_INT)
    resends: bool = False
    """The agent still has the files: 409 file_missing names the missing ones and the agent uploads them again."""

    @field_validator("reason", mode="before")
    @classmethod
    def _unknown_code_is_internal(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("code") not in REASON_CODES:
            return {**value, "code": ReasonCode.INTERNAL}
        return value

    def digest(self) -> str:
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude={"resends"}))).hexdigest()


def attempt_finish(*, attempt: Attempt, finish: Finish) -> Attempt:
    """Records the end. Idempotent. Raises Problem: 410 for a different finish, 409 file_missing.

    A `succeeded` whose manifest is incomplete is recorded as failed: exit code 0 alone is no success.
    """
    if attempt.ended_at is not None:
        return _repeated(attempt, finish)
    fault = _manifest_fault(attempt, finish)
    if fault is None and finish.outcome in WITH_MANIFEST and (missing := files_missing(attempt, finish.files)):
        fault = "; ".join(list(missing.values())[:5])
        if finish.resends:
            problem = f"{len(missing)} of {len(finish.files)} files are missing or incomplete: {fault}."
            fields: dict[str, list[Any]] = {"missing": list(missing)}
            raise Problem("file_missing", problem, status=409, hint="Upload them again.", fields=fields)
    return _record(attempt.pk, finish, fault, _checkpoint_damage(attempt, finish))


@transaction.atomic
def _record(attempt_id: Any, finish: Finish, fault: str | None, damage: str | None) -> Attempt:
    job = job_lock(Attempt.objects.values_list("job", flat=True).get(pk=attempt_id))
    attempt = Attempt.objects.select_for_update().get(pk=attempt_id)
    if attempt.ended_at is not None:
        return _repeated(attempt, finish)
    fault = fault or _adaptor_refusal(job, attempt, finish) or _version_refusal(job, attempt, finish)
    outcome, reason = _verdict(finish, fault, Stop(job.stop_requested))
    if damage:
        reason = reason_of(ReasonCode.CHECKPOINT_DAMAGED, damage, reason.message if reason else "")
    columns: dict[str, Any] = {"exit_code": finish.exit_code, "finish_digest": finish.digest()}
    columns |= {"last_step": attempt.last_step if finish.last_step is None else finish.last_step}
    by = f"attempt:{attempt.pk}"
    attempt_end(job=job, attempt=attempt, outcome=outcome, reason=reason, by=by, at=now(), **columns)
    if finish.manifest is not None:
        Manifest.objects.update_or_create(attempt=attempt, defaults={"data": finish.manifest})
    attempt.refresh_from_db()
    return attempt


def _adaptor_refusal(job: Job, attempt: Attempt, finish: Finish) -> str | None:
    """Publishes the adaptor of a complete result, as partial if the job was stopped; or why the catalog refused it."""
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
    """Creates versions of a complete result. Returns why the catalog refused one. A stopped job leaves none."""
    if finish.manifest is None or finish.outcome != "succeeded":
        return None
    files = [file.model_dump(mode="json") for file in finish.files]
    common: dict[str, Any] = {"job": job, "attempt": attempt, "manifest": finish.manifest, "files": files, "at": now()}
    try:
        with transaction.atomic():
            for product in products(job):
                if product in KIND_OF_PRODUCT:
                    version_publish(product=product, **common)
    except ValueError as error:
        return str(error)
    return None


def _repeated(attempt: Attempt, finish: Finish) -> Attempt:
    assert attempt.ended_at is not None
    if attempt.finish_digest != finish.digest():
        raise ended_problem(attempt.ended_at, attempt.outcome)
    return attempt


def _verdict(finish: Finish, fault: str | None, stop: Stop) -> tuple[Outcome, Reason | None]:
    match finish.outcome:
        case "succeeded" if fault:
            return Outcome.FAILED, reason_of(ReasonCode.NO_MANIFEST, detail=fault)
        case "succeeded":
            return Outcome.SUCCEEDED, None
        case "failed":
            message = f"The trainer failed with exit code {finish.exit_code}."
            return Outcome.FAILED, finish.reason or reason_of(ReasonCode.INTERNAL, message)
        case "stopped" if stop:
            code = ReasonCode.CANCELLED if stop == Stop.CANCEL else ReasonCode.PAUSED
            return Outcome.STOPPED, finish.reason or reason_of(code)
        case "stopped":
            return Outcome.PREEMPTED, finish.reason or reason_of(ReasonCode.PREEMPTED)
        case "drained":
            return Outcome.PREEMPTED, finish.reason or reason_of(ReasonCode.DRAINED)
        case "lost":
            return Outcome.LOST, finish.reason or reason_of(ReasonCode.WORKER_LOST)


def _manifest_fault(attempt: Attempt, finish: Finish) -> str | None:
    """What makes the manifest incomplete; None if nothing does, and for outcomes that need none."""
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
    """Why the checkpoint of an attempt that failed before its trainer started cannot be read: the worker cannot tell a
    missing file from a storage that refuses it. None while the storage does not answer."""
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
    """Folders that must hold a file, each with a trailing slash; a stopped job need not leave a version."""
    required = ("adaptor", *(KIND_OF_PRODUCT if finish.outcome == "succeeded" else ()))
    return [f"{product}/" for product in products(job) if product in required]


KIND_OF_PRODUCT: dict[Product, str] = {"dataset": "datasets", "model": "models"}
"""Products that become a version; each is in the folder of its name below out/."""
COMMIT = re.compile(r"[0-9a-f]{40}")


def products(job: Job) -> tuple[Product, ...]:
    """What the job leaves once it has succeeded."""
    return params_of(job).products()


def version_publish(
    *,
    product: Product,
    job: Job,
    attempt: Attempt,
    manifest: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    at: datetime,
) -> AnyVersion:
    """Returns the version, `checking` or an existing one with the same content, and adds an event that names it.

    `files`: [{path, size, sha256}] below the attempt's prefix. Call within the transaction of the finish.
    """
    kind, params = KIND_OF_PRODUCT[product], params_of(job)
    record, _ = KINDS[kind][0].objects.get_or_create(project_id=job.project_id, name=params.product_name)
    product_files = [
        {**file, "path": file["path"].removeprefix(f"{product}/")}
        for file in files
        if file["path"].startswith(f"{product}/")
    ]
    source = _method_source(job) if params.requires else {}
    if hub_source := params.hub_source():
        source |= _hub_source(job, manifest, hub_source)
    key = f"{attempt.prefix}/{product}"
    version = version_from_files(record=record, key=key, files=product_files, source=source, by=job.actor)
    data = {"kind": kind, "name": record.name, "version": version.version, "state": version.state, "source": source}
    event_add(job=job, kind="version", data=data, at=at, attempt=attempt)
    return version


def _hub_source(job: Job, manifest: Mapping[str, Any], requested: Mapping[str, str]) -> dict[str, Any]:
    """Where the files came from: by the job's parameters, except for the commit, which the trainer resolved."""
    source = manifest.get("source")
    commit = source.get("commit") if isinstance(source, Mapping) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise ValueError(f"the manifest's source.commit must be 40 hexadecimal digits, got {commit!r:.60}")
    return {**requested, "commit": commit, "job": str(job.pk)}


def _method_source(job: Job) -> dict[str, Any]:
    """The method and its inputs, by name@version."""
    inputs = job.spec["inputs"]
    datasets = [inputs.get("dataset"), *inputs.get("further_datasets", [])]
    refs_by_role = {"model": [inputs.get("model")], "adaptors": inputs.get("adaptors", []), "datasets": datasets}
    used = {role: [ref["name"] for ref in refs if ref] for role, refs in refs_by_role.items()}
    return {"method": job.method, "job": str(job.pk), **{role: names for role, names in used.items() if names}}
