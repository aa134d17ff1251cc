"""The storage or a disk takes nothing more: tried again, then failed with a reason that says so, checkpoint kept."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.platform import Platform, eventually
from tests.faults.scene import HELD, Scene

PUT = b"PUT /storage/"
DISK_BYTES = 8 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    with mounted(tmp_path / "small", DISK_BYTES) as place:
        yield place


class mounted:  # noqa: N801 used as a context
    """A small disk over `place`, for as long as the block lasts."""

    def __init__(self, place: Path, size: int) -> None:
        self._place, self._size = place, size

    def __enter__(self) -> Path:
        self._place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self._place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs to mount a small disk, which only root may do here")
        return self._place

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._place)], check=True)


def test_a_storage_that_answers_503_for_a_while_costs_no_attempt(scene: Scene, platform: Platform) -> None:
    scene.host()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    busy = platform.storage.rule(PUT, "answer_503")
    scene.release(job)
    eventually(lambda: busy.hits >= 3, what="the upload is tried again")
    platform.storage.heal()
    scene.one_result(job, ["succeeded"])


def test_a_storage_that_answers_503_for_ever_fails_the_job_at_the_bound_and_keeps_its_checkpoint(
    scene: Scene, platform: Platform
) -> None:
    scene.host(ANNEAL_PUBLISH_SECONDS="6")
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    platform.storage.rule(PUT, "answer_503")
    scene.release(job)
    record = scene.over(job)
    assert (record["state"], record["reason"]["code"]) == ("failed", "storage_refused")
    assert scene.checkpoints(job)[-1] == HELD
    platform.storage.heal()
    scene.ask(job, "resume")
    scene.one_adaptor(job, ["failed", "failed", "succeeded"])
    assert [life.first_step for life in scene.never_two(job)] == [0, HELD, HELD]


@pytest.mark.slow
def test_a_full_disk_under_the_storage_costs_no_attempt_once_there_is_room(scene: Scene, platform: Platform) -> None:
    scene.host()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    observed = platform.storage.rule(PUT, "count")
    with mounted(platform.root / "files", 1 << 16) as full:
        for folder in ("objects", "digests", "incoming"):
            (full / folder).mkdir()
        fill(full)
        scene.release(job)
        eventually(lambda: observed.hits >= 3, what="the upload is tried again")
    scene.one_result(job, ["succeeded"])


@pytest.mark.slow
def test_a_full_disk_of_the_worker_fails_the_job_with_that_reason(scene: Scene, small_disk: Path) -> None:
    host = scene.host(ANNEAL_STATE_DIR=str(small_disk))
    job = scene.submit(mode="fills_disk")
    record = scene.over(job)
    assert (record["state"], record["reason"]["code"]) == ("failed", "disk_full")
    assert [attempt["reason"]["code"] for attempt in record["attempts"]] == ["disk_full", "disk_full"]
    assert not host.tree()
    scene.one_result(scene.submit("next"), ["succeeded"])


def fill(folder: Path) -> None:
    """Leaves not one byte."""
    descriptor = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError:
        os.close(descriptor)
