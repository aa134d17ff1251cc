"""Checks of uploads: how long they may take, and that no project keeps the others waiting."""

import threading

import pytest

from api.accounts.models import Project
from api.catalog.models import Dataset, DatasetVersion, Upload, VersionState
from api.catalog.versions import check_run
from api.catalog.versions import checks as pending
from api.catalog.versions.check_run import Checked, CheckSlots, check_seconds
from api.catalog.versions.create import version_create
from api.storage import storage
from tests.api.world import Environ, file_entry
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db


def test_a_project_holds_one_slot_and_leaves_the_other() -> None:
    slots = CheckSlots(2)
    assert slots.acquire("a", wait=False)
    assert not slots.acquire("a", wait=False)
    assert slots.acquire("b", wait=False)
    assert not slots.acquire("c", wait=False)
    slots.release("b")
    assert slots.acquire("c", wait=False)
    slots.release("a")
    assert slots.acquire("a", wait=False)


def test_those_that_wait_are_served_in_order_and_pass_a_project_that_runs() -> None:
    slots, served = CheckSlots(2), []
    waiting = {name: threading.Event() for name in ("first a", "second a", "b")}
    assert slots.acquire("a", wait=True)

    def check(name: str) -> None:
        slots.acquire(name[-1], wait=True)
        served.append(name)
        waiting[name].set()

    hog = [threading.Thread(target=check, args=(name,)) for name in ("first a", "second a")]
    for thread in hog:
        thread.start()
    check("b")
    assert served == ["b"]
    for name in ("first a", "second a"):
        slots.release("a")
        assert any(waiting[one].wait(PATIENCE_SECONDS) for one in (name, "first a"))
    for thread in hog:
        thread.join(PATIENCE_SECONDS)
    assert sorted(served) == ["b", "first a", "second a"]


def test_time_grows_with_what_was_sent_and_not_with_what_it_decodes_to(environ: Environ) -> None:
    environ(check_seconds=300)
    assert check_seconds([{"size": 936}]) == 300
    assert check_seconds([{"size": 10**9}, {"size": 10**9}]) == 500


def upload_make(project: Project, name: str) -> tuple[Dataset, Upload]:
    record = Dataset.objects.create(project=project, name=name)
    files = [file_entry("a.txt", name.encode())]
    upload = Upload.objects.create(kind="datasets", project=project, record_id=record.pk, files=files, digest=name)
    storage().put_if_absent(f"{upload.key}/a.txt", name.encode())
    return record, upload


def test_without_a_free_slot_the_dispatcher_checks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    record, upload = upload_make(Project.objects.create(name="p"), "cats")
    monkeypatch.setattr(check_run, "SLOTS", slots := CheckSlots(2))
    assert slots.acquire(record.project_id, wait=False)
    version, _ = version_create(record=record, upload=upload, by="test")
    assert version.state == VersionState.CHECKING
    slots.release(record.project_id)
    assert pending.versions_check() == 1
    assert DatasetVersion.objects.get().state == VersionState.READY


def test_projects_take_turns_at_the_dispatcher(environ: Environ, monkeypatch: pytest.MonkeyPatch) -> None:
    environ(check_now_bytes=0)
    hog, other = Project.objects.create(name="hog"), Project.objects.create(name="other")
    for project, name in ((hog, "h1"), (hog, "h2"), (hog, "h3"), (other, "o1")):
        record, upload = upload_make(project, name)
        version_create(record=record, upload=upload, by="test")
    order: list[str] = []

    def check(**order_of: object) -> Checked:
        order.append(Upload.objects.get(pk=str(order_of["key"]).split("/")[-1]).digest)
        return Checked(str(order_of["key"]), list(order_of["files"]), {}, 0)  # type: ignore[call-overload]

    monkeypatch.setattr(pending, "folder_check", check)
    assert pending.versions_check() == 4
    assert order.index("o1") < 2
