"""Claims: who gets which job, and that nobody gets it twice."""

import threading
import uuid
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection
from rest_framework.test import APIClient

from api.jobs.models import AcceleratorLease, Attempt, Job, Worker
from api.jobs.services.claim import ClaimRequest, attempt_claim
from tests.api.conftest import host_make
from tests.api.host import Host
from tests.api.world import Clock, World
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db


def submit(user: APIClient, world: World, **changed: object) -> str:
    answer = user.post("/api/v1/jobs", {**world.request, **changed}, format="json")
    assert answer.status_code == 201, answer.content
    return str(answer.json()["id"])


def needs(count: int) -> dict[str, object]:
    return {"resources": {"accelerators": count, "strategy": "ddp" if count > 1 else "single"}}


def test_nothing_to_do_is_a_204(host: Host) -> None:
    assert host.claim_post().status_code == 204


def test_higher_priority_is_first_and_then_the_older(world: World, user: APIClient) -> None:
    host = host_make(slots=3)
    first, second = submit(user, world), submit(user, world)
    urgent = submit(user, world, priority=5)
    assert [host.claim().job for _ in range(3)] == [urgent, first, second]


def test_a_replayed_claim_returns_the_same_attempt_and_revokes_the_old_token(
    world: World, user: APIClient, host: Host
) -> None:
    submit(user, world)
    claim_id = str(uuid.uuid4())
    first, again = host.claim(claim_id=claim_id), host.claim(claim_id=claim_id)
    assert first.id == again.id
    assert Attempt.objects.count() == 1
    assert first.heartbeat().status_code == 401
    assert again.heartbeat().status_code == 200


def test_a_replayed_claim_of_an_ended_attempt_returns_nothing(world: World, user: APIClient, host: Host) -> None:
    submit(user, world)
    claim_id = str(uuid.uuid4())
    host.claim(claim_id=claim_id).finish("failed")
    assert host.claim_post(claim_id=claim_id).status_code == 204


def test_a_claim_id_of_another_worker_is_refused(world: World, user: APIClient, host: Host) -> None:
    submit(user, world)
    claim_id = str(uuid.uuid4())
    host.claim(claim_id=claim_id)
    assert host_make().claim_post(claim_id=claim_id).status_code == 409


def test_a_worker_with_full_slots_gets_nothing(world: World, user: APIClient, host: Host) -> None:
    submit(user, world)
    submit(user, world)
    host.claim()
    assert host.claim_post().status_code == 204


def test_a_worker_that_came_back_with_fewer_slots_than_it_runs_gets_nothing(world: World, user: APIClient) -> None:
    host = host_make(slots=2)
    for _ in range(3):
        submit(user, world)
    running = [host.claim(), host.claim()]
    assert host.hello(slots=1).status_code == 200
    assert host.claim_post().status_code == 204
    for agent in running:
        agent.finish("failed")
    assert host.claim_post().status_code == 200


def test_a_claim_names_at_most_fifty_pools(host: Host) -> None:
    assert host.claim_post(pools=[f"pool-{index}" for index in range(50)]).status_code == 204
    refused = host.claim_post(pools=[f"pool-{index}" for index in range(51)])
    assert (refused.status_code, list(refused.json()["fields"])) == (400, ["pools"])


def test_attempts_count_from_one_and_begin_at_the_checkpoint(world: World, user: APIClient, host: Host) -> None:
    submit(user, world)
    first = host.claim()
    first.checkpoint(6)
    first.finish("drained")
    second = host.claim()
    assert [agent.claim["attempt"]["n"] for agent in (first, second)] == [1, 2]
    assert list(Attempt.objects.order_by("n").values_list("n", "fence", "start_step")) == [(1, 1, 0), (2, 2, 6)]


def test_a_worker_of_another_pool_gets_nothing(world: World, user: APIClient, host: Host) -> None:
    submit(user, world, pool="big")
    assert host.claim_post().status_code == 204
    assert host.claim_post(pools=["default", "big"]).status_code == 200


def test_accelerators_are_assigned_one_by_one(world: World, user: APIClient) -> None:
    host = host_make(slots=4, accelerators=3)
    for count in (2, 1, 1):
        submit(user, world, **needs(count))
    assert host.claim().claim["accelerators"] == [0, 1]
    agent = host.claim()
    assert agent.claim["accelerators"] == [2]
    assert host.claim_post().status_code == 204
    agent.finish("failed")
    assert host.claim().claim["accelerators"] == [2]


def test_exact_indices_are_assigned_or_waited_for(world: World, user: APIClient) -> None:
    host = host_make(slots=4, accelerators=3)
    submit(user, world, resources={"accelerators": [1]})
    submit(user, world, resources={"accelerators": [1]})
    assert host.claim().claim["accelerators"] == [1]
    assert host.claim_post().status_code == 204


def test_only_offered_accelerators_are_assigned(world: World, user: APIClient) -> None:
    host = host_make(slots=4, accelerators=2)
    submit(user, world, **needs(1))
    assert host.claim_post(free_accelerators=[]).status_code == 204
    assert host.claim(free_accelerators=[1, 7]).claim["accelerators"] == [1]


