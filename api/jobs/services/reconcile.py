"""Compares the storage with the database: objects that no row names are recorded, and removed after a grace period.

They come from attempts that failed before they published, from crashes between a file and its row, and from signed PUTs
that arrive after a delete. Age is counted from the first pass that found an object without a row.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q

from api.audit.clock import now
from api.catalog.models import KINDS, Adaptor, Upload, VersionState
from api.catalog.versions.check_run import files_key, preview_prefix
from api.environment import environment
from api.jobs.models import Artifact, Attempt, LogPiece, Reconciliation, Unreferenced
from api.storage import storage

ROOTS = ("datasets/", "jobs/", "models/")
"""In the order of their keys. Other objects belong to no job and no version."""
CHECK_SUFFIXES = (".files", ".preview")
"""Of the folders that a check creates beside a version's folder."""


@dataclass(frozen=True)
class Pass:
    listed: int
    unreferenced: list[str]
    removed: list[str]
    is_last: bool
    """The end of the storage was reached; the next pass starts from the beginning."""


def reconcile_pass(*, remove: bool, limit: int = 20_000) -> Pass:
    """Checks the next `limit` objects. With `remove`, deletes those that no row has named for `unreferenced_hours`.

    Any number may run at once. Raises OSError where the storage does not answer.
    """
    row, _ = Reconciliation.objects.get_or_create(pk=1)
    listed = dict(islice(_objects_after(row.cursor), limit))
    unreferenced = sorted(set(listed) - keys_referenced(listed))
    is_last = len(listed) < limit
    _note(row.cursor, "" if is_last else max(listed), {key: listed[key] for key in unreferenced})
    removed = _remove(unreferenced) if remove else []
    Reconciliation.objects.filter(pk=1).update(
        cursor="" if is_last else max(listed),
        at=now(),
        removed_objects=F("removed_objects") + len(removed),
        removed_bytes=F("removed_bytes") + sum(listed[key] for key in removed),
    )
    return Pass(len(listed), unreferenced, removed, is_last)


def keys_referenced(keys: Collection[str]) -> set[str]:
    """Those that a row names, or that a live attempt, an open upload or a check may still name."""
    owned: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in keys:
        root, owner, _ = [*key.split("/", 2), "", ""][:3]
        owned[root, owner.removesuffix(CHECK_SUFFIXES[0]).removesuffix(CHECK_SUFFIXES[1])].append(key)
    return {key for (root, owner), owner_keys in owned.items() for key in _of_owner(root, owner, owner_keys)}


def _of_owner(root: str, owner: str, keys: list[str]) -> set[str]:
    try:
        return _of_job(owner, keys) if root == "jobs" else _of_upload(root, owner, keys)
    except ValueError:  # the name is no UUID, so the object is not ours
        return set(keys)


def _of_upload(root: str, owner: str, keys: list[str]) -> set[str]:
    if Upload.objects.filter(pk=_uuid(owner)).exists():
        return set(keys)
    prefix = f"{root}/{owner}"
    versions = KINDS[root][1].objects.filter(key__in=(prefix, files_key(prefix)))
    return _of_versions(versions, keys)


def _of_versions(versions: Any, keys: Collection[str]) -> set[str]:
    referenced: set[str] = set()
    for version in versions:
        files = {f"{version.key}/{file['path']}" for file in version.files}
        prefixes: tuple[str, ...] = (preview_prefix(version.key),)
        if version.state == VersionState.CHECKING:
            prefixes += (f"{version.key}/", f"{files_key(version.key)}/", preview_prefix(files_key(version.key)))
        referenced |= {key for key in keys if key in files or key.startswith(prefixes)}
    return referenced


def _of_job(job: str, keys: list[str]) -> set[str]:
    attempts = {attempt.prefix: attempt for attempt in Attempt.objects.filter(job_id=_uuid(job))}
    referenced = set(LogPiece.objects.filter(attempt__job_id=_uuid(job)).values_list("key", flat=True))
    for artifact in Artifact.objects.filter(job_id=_uuid(job)).select_related("attempt"):
        referenced |= {f"{artifact.attempt.prefix}/{file['path']}" for file in artifact.files}
    for adaptor in Adaptor.objects.filter(key__startswith=f"jobs/{job}/"):
        referenced |= {f"{adaptor.key}/{file['path']}" for file in adaptor.files}
    for _, rows in KINDS.values():
        referenced |= _of_versions(rows.objects.filter(key__startswith=f"jobs/{job}/"), keys)
    return {
        key for key in keys if key in referenced or _may_be_referenced(attempts.get("/".join(key.split("/")[:3])), key)
    }


def _may_be_referenced(attempt: Attempt | None, key: str) -> bool:
    if attempt is None:
        return False
    is_log = key.startswith(f"{attempt.prefix}/log/")
    return attempt.ended_at is None or (is_log and attempt.log_stored < attempt.log_bytes)


def _uuid(text: str) -> UUID:
    """Raises ValueError."""
    return UUID(text)


def _objects_after(cursor: str) -> Iterator[tuple[str, int]]:
    return ((key, size) for root in ROOTS for key, size in storage().list(root) if key > cursor)


@transaction.atomic
def _note(first: str, last: str, unreferenced: dict[str, int]) -> None:
    """Replaces the rows after `first` up to `last` (empty: the end) by `unreferenced`; old rows keep their time."""
    in_range = Q(key__gt=first) & (Q(key__lte=last) if last else Q())
    _forget(set(Unreferenced.objects.filter(in_range).values_list("key", flat=True)) - set(unreferenced))
    at = now()
    rows = (Unreferenced(key=key, size_bytes=size, listed_at=at) for key, size in unreferenced.items())
    Unreferenced.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)


def _remove(keys: Collection[str]) -> list[str]:
    """Deletes those of `keys` whose grace period is over, after another check of the rows: one may name them by now."""
    deadline = now() - timedelta(hours=environment().unreferenced_hours)
    due = set(Unreferenced.objects.filter(listed_at__lt=deadline).values_list("key", flat=True)) & set(keys)
    removed = sorted(due - keys_referenced(due))
    for key in removed:
        storage().delete(key)
    _forget(removed)
    return removed


def _forget(keys: Collection[str]) -> None:
    rest = iter(keys)
    while batch := list(islice(rest, 500)):
        Unreferenced.objects.filter(key__in=batch).delete()
