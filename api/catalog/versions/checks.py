"""Completes versions that are `checking`, in any number of processes; a row whose checker died is taken again."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import Error, IntegrityError, close_old_connections, connection, transaction
from django.db.models import F, Q

from api.audit.clock import now
from api.catalog.models import KINDS
from api.catalog.models import VersionState as State
from api.catalog.versions.check_run import CHECK_FAILED, Checked, folder_check, stale_folders_sweep
from api.catalog.versions.create import AnyVersion, file_fields, prefixes_delete, ready_fields, version_audit
from api.catalog.versions.filelist import stored_check
from api.environment import environment
from api.errors import Problem
from api.storage import storage
from trainers.contract.spec import folder_digest

log = logging.getLogger(__name__)

HOLD_SECONDS = 60
RENEW_SECONDS = 10
MAX_TRIES = 3
CHECKER = "dispatcher"


def versions_check_until(stop: threading.Event) -> None:
    """For a thread of the dispatcher, so that long checks do not delay the handling of lost attempts."""
    stale_folders_sweep()
    while not stop.wait(environment().dispatch_seconds):
        try:
            close_old_connections()
            versions_check()
        except (Error, OSError) as error:
            log.error("version checks failed and will be retried: %s", error)
            connection.close()
        except Exception:  # nothing restarts this thread
            log.exception("version checks failed and will be retried")
            connection.close()


def versions_check() -> int:
    """Checks all waiting versions, alternating between kinds and projects; returns their number."""
    count = 0
    last: dict[str, Any] = {}
    while taken := [(kind, version) for kind in KINDS if (version := _take(kind, last.get(kind))) is not None]:
        for kind, version in taken:
            last[kind] = version.record.project_id
            _check(kind, version)
            count += 1
    return count


def _take(kind: str, last_project: Any) -> AnyVersion | None:
    """Takes the oldest free version of the project after `last_project` for HOLD_SECONDS, by a guarded update."""
    _, rows = KINDS[kind]
    at = now()
    free = rows.objects.filter(Q(check_until__isnull=True) | Q(check_until__lt=at), state=State.CHECKING)
    projects = sorted(set(free.values_list("record__project_id", flat=True)))
    if not projects:
        return None
    project = next((each for each in projects if last_project is not None and each > last_project), projects[0])
    version: AnyVersion | None = (
        free.filter(record__project_id=project).select_related("record").order_by("created").first()
    )
    if version is None:
        return None
    held = {"check_until": at + timedelta(seconds=HOLD_SECONDS), "check_tries": F("check_tries") + 1}
    if not free.filter(pk=version.pk, check_tries=version.check_tries).update(**held):
        return _take(kind, last_project)
    version.check_tries += 1
    return version


def _check(kind: str, version: AnyVersion) -> None:
    try:
        stored_check(storage(), version.key, version.files)
        checked = folder_check(
            project=version.record.project_id,
            kind=kind,
            key=version.key,
            files=version.files,
            unpack=version.unpack,
            strip_metadata=version.details.get("strip_metadata", False),
            alive=_renewing(version),
        )
    except Problem as problem:
        if problem.code != CHECK_FAILED or version.check_tries >= MAX_TRIES:
            version_refuse(version=version, problem=problem)
        return
    assert checked is not None, "a check that waits for its slot gets one"
    version_ready(version=version, checked=checked)


def version_ready(*, version: AnyVersion, checked: Checked) -> None:
    """From checking to ready, or to refused if another version has the same content."""
    digest = folder_digest(checked.files)
    fields = {**file_fields(checked.files, digest), **ready_fields(checked)}
    fields["details"] = {**version.details, **checked.details}
    try:
        moved = _move(version, "version_ready", fields)
    except IntegrityError:
        twin = version.record.versions.filter(digest=digest).exclude(state=State.REFUSED).first()
        message = f"the same content is there already, as {twin}"
        version_refuse(version=version, problem=Problem("same_content", f"{message}.", fields={"files": [message]}))
        return
    if not moved:
        _files_delete_if_gone(version)
    elif checked.key != version.key and not version.key.startswith("jobs/"):
        storage().delete_prefix(f"{version.key}/")


def version_refuse(*, version: AnyVersion, problem: Problem) -> None:
    """From checking to refused; deletes its files."""
    if _move(version, "version_refused", {"state": State.REFUSED, "reason": problem.body(), "files": []}):
        prefixes_delete(version.key)
    else:
        _files_delete_if_gone(version)


def _files_delete_if_gone(version: AnyVersion) -> None:
    """Deletes the files if the version was deleted meanwhile; another checker may still read them otherwise."""
    if not type(version).objects.filter(pk=version.pk).exists():
        prefixes_delete(version.key)


@transaction.atomic
def _move(version: AnyVersion, kind: str, fields: dict[str, object]) -> bool:
    """False if the version was deleted or taken over by another checker."""
    current = type(version).objects.filter(pk=version.pk, state=State.CHECKING, check_tries=version.check_tries)
    moved = bool(current.update(**fields, check_until=None, unpack=False))
    if moved:
        version_audit(type(version).objects.select_related("record").get(pk=version.pk), kind, CHECKER)
    return moved


def _renewing(version: AnyVersion) -> Callable[[], None]:
    """Returns a function that extends the hold of the row, at most every RENEW_SECONDS."""
    last = time.monotonic()

    def renew() -> None:
        nonlocal last
        if time.monotonic() - last > RENEW_SECONDS:
            last = time.monotonic()
            current = type(version).objects.filter(pk=version.pk, check_tries=version.check_tries)
            current.update(check_until=now() + timedelta(seconds=HOLD_SECONDS))

    return renew
