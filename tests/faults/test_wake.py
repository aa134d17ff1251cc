"""Calls are lost, doubled, late, or there is nobody to call: no job is lost by it, and nobody waits for the broker."""

import time

import pytest

from tests.faults.platform import Platform, eventually
from tests.faults.scene import Scene

SLOW = pytest.mark.slow
SUBMITS = 3
CALL_TIMEOUT = 1.0
"""How long the API's own thread waits for a broker; a submit must not."""


def quickest_submits(scene: Scene) -> tuple[list[str], float]:
    """Jobs, and the shortest time that one took to be accepted."""
    jobs, times = [], []
    for number in range(SUBMITS):
        began = time.monotonic()
        jobs.append(scene.submit(f"job-{number}"))
        times.append(time.monotonic() - began)
    return jobs, min(times)


def test_a_job_whose_api_died_before_the_call_starts_within_30_s(scene: Scene, platform: Platform) -> None:
    scene.host(hears="calls").ready()
    platform.broker_of_api.set("silent")  # the call of the API never gets out
    job = scene.submit()
    platform.kill("api")
    accepted = time.monotonic()
    platform.start("api")
    eventually(lambda: scene.lives(job), within=30 - (time.monotonic() - accepted), what="the job starts")
    scene.one_result(job, ["succeeded"])


@SLOW
def test_calls_that_were_flushed_are_sent_again(scene: Scene, platform: Platform) -> None:
    job = scene.submit()
    eventually(lambda: platform.waiting_calls(scene.pool) > 0, what="a call waits")
    platform.flush()
    scene.host(hears="calls")
    scene.one_result(job, ["succeeded"])


@pytest.mark.parametrize("fault", ["killed", pytest.param("silent", marks=SLOW), pytest.param("down", marks=SLOW)])
def test_without_a_broker_submits_are_quick_and_polling_claims(scene: Scene, platform: Platform, fault: str) -> None:
    host = scene.host(hears="both").ready()
    if fault == "killed":
        platform.kill("broker")
    else:
        for proxy in (platform.broker_of_api, platform.broker_of_dispatcher, host.broker):
            proxy.set("silent" if fault == "silent" else "down")
    jobs, seconds = quickest_submits(scene)
    assert seconds < CALL_TIMEOUT
    for job in jobs:
        scene.one_result(job, ["succeeded"])


@SLOW
def test_calls_are_heard_again_after_the_broker_came_back(scene: Scene, platform: Platform) -> None:
    scene.host(hears="calls").ready()
    platform.kill("broker")
    job = scene.submit()
    platform.start("broker")
    scene.one_result(job, ["succeeded"])


@pytest.mark.slow
def test_a_worker_that_dies_between_call_and_claim_leaves_the_job_queued(scene: Scene) -> None:
    host = scene.host(hears="calls").ready()
    lost = host.api.rule(b"POST /internal/v1/claims", "lose_request")
    job = scene.submit()
    eventually(lambda: lost.hits, what="the called worker claims")
    host.kill()
    record = scene.show(job)
    assert (record["state"], record["attempts"]) == ("queued", [])
    host.api.heal()
    host.start()
    scene.one_result(job, ["succeeded"])
