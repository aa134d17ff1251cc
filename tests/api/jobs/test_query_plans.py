"""What people and workers ask for most reads no large table from end to end, on either database."""

from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from api.jobs.models import Job
from tests.api.host import Agent, Host, step_event
from tests.api.jobs.test_queue_order import copies
from tests.api.world import World

pytestmark = pytest.mark.django_db
LARGE = ("jobs_job", "jobs_attempt", "jobs_event", "jobs_metric", "jobs_artifact", "jobs_jobinput", "jobs_joblabel")
PATH = "/api/v1/jobs"
Call = Callable[[APIClient, Agent, Host], object]
CALLS: dict[str, Call] = {
    "detail": lambda user, agent, _: user.get(f"{PATH}/{agent.job}"),
    "detail by a prefix": lambda user, agent, _: user.get(f"{PATH}/{agent.job[:8]}"),
    "list": lambda user, *_: user.get(f"{PATH}?limit=50"),
    "list of a state": lambda user, *_: user.get(f"{PATH}?state=running,claimed"),
    "list by name@version": lambda user, *_: user.get(f"{PATH}?dataset=shapes@1&label=night"),
    "finish and claim": lambda _, agent, host: (agent.finish(), host.claim()),
    "heartbeat": lambda _, agent, __: agent.heartbeat(),
    "events": lambda _, agent, __: agent.events(step_event(2, 1), step_event(3, 2)),
    "curves": lambda user, agent, _: user.get(f"{PATH}/{agent.job}/metrics?points=4"),
    "events of a job": lambda user, agent, _: user.get(f"{PATH}/{agent.job}/events"),
    "samples": lambda user, agent, _: user.get(f"{PATH}/{agent.job}/samples"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_large_table_is_read_from_end_to_end(
    call: Call, world: World, user: APIClient, agent: Agent, host: Host
) -> None:
    assert user.post(PATH, world.request, format="json").status_code == 201
    copies(str(Job.objects.get(state="queued").pk), 200)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    with CaptureQueriesContext(connection) as queries:
        call(user, agent, host)
    statements = [query["sql"] for query in queries if query["sql"].startswith(("SELECT", "UPDATE", "DELETE"))]
    assert any(f'"{table}"' in sql for table in LARGE for sql in statements), "no statement was looked at"
    for sql in statements:
        assert not list(scans(sql)), f"{sql}\n{plan(sql)}"


def test_a_scan_is_noticed(agent: Agent) -> None:
    assert list(scans(f'SELECT * FROM "jobs_job" WHERE "notes" = \'{agent.job}\''))


def scans(sql: str) -> Iterator[str]:
    """Lines of the plan that read all of a large table; indices of SQLite that cover the statement count too."""
    word = "Seq Scan on" if connection.vendor == "postgresql" else "SCAN"
    for line in plan(sql):
        _, scan, rest = line.partition(f"{word} ")
        if scan and rest.split()[0].strip('"') in LARGE:
            yield line


def plan(sql: str) -> list[str]:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")  # else it reads small tables at once
        cursor.execute(f"EXPLAIN {'' if connection.vendor == 'postgresql' else 'QUERY PLAN '}{sql}")
        return [str(row[-1]) for row in cursor.fetchall()]
