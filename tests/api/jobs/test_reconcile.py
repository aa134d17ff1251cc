"""Objects of the storage that no row names: noted first, removed after a grace, never what a row names."""

import uuid
from pathlib import Path

import pytest
from django.core.management import call_command
from prometheus_client import generate_latest

from api.catalog.models import Removal, Upload
from api.jobs.models import Reconciliation, Unreferenced
from api.jobs.services.reconcile import reconcile_pass
from api.monitoring import registry
from api.storage import storage
from tests.api.host import Agent
from tests.api.world import INPUT_FILES, Clock

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def empty_storage(tmp_path: Path) -> None:
    for root in ("datasets/", "jobs/", "models/"):
        storage().delete_prefix(root)
    for key, content in INPUT_FILES.items():
        put(tmp_path, key, content)


def put(tmp_path: Path, key: str, content: bytes = b"x" * 100) -> str:
    (tmp_path / "file").write_bytes(content)
    storage().put_file(key, tmp_path / "file")
    return key


def held() -> set[str]:
    return {key for root in ("datasets/", "jobs/", "models/") for key, _ in storage().list(root)}


def passes(clock: Clock, hours: float) -> list[str]:
    """Two passes with so many hours between; what the second one removed."""
    reconcile_pass(remove=True)
    clock.advance(hours * 3600)
    return reconcile_pass(remove=True).removed


def test_an_unreferenced_object_is_removed_after_its_grace_period(agent: Agent, clock: Clock, tmp_path: Path) -> None:
    agent.checkpoint(1)
    agent.finish()
    named = held()
    strays = {
        put(tmp_path, f"jobs/{agent.job}/1/samples/never-published.png"),
        put(tmp_path, f"jobs/{uuid.uuid4()}/1/late"),
        put(tmp_path, f"datasets/{uuid.uuid4()}/late.png"),
        put(tmp_path, f"models/{uuid.uuid4()}.files/late"),
    }
    assert passes(clock, 71) == []
    assert Unreferenced.objects.count() == 4 and held() == named | strays
    clock.advance(2 * 3600)
    assert set(reconcile_pass(remove=True).removed) == strays
    assert held() == named
    assert Unreferenced.objects.count() == 0


def test_what_a_live_attempt_sent_stays_however_old(agent: Agent, clock: Clock) -> None:
    agent.store("samples/a.png", b"not yet published")
    assert passes(clock, 1000) == []
    assert Unreferenced.objects.count() == 0


def test_what_is_named_between_two_passes_stays(agent: Agent, clock: Clock, tmp_path: Path) -> None:
    upload = uuid.uuid4()
    key = put(tmp_path, f"datasets/{upload}/a.png")
    reconcile_pass(remove=True)
    assert Unreferenced.objects.get().key == key
    Upload.objects.create(
        pk=upload,
        kind="datasets",
        project_id=agent.claim["job"]["project"],
        record_id=uuid.uuid4(),
        files=[],
        digest="",
    )
    clock.advance(100 * 3600)
    assert reconcile_pass(remove=True).removed == []
    assert key in held() and Unreferenced.objects.count() == 0


def test_a_report_removes_nothing(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = put(tmp_path, f"jobs/{uuid.uuid4()}/1/late")
    call_command("reconcile")
    clock.advance(100 * 3600)
    call_command("reconcile")
    assert key in held()
    printed = capsys.readouterr().out
    assert key in printed and "nothing was deleted" in printed
    call_command("reconcile", "--remove")
    assert key not in held()


def test_a_pass_is_bounded_and_the_next_one_continues(tmp_path: Path) -> None:
    job = uuid.uuid4()
    for number in range(5):
        put(tmp_path, f"jobs/{job}/1/{number}")
    sizes = []
    while True:
        done = reconcile_pass(remove=True, limit=3)
        sizes.append(done.listed)
        if done.is_last:
            break
    assert sizes == [3, 3, 2] and Reconciliation.objects.get().cursor == ""
    assert Unreferenced.objects.filter(key__startswith=f"jobs/{job}/").count() == 5


def test_the_figures_are_in_the_metrics(clock: Clock, tmp_path: Path) -> None:
    put(tmp_path, f"jobs/{uuid.uuid4()}/1/late")
    reconcile_pass(remove=True)
    text = generate_latest(registry()).decode()
    assert "anneal_storage_unreferenced_objects 1.0" in text
    assert "anneal_storage_unreferenced_bytes 100.0" in text
    clock.advance(73 * 3600)
    reconcile_pass(remove=True)
    assert "anneal_storage_removed_objects_total 1.0" in generate_latest(registry()).decode()


def test_an_old_checkpoint_is_removed_by_a_removal_row_of_its_transaction(agent: Agent) -> None:
    for step in (1, 2, 3, 4):
        agent.checkpoint(step)
    assert [row.prefix for row in Removal.objects.all()] == [f"jobs/{agent.job}/1/checkpoints/step-00000001/"]
