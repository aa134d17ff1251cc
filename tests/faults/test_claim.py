"""Claims: the answer is lost, many come at once, two workers have one identity."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from cli.platform.children import Child, child_start
from tests.faults.platform import REAPED_BY, Platform, another_api, another_dispatcher, eventually
from tests.faults.scene import HELD, Scene

CLAIMERS, JOBS = 16, 4
OTHER_HOST = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""As on another machine: it sees none of our processes."""


def test_a_claim_whose_answer_is_lost_gives_the_same_attempt(scene: Scene) -> None:
    host = scene.host().ready()
    lost = host.api.rule(b"POST /internal/v1/claims", "lose_answer")
    job = scene.submit()
    eventually(lambda: scene.show(job)["state"] == "claimed", what="the claim is recorded")
    hits = lost.hits
    eventually(lambda: lost.hits > hits, what="the claim is repeated")
    host.api.heal()
    scene.one_result(job, ["succeeded"])


@pytest.mark.slow
def test_a_host_that_died_before_the_answer_replays_its_claim(scene: Scene) -> None:
    host = scene.host().ready()
    host.api.rule(b"POST /internal/v1/claims", "lose_answer")
    job = scene.submit()
    eventually(lambda: scene.show(job)["state"] == "claimed", what="the claim is recorded")
    host.kill()
    host.api.heal()
    host.start()
    scene.one_result(job, ["succeeded"])


@pytest.fixture
def crowd(platform: Platform) -> Iterator[int]:
    """A second API and two more dispatchers; the port of that API."""
    api, port = another_api(platform)
    children: list[Child] = [api, another_dispatcher(platform, 2), another_dispatcher(platform, 3)]
    for child in children:
        child_start(child)
    eventually(lambda: platform.answers("api", port), what="the second API answers")
    yield port
    for child in children:
        assert child.process is not None
        child.process.kill()
        child.process.wait()


def claim(platform: Platform, port: int, pool: str) -> list[tuple[str, int]]:
    """Claims as a worker of its own until nothing is left; the jobs that it got."""
    who = {"worker": str(uuid.uuid4()), "boot_id": str(uuid.uuid4())}
    headers = {"Authorization": f"Bearer {platform.worker_token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/internal/v1/", headers=headers, timeout=60) as client:
        hello = {**who, "host": "crowd", "pools": [pool], "slots": JOBS}
        client.post("workers/hello", json=hello).raise_for_status()
        got: list[tuple[str, int]] = []
        while True:
            expected = {**who, "claim_id": str(uuid.uuid4()), "pools": [pool], "free_accelerators": [], "labels": {}}
            answer = client.post("claims", json=expected).raise_for_status()
            if answer.status_code == 204:
                return got
            got.append((answer.json()["job"]["name"], answer.json()["attempt"]["fence"]))


def ended(scene: Scene, job: str) -> bool:
    return not scene.live(job)


@pytest.mark.slow
def test_16_claimers_two_apis_and_three_reapers_give_each_job_one_attempt_at_a_time(
    scene: Scene, platform: Platform, crowd: int
) -> None:
    jobs = [scene.submit(f"job-{number}") for number in range(JOBS)]
    ports = [platform.port, crowd] * (CLAIMERS // 2)
    with ThreadPoolExecutor(CLAIMERS) as threads:
        got = [pair for pairs in threads.map(lambda port: claim(platform, port, scene.pool), ports) for pair in pairs]
    assert sorted(got) == [(job, 1) for job in sorted(jobs)]
    for job in jobs:  # nobody has a pulse: the reapers end each attempt, once
        eventually(partial(ended, scene, job), within=REAPED_BY, what="the lease runs out")
    scene.host(hears="calls", ANNEAL_SLOTS="2")
    for job in jobs:
        lives = scene.one_result(job, ["lost", "succeeded"])
        assert [life.first_step for life in lives] == [0]


def test_a_second_host_in_the_same_folder_is_refused(scene: Scene) -> None:
    first = scene.host().ready()
    second = scene.host(ANNEAL_STATE_DIR=str(first.folder / "state"))
    assert second.process.wait(60) == 2
    assert second.has_logged("another worker runs with ANNEAL_STATE_DIR")


@pytest.mark.slow
def test_a_second_worker_with_a_copied_identity_waits_until_the_first_is_gone(scene: Scene) -> None:
    if shutil.which("unshare") is None or not_allowed():
        pytest.skip("needs `unshare --pid`, which only root may do here")
    first = scene.host().ready()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    twin = scene.host(identity=first.worker, launcher=OTHER_HOST)
    eventually(lambda: twin.has_logged("identity_taken"), what="the second is refused")
    scene.release(job)
    scene.one_result(job, ["succeeded"])
    assert not twin.has_logged("worker_ready")
    first.kill()
    twin.ready()
    scene.one_result(scene.submit("next"), ["succeeded"])


def not_allowed() -> bool:
    return subprocess.run([*OTHER_HOST, "true"], capture_output=True, check=False).returncode != 0
