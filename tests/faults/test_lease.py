"""Silence between worker, API and database: two trainers never live at once, and our own outages cost no attempt."""

import os
import signal
from collections.abc import Iterator

import pytest

from cli.platform.children import child_start
from foundation.boottime import boottime
from tests.faults.host import STUB, TWO_RANKS, Host
from tests.faults.platform import LEASE, REAPED_BY, SELF_FENCE, Platform, another_api, eventually
from tests.faults.proxy import Mode
from tests.faults.scene import HELD, Scene
from worker.process.shim import TICK_SECONDS

HOUR = 3600.0
WAKING = 0.7
"""For the shim to be scheduled; less than the kill time, which it must not wait for."""
TREES = pytest.mark.parametrize("command", [pytest.param(STUB, id="one"), pytest.param(TWO_RANKS, id="two_ranks")])
POSTGRESQL = pytest.mark.parametrize("platform", [pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)


def fenced(host: Host) -> None:
    """Waits until the worker has ended its trainer by itself."""
    eventually(lambda: not host.tree(), within=SELF_FENCE + REAPED_BY, what="the worker fences itself")


@pytest.mark.slow
@TREES
def test_a_stopped_hosts_trainer_is_dead_before_the_job_goes_on_elsewhere(scene: Scene, command: list[str]) -> None:
    host = scene.host(ANNEAL_TRAINER_COMMAND=" ".join(command)).ready()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    scene.host(ANNEAL_TRAINER_COMMAND=" ".join(command)).ready()
    host.signal(signal.SIGSTOP)
    fenced(host)
    assert scene.live(job), "the shim ends the trainer before the API gives the job away"
    scene.release(job)
    eventually(lambda: len(scene.lives(job)) == 2, what="the other worker goes on")
    host.signal(signal.SIGCONT)
    lives = scene.one_result(job, ["lost", "succeeded"])
    assert lives[1].first_step == HELD
    eventually(lambda: host.has_logged("attempt_given_up"), what="the first host gives its attempt up")


@pytest.mark.slow
def test_a_suspended_workers_trainer_ends_as_soon_as_it_wakes(scene: Scene) -> None:
    """Host, shim and trainer sleep past the lease and all wake at once, as a laptop does."""
    host = scene.host().ready()
    job = scene.submit(hold_at=HELD, deaf=True)
    scene.held(job)
    scene.host().ready()
    asleep = {host.process.pid, *host.tree()}
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: len(scene.lives(job)) == 2, within=LEASE + REAPED_BY, what="the other worker goes on")
    assert scene.lives(job)[0].last_seen < scene.lives(job)[1].started
    woken = boottime()
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not host.tree(), what="the trainer is gone")
    assert scene.lives(job)[0].last_seen < woken + TICK_SECONDS + WAKING
    scene.release(job)
    record = scene.one_adaptor(job, ["lost", "succeeded"])
    assert record["attempts"][1]["resumed_from"] == HELD


@pytest.mark.slow
def test_a_finish_that_comes_after_the_lease_is_refused(scene: Scene) -> None:
    host = scene.host().ready()
    late = host.api.rule(b"/finish ", "lose_request")
    job = scene.submit()
    eventually(lambda: late.hits, what="the first worker wants to finish")
    host.signal(signal.SIGSTOP)
    scene.host()
    scene.one_adaptor(job, ["lost", "succeeded"])
    host.api.heal()
    host.signal(signal.SIGCONT)
    eventually(host.refused_finishes, what="the late finish is refused")
    record = scene.one_adaptor(job, ["lost", "succeeded"])
    assert scene.client.get(f"adaptors/{job}")["job"] == record["id"]
    scene.never_two(job)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["silent", "down"])
@TREES
def test_a_worker_that_is_cut_off_ends_its_trainer_before_the_job_goes_on_elsewhere(
    scene: Scene, mode: Mode, command: list[str]
) -> None:
    host = scene.host(ANNEAL_TRAINER_COMMAND=" ".join(command)).ready()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    scene.host(ANNEAL_TRAINER_COMMAND=" ".join(command)).ready()
    host.api.set(mode)
    fenced(host)
    assert scene.live(job), "self-fence precedes reap"
    scene.release(job)
    lives = scene.one_result(job, ["lost", "succeeded"])
    assert [life.first_step for life in lives] == [0, HELD]
    host.api.heal()
    eventually(host.refused_finishes, what="what the first worker says of its attempt comes too late")
    scene.one_adaptor(job, ["lost", "succeeded"])


