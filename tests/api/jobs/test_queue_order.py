"""Claims from a long queue: only heads of lines are looked at, by index, and nobody waits for ever."""

import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from api.audit.clock import now
from api.jobs.models import AvoidedWorker, Job
from api.jobs.selectors import FAR, ORDER, due, line_behind, line_heads
from tests.api.conftest import host_make
from tests.api.host import Host
from tests.api.jobs.test_claim import needs, submit
from tests.api.world import Clock, World

pytestmark = pytest.mark.django_db
FEW_QUERIES = 40


def copies(job_id: str, count: int) -> None:
    """Queues `count` more jobs like this one, right behind it: within a millisecond."""
    pattern = Job.objects.get(pk=job_id)
    created = pattern.created
    rows = []
    for index in range(count):
        pattern.pk, pattern.created = uuid.uuid4(), created + timedelta(microseconds=index + 1)
        rows.append(Job(**{field.attname: getattr(pattern, field.attname) for field in Job._meta.concrete_fields}))
    Job.objects.bulk_create(rows)


def test_a_claim_costs_the_same_behind_a_thousand_jobs_that_do_not_fit(world: World, user: APIClient) -> None:
    host = host_make(slots=4, accelerators=2)
    submit(user, world, **needs(1))
    host.claim()
    for requested in (needs(2), needs(8), {"resources": {"accelerators": [0]}}):
        copies(submit(user, world, **requested), 330)
    job = submit(user, world, **needs(1))
    with CaptureQueriesContext(connection) as queries:
        assert host.claim().job == job
    assert len(queries) <= FEW_QUERIES
    assert Job.objects.exclude(passed_over_since=None).count() == 2, "the heads of the lines that it could hold"


@pytest.mark.parametrize(("ahead", "status"), [(19, 200), (20, 204)])
def test_a_claim_considers_twenty_jobs_that_avoid_its_worker(
    world: World, user: APIClient, host: Host, ahead: int, status: int
) -> None:
    copies(submit(user, world, **needs(8)), ahead - 1)
    submit(user, world)
    AvoidedWorker.objects.bulk_create(
        AvoidedWorker(job=job, worker_id=host.worker, code="disk_full") for job in Job.objects.all()
    )
    assert host.claim_post().status_code == status


def test_lines_are_walked_by_index(world: World, user: APIClient) -> None:
    copies(submit(user, world), 200)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")  # a plan without statistics of these rows is a guess
    head = line_heads(["default"], now())[0]
    walks = (
        due("default", now()).filter(needs__gt="").order_by("needs", *ORDER),
        due("default", now()).filter(needs="0").order_by(*ORDER),
        Job.objects.filter(state="queued", pool="default").order_by(*ORDER),
    )
    for walk in walks:
        plan = walk[:1].explain()
        assert "job_claim" in plan or "job_line" in plan, plan
        assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan
    assert line_behind(head, now()) == Job.objects.filter(state="queued").order_by(*ORDER)[1]


def test_exact_indices_form_one_line_whatever_their_order(world: World, user: APIClient) -> None:
    host = host_make(slots=4, accelerators=4)
    first = submit(user, world, resources={"accelerators": [3, 1], "strategy": "ddp"})
    second = submit(user, world, resources={"accelerators": [1, 3], "strategy": "ddp"})
    assert set(Job.objects.values_list("needs", flat=True)) == {"[1, 3]"}
    agent = host.claim()
    assert (agent.job, agent.claim["accelerators"]) == (first, [1, 3])
    agent.finish("failed")
    assert host.claim().job == second


def test_a_job_that_is_not_due_does_not_hold_its_line_up(world: World, user: APIClient, host: Host) -> None:
    late, early = submit(user, world), submit(user, world)
    Job.objects.filter(pk=late).update(not_before=now() + timedelta(hours=1))
    assert host.claim().job == early
    assert host.claim_post().status_code == 204


def test_the_job_behind_a_reserving_one_reserves_the_next_worker(world: World, user: APIClient, clock: Clock) -> None:
    hosts = [host_make(slots=4, accelerators=2) for _ in range(2)]
    for _ in hosts:
        submit(user, world, **needs(1))
    running = [host.claim() for host in hosts]
    first, second = (submit(user, world, **needs(2)) for _ in range(2))
    submit(user, world, **needs(1))
    hosts[0].claim().finish("failed")
    clock.advance(601)
    for host in hosts:
        host.heartbeat()
    submit(user, world, **needs(1))
    assert [host.claim_post().status_code for host in hosts] == [204, 204], "each is kept free for one of the two"
    for agent in running:
        agent.finish("failed")
    assert [host.claim().job for host in hosts] == [first, second]


def test_a_reserving_job_does_not_hold_back_those_that_rank_higher(world: World, user: APIClient, clock: Clock) -> None:
    host = host_make(slots=4, accelerators=2)
    submit(user, world, **needs(1))
    host.claim()
    submit(user, world, **needs(2))
    submit(user, world, **needs(1))
    host.claim().finish("failed")
    clock.advance(601)
    submit(user, world, **needs(1))
    assert host.claim_post().status_code == 204
    urgent = submit(user, world, priority=1, **needs(1))
    assert host.claim().job == urgent


def test_an_unanswered_reservation_goes_to_another_worker(world: World, user: APIClient, clock: Clock) -> None:
    gone, stays = (host_make(slots=4, accelerators=2) for _ in range(2))
    for host in (gone, stays):
        submit(user, world, **needs(1))
        host.claim()
    big = submit(user, world, **needs(2))
    submit(user, world, **needs(1))
    gone.claim().finish("failed")
    clock.advance(601)
    submit(user, world, **needs(1))
    assert gone.claim_post().status_code == 204
    gone.post("workers/goodbye", gone.who())
    assert stays.claim_post().status_code == 204
    assert str(Job.objects.get(pk=big).reserved_worker_id) == stays.worker


def test_a_distant_place_in_the_queue_is_shown_as_such(world: World, user: APIClient) -> None:
    host_make()
    first = submit(user, world)
    copies(first, FAR)
    last = submit(user, world)
    assert f"More than {FAR - 1} jobs are ahead" in user.get(f"/api/v1/jobs/{last}").json()["waiting"]
    assert "ahead" not in user.get(f"/api/v1/jobs/{first}").json()["waiting"]
