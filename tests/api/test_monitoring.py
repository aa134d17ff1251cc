"""`/metrics` of the API, and that docs/metrics.md names each of them and no other."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from api.monitoring import DatabaseCollector, attempts_by_outcome, attempts_live, jobs_by_state
from tests.api.conftest import host_make
from tests.api.host import Agent, Host, event, step_event
from tests.api.jobs.test_claim import submit
from tests.api.world import Clock, Environ, World

pytestmark = pytest.mark.django_db

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
OURS = re.compile(r"^# TYPE (anneal_\w+) (\w+)$", re.MULTILINE)
ROW = re.compile(r"^\| `(anneal_\w+)` \| (\w+) \|", re.MULTILINE)


def told(client: Client) -> str:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return answer.content.decode()


def value(text: str, sample: str) -> float:
    result = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    assert result, f"{sample} is not in\n{text}"
    return float(result[1])


def test_the_page_names_what_the_api_exports_and_nothing_else(client: Client) -> None:
    api = PAGE.read_text().partition("## The worker")[0]
    exported = {name: kind for name, kind in OURS.findall(told(client)) if not name.endswith("_created")}
    assert dict(ROW.findall(api)) == {name.removesuffix("_total"): kind for name, kind in exported.items()}


def test_the_queue_is_told_by_pool_with_its_oldest_wait(
    client: Client, world: World, user: APIClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.monitoring.now", clock.now)
    host_make(pools=["idle"])
    submit(user, world)
    submit(user, world, pool="gpu")
    text = told(client)
    assert (value(text, 'anneal_queue_depth{pool="default"}'), value(text, 'anneal_queue_depth{pool="idle"}')) == (1, 0)
    assert value(text, 'anneal_queue_oldest_seconds{pool="gpu"}') < 5
    clock.advance(100)
    assert value(told(client), 'anneal_queue_oldest_seconds{pool="gpu"}') > 99


def test_jobs_attempts_claims_and_event_lag(client: Client, world: World, user: APIClient, host: Host) -> None:
    before = told(client)
    submit(user, world)
    agent: Agent = host.claim()
    agent.start()
    agent.events(step_event(2, 1), event(3, "warning", message="slow"))
    text = told(client)
    assert value(text, 'anneal_jobs{state="running"}') == value(text, "anneal_attempts_live") == 1
    for histogram, more in (("anneal_claim_latency_seconds", 1), ("anneal_event_lag_seconds", 2)):
        assert value(text, f"{histogram}_count") - value(before, f"{histogram}_count") == more
    agent.finish("lost")
    assert value(told(client), 'anneal_attempts{outcome="lost"}') == 1
    assert value(text, 'anneal_workers{state="live"}') == 1


def test_requests_are_told_by_route_and_status_class(client: Client, user: APIClient) -> None:
    def count(route: str, status: str) -> float:
        sample = f'anneal_http_request_seconds_count{{method="GET",route="{route}",status="{status}"}}'
        result = re.search(rf"^{re.escape(sample)} (\S+)$", told(client), re.MULTILINE)
        return float(result[1]) if result else 0

    route = "api/v1/jobs/<str:ref>"
    missing, unknown = count(route, "4xx"), count("unknown", "4xx")
    user.get("/api/v1/jobs/00000000-0000-0000-0000-000000000000")
    user.get("/api/v1/jobs/11111111")
    client.get("/no/such/place")
    assert (count(route, "4xx") - missing, count("unknown", "4xx") - unknown) == (2, 1)


def test_a_failure_of_ours_is_told_as_5xx_of_its_route(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("api.monitoring.jobs_by_state", broken)
    client.raise_request_exception = False
    assert client.get("/metrics").status_code == 500
    monkeypatch.undo()
    assert value(told(client), 'anneal_http_request_seconds_count{method="GET",route="metrics",status="5xx"}') >= 1


def test_a_scrape_costs_the_same_however_long_the_queue_is(client: Client, world: World, user: APIClient) -> None:
    for number in range(6):
        submit(user, world, pool=f"pool-{number}")
        host_make(pools=[f"pool-{number}"])
    with CaptureQueriesContext(connection) as received:
        told(client)
    assert len(received) <= DatabaseCollector.QUERIES


def test_the_token_of_the_settings_is_asked_for(client: Client, environ: Environ) -> None:
    environ(metrics_token="scraper-secret")
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer scraper-secret"}).status_code == 200


def test_state_changes_are_no_scrape(client: Client) -> None:
    assert client.post("/metrics").status_code == 405


@pytest.mark.database("sqlite")  # PostgreSQL plans by what is in the tables, and they are empty
@pytest.mark.parametrize("ask", [jobs_by_state, attempts_by_outcome, attempts_live])
def test_counts_walk_an_index_and_no_table(ask: Callable[[], object]) -> None:
    with CaptureQueriesContext(connection) as received:
        ask()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {received[0]['sql']}")
        plan = " ".join(str(row[-1]) for row in cursor.fetchall())
    assert "USING COVERING INDEX" in plan or "USING INDEX" in plan, plan


def test_processes_that_share_a_folder_tell_the_sums_of_all(tmp_path: Path) -> None:
    """The library chooses at import, so each is a process of its own."""
    script = (
        "import os, django; django.setup()\n"
        "from prometheus_client import generate_latest\n"
        "from api.jobs.services.claim import CLAIM_SECONDS\n"
        "from api.monitoring import registry\n"
        "CLAIM_SECONDS.observe(1)\n"
        "print(generate_latest(registry()).decode())\n"
    )
    reported = ""
    for _ in range(2):
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        reported = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        ).stdout
    assert value(reported, "anneal_claim_latency_seconds_count") == 2
    assert "anneal_database_up 0.0" in reported, "no tables there, and yet no failure"