def test_the_database_refuses_a_second_live_attempt_and_a_second_holder(world: World, user: APIClient) -> None:
    host = host_make(accelerators=1)
    submit(user, world, **needs(1))
    attempt = Attempt.objects.get(pk=host.claim().id)
    attempt.pk, attempt.n, attempt.fence, attempt.claim_id, attempt.token_hash = uuid.uuid4(), 2, 2, uuid.uuid4(), "x"
    with pytest.raises(IntegrityError):
        attempt.save(force_insert=True)


def test_the_database_refuses_a_second_holder_of_an_accelerator(world: World, user: APIClient) -> None:
    host = host_make(accelerators=1)
    submit(user, world, **needs(1))
    host.claim()
    held = AcceleratorLease.objects.get()
    held.pk = None
    with pytest.raises(IntegrityError):
        held.save(force_insert=True)


def test_a_job_passed_over_for_long_reserves_a_worker(world: World, user: APIClient, clock: Clock) -> None:
    host = host_make(slots=4, accelerators=2)
    submit(user, world, **needs(1))
    small = host.claim()
    big = submit(user, world, **needs(2))
    submit(user, world, **needs(1))
    second = host.claim()
    assert Job.objects.get(pk=big).passed_over_since is not None
    second.finish("failed")
    submit(user, world, **needs(1))
    clock.advance(601)
    assert [host.claim_post().status_code for _ in range(2)] == [204, 204], "the worker is kept for the big job"
    small.finish("failed")
    assert host.claim().job == big


@pytest.mark.parametrize(("silent_seconds", "gone"), [(240, False), (300, True)])
def test_a_reservation_passes_on_once_its_worker_was_silent_for_a_lease(
    world: World, user: APIClient, clock: Clock, silent_seconds: float, gone: bool
) -> None:
    """While the reserved worker lives, another busy one takes smaller jobs; once it is gone, the other is kept free."""
    big = submit(user, world, **needs(2))
    reserved, other = host_make(accelerators=2), host_make(accelerators=2)
    at = clock.now()
    Worker.objects.filter(pk=reserved.worker).update(last_seen=at - timedelta(seconds=silent_seconds))
    Job.objects.filter(pk=big).update(reserved_worker=reserved.worker, passed_over_since=at - timedelta(seconds=900))
    submit(user, world, **needs(0))
    assert other.claim_post(free_accelerators=[]).status_code == (204 if gone else 200)
    assert str(Job.objects.get(pk=big).reserved_worker_id) == (other.worker if gone else reserved.worker)


def test_a_worker_that_did_not_say_hello_gets_404() -> None:
    stranger = host_make()
    stranger.worker = str(uuid.uuid4())
    answer = stranger.claim_post()
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_worker")


def test_a_second_boot_of_an_identity_is_refused_until_the_first_is_silent(host: Host, clock: Clock) -> None:
    first_boot, host.boot_id = host.boot_id, str(uuid.uuid4())
    refused = host.hello()
    assert (refused.status_code, refused.json()["code"]) == (409, "worker_identity_taken")
    clock.advance(61)
    assert host.hello().status_code == 200
    host.boot_id = first_boot
    assert host.heartbeat().status_code == 409


def test_goodbye_frees_the_identity_of_a_boot(host: Host) -> None:
    assert host.post("workers/goodbye", host.who()).status_code == 204
    host.boot_id = str(uuid.uuid4())
    assert host.hello().status_code == 200


def test_older_attempts_end_only_when_the_new_boot_names_them(
    world: World, user: APIClient, host: Host, clock: Clock
) -> None:
    job = submit(user, world)
    agent = host.claim()
    host.boot_id = str(uuid.uuid4())
    clock.advance(61)
    host.hello()
    assert Job.objects.get(pk=job).state == "claimed"
    host.hello(gone=[agent.id])
    assert Job.objects.get(pk=job).state == "queued"
    assert Attempt.objects.get(pk=agent.id).outcome == "lost"
    assert agent.heartbeat().status_code == 409


def test_a_draining_worker_gets_nothing_and_stops_what_it_runs(world: World, user: APIClient, host: Host) -> None:
    job = submit(user, world)
    agent = host.claim()
    assert user.post(f"/api/v1/workers/{host.worker}/drain").json()["draining"] is True
    assert agent.heartbeat().json()["stop"] == "drain"
    assert host.heartbeat().json()["draining"] is True
    assert agent.finish("drained").json()["outcome"] == "preempted"
    assert host.claim_post().status_code == 204
    row = Job.objects.get(pk=job)
    assert (row.state, row.losses_without_checkpoint) == ("queued", 0)


@pytest.mark.django_db(transaction=True)
def test_many_claimers_at_once_make_one_attempt_each(world: World, user: APIClient) -> None:
    hosts = [host_make() for _ in range(8)]
    for _ in range(5):
        submit(user, world)
    barrier, claimed = threading.Barrier(len(hosts)), []

    def claim(host: Host) -> None:
        ask = ClaimRequest.model_validate({**host.who(), "claim_id": str(uuid.uuid4()), "pools": ["default"]})
        barrier.wait()
        try:
            claimed.append(attempt_claim(request=ask))
        finally:
            connection.close()

    threads = [threading.Thread(target=claim, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_SECONDS)
    jobs = [row.attempt.job_id for row in claimed if row is not None]
    assert len(claimed) == 8
    assert len(jobs) == len(set(jobs)) == 5