@pytest.fixture
def held(scene: Scene) -> Iterator[tuple[Host, str]]:
    """A host whose trainer waits after a published checkpoint; it never lost the attempt."""
    host = scene.host().ready()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    yield host, job
    scene.release(job)
    assert scene.one_result(job, ["succeeded"])[0].first_step == 0


@pytest.mark.slow
def test_a_restart_of_the_api_costs_no_attempt(platform: Platform, held: tuple[Host, str]) -> None:
    host, _ = held
    standby, port = another_api(platform)
    child_start(standby)
    eventually(lambda: platform.answers("api", port), what="the second API answers")
    platform.kill("api")
    eventually(lambda: host.has_logged("heartbeat_unanswered"), what="a heartbeat gets no answer")
    host.api.target = port
    platform.start("api")
    host.api.target = platform.port
    host.api.cut()
    assert standby.process is not None
    standby.process.kill()
    standby.process.wait()


def test_a_suspended_server_costs_no_attempt(platform: Platform, held: tuple[Host, str]) -> None:
    host, _ = held
    for name in ("api", "dispatcher"):
        platform.stop(name)
    eventually(lambda: host.has_logged("heartbeat_unanswered"), what="a heartbeat gets no answer")
    for name in ("api", "dispatcher"):
        platform.go_on(name)


@POSTGRESQL
def test_a_restart_of_the_database_costs_no_attempt(platform: Platform, held: tuple[Host, str]) -> None:
    platform.database.restart()
    eventually(lambda: platform.answers("api"), what="the API has its database again")
    assert held[0].tree()


@POSTGRESQL
def test_after_a_restart_of_the_database_silent_workers_are_still_noticed(scene: Scene, platform: Platform) -> None:
    host = scene.host().ready()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    platform.database.restart()
    host.kill()
    eventually(lambda: not host.tree(), what="the tree is gone")
    scene.release(job)
    scene.host()
    lives = scene.one_result(job, ["lost", "succeeded"])
    assert lives[-1].first_step == HELD


@pytest.mark.slow
def test_a_clock_that_jumps_ahead_extends_the_leases(platform: Platform, held: tuple[Host, str]) -> None:
    host, _ = held
    before = platform.database.extensions()
    host.api.set("down")  # nobody can renew a lease while the reaper looks
    eventually(lambda: host.has_logged("heartbeat_unanswered"), what="a heartbeat gets no answer")
    platform.database.clock_step(HOUR)
    eventually(lambda: platform.database.extensions() > before, within=SELF_FENCE, what="the leases are extended")
    host.api.heal()


@pytest.mark.slow
def test_a_clock_that_jumps_back_does_not_keep_a_dead_attempt_alive(scene: Scene, platform: Platform) -> None:
    host = scene.host().ready()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    host.kill()
    eventually(lambda: not host.tree(), what="the tree is gone")
    scene.release(job)
    platform.database.clock_step(-HOUR)
    scene.host()
    lives = scene.one_result(job, ["lost", "succeeded"])
    assert [life.first_step for life in lives] == [0, HELD]


@pytest.mark.slow
def test_a_clock_that_jumps_back_does_not_lock_a_worker_out(scene: Scene, platform: Platform) -> None:
    host = scene.host().ready()
    host.kill()
    platform.database.clock_step(-HOUR)
    host.start()
    scene.one_result(scene.submit(), ["succeeded"])


@pytest.mark.slow
def test_an_outage_longer_than_the_lease_stops_training_which_goes_on_from_its_checkpoint(
    scene: Scene, platform: Platform
) -> None:
    host = scene.host().ready()
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    platform.kill("api")
    fenced(host)
    scene.release(job)
    platform.start("api")
    lives = scene.one_result(job, ["lost", "succeeded"])
    assert [life.first_step for life in lives] == [0, HELD]
