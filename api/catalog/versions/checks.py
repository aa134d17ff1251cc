"""Finishes versions that are `checking`. Any number of processes may; a row whose checker died is taken again."""

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
    """For a thread of the dispatcher: a long check must not keep lost attempts waiting."""
    stale_folders_sweep()
    while not stop.wait(environment().dispatch_seconds):
        try:
            close_old_connections()
            versions_check()
        except (Error, OSError) as error:
            log.error("versions wait for their check: %s", error)
            connection.close()
        except Exception:  # nothing would start this thread again
            log.exception("versions wait for their check")
            connection.close()


def versions_check() -> int:
    """Checks what waits, one after the other, by turns of kinds and of projects; how many."""
    count = 0
    last: dict[str, Any] = {}
    while taken := [(kind, version) for kind in KINDS if (version := _take(kind, last.get(kind))) is not None]:
        for kind, version in taken:
            last[kind] = version.record.project_id
            _check(kind, version)
            count += 1
    return count


def _take(kind: str, last_project: Any) -> AnyVersion | None:
    """The oldest free version of the project after `last_project`, held for HOLD_SECONDS.

    Of several takers one gets it.
    """
    _, rows = KINDS[kind]
    at = now()
    free = rows.objects.filter(Q(check_until__isnull=True) | Q(check_until__lt=at), state=State.CHECKING)
    projects = sorted(set(free.values_list("record__project_id", flat=True)))
    if not projects:
        return None
    project = next((one for one in projects if last_project is not None and one > last_project), projects[0])
    found: AnyVersion | None = (
        free.filter(record__project_id=project).select_related("record").order_by("created").first()
    )
    if found is None:
        return None
    held = {"check_until": at + timedelta(seconds=HOLD_SECONDS), "check_tries": F("check_tries") + 1}
    if not free.filter(pk=found.pk, check_tries=found.check_tries).update(**held):
        return _take(kind, last_project)
    found.check_tries += 1
    return found


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
    """From checking to ready. The same content as another version's is refused, and says whose."""
    digest = folder_digest(checked.files)
    fields = {**file_fields(checked.files, digest), **ready_fields(checked)}
    fields["details"] = {**version.details, **checked.details}
    try:
        moved = _move(version, "version_ready", fields)
    except IntegrityError:
        twin = version.record.versions.filter(digest=digest).exclude(state=State.REFUSED).first()
        said = f"the same content is there already, as {twin}"
        version_refuse(version=version, problem=Problem("same_content", f"{said}.", fields={"files": [said]}))
        return
    if not moved:
        _forget(version)
    elif checked.key != version.key and not version.key.startswith("jobs/"):
        storage().delete_prefix(f"{version.key}/")


def version_refuse(*, version: AnyVersion, problem: Problem) -> None:
    """From checking to refused; its files go."""
    if _move(version, "version_refused", {"state": State.REFUSED, "reason": problem.body(), "files": []}):
        prefixes_delete(version.key)
    else:
        _forget(version)


def _forget(version: AnyVersion) -> None:
    """Leaves the files of a version that was deleted meanwhile nowhere; those that another checker reads stay."""
    if not type(version).objects.filter(pk=version.pk).exists():
        prefixes_delete(version.key)


@transaction.atomic
def _move(version: AnyVersion, kind: str, fields: dict[str, object]) -> bool:
    """False where it is checked no more: deleted, or taken over by another checker."""
    mine = type(version).objects.filter(pk=version.pk, state=State.CHECKING, check_tries=version.check_tries)
    moved = bool(mine.update(**fields, check_until=None, unpack=False))
    if moved:
        version_audit(type(version).objects.select_related("record").get(pk=version.pk), kind, CHECKER)
    return moved


def _renewing(version: AnyVersion) -> Callable[[], None]:
    """Holds the row on, at most every RENEW_SECONDS."""
    last = time.monotonic()

    def renew() -> None:
        nonlocal last
        if time.monotonic() - last > RENEW_SECONDS:
            last = time.monotonic()
            mine = type(version).objects.filter(pk=version.pk, check_tries=version.check_tries)
            mine.update(check_until=now() + timedelta(seconds=HOLD_SECONDS))

    return renew
