"""Lists of jobs and of what they left: filters, pages, bounded queries."""

import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from api.accounts.models import Token
from api.jobs import selectors
from api.jobs.models import Artifact, Attempt, Job, JobInput, JobLabel
from api.jobs.schemas import SPEC_FIELDS
from api.jobs.selectors import job_find
from tests.api.host import Host
from tests.api.jobs.test_queue_order import copies
from tests.api.world import World

pytestmark = pytest.mark.django_db
PATH = "/api/v1/jobs"


def names(user: APIClient, query: str) -> list[str]:
    answer = user.get(f"{PATH}?{query}")
    assert answer.status_code == 200, answer.content
    return [job["name"] for job in answer.json()["results"]]


def test_each_filter_returns_the_matching_jobs(world: World, user: APIClient) -> None:
    for name in ("one", "two"):
        user.post(PATH, {**world.request, "name": name}, format="json")
    sampling = {"name": "look", "method": "sample_image", "params": {"prompt": "x"}, "model": "base"}
    last = user.post(PATH, sampling, format="json").json()
    first = Job.objects.get(name="one")
    user.post(f"{PATH}/{first.pk}/pause")
    between = quote((first.created + timedelta(microseconds=1)).isoformat())
    for query, expected in (
        ("state=paused", ["one"]),
        ("state=paused,queued", ["look", "two", "one"]),
        ("method=sample_image", ["look"]),
        ("dataset=shapes", ["two", "one"]),
        ("dataset=shapes@1&search=o", ["two", "one"]),
        ("dataset=shapes@2", []),
        ("dataset=shape", []),
        ("model=base", ["look", "two", "one"]),
        (f"created_after={between}", ["look", "two"]),
        (f"created_before={between}", ["one"]),
        (f"created_after={between}&created_before={quote(last['created'])}", ["two"]),
        (f"parent={first.pk}", []),
    ):
        assert names(user, query) == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "state=gone",
        "dataset=a/b",
        "adaptor=@1",
        "created_after=yesterday",
        "created_after=2026-01-01T00:00:00",
        "parent=xyz",
        "search=" + "x" * 201,
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(user: APIClient, query: str) -> None:
    assert user.get(f"{PATH}?{query}").status_code == 400


@pytest.mark.parametrize("count", [10, 100])
def test_a_page_of_many_jobs_needs_as_many_queries_as_one_of_few(
    world: World, user: APIClient, count: int, django_assert_max_num_queries: Any
) -> None:
    user.post(PATH, world.request, format="json")
    one = Job.objects.get()
    fields = {f.attname: getattr(one, f.attname) for f in Job._meta.concrete_fields if f.name != "id"}
    jobs = Job.objects.bulk_create(Job(**fields) for _ in range(count))
    JobLabel.objects.bulk_create(JobLabel(job=job, name="all") for job in jobs)
    JobInput.objects.bulk_create(JobInput(job=job, role="dataset", name="shapes@1", key="datasets/1") for job in jobs)
    for query in ("", "state=queued,failed", "label=all&dataset=shapes", "adaptor=shapes"):
        with django_assert_max_num_queries(9):
            user.get(f"{PATH}?limit=200&{query}")
    assert len(names(user, "limit=200&label=all&dataset=shapes")) == count


def test_a_list_of_jobs_shows_fields_of_the_spec_by_name_only(world: World, user: APIClient) -> None:
    job = user.get(f"{PATH}/{user.post(PATH, world.request, format='json').json()['id']}").json()
    without = {name: value for name, value in job.items() if name not in SPEC_FIELDS}
    with CaptureQueriesContext(connection) as queries:
        listed = user.get(PATH).json()["results"]
    assert listed == [without] and list(listed[0]) == list(without)
    assert not any('"spec"' in query["sql"] for query in queries), "it is wide, and nothing of it is shown"
    assert user.get(f"{PATH}?fields=inputs").json()["results"] == [without | {"inputs": job["inputs"]}]
    assert user.get(f"{PATH}?fields={','.join(SPEC_FIELDS)}").json()["results"] == [job]
    refused = user.get(f"{PATH}?fields=params,spec")
    assert (refused.status_code, "'spec'" in refused.json()["message"]) == (400, True)


def test_fifty_jobs_in_a_list_are_at_most_60_kb(world: World, user: APIClient) -> None:
    user.post(PATH, world.request, format="json")
    copies(str(Job.objects.get().pk), 49)
    answer = user.get(f"{PATH}?limit=50")
    assert len(answer.json()["results"]) == 50 and len(answer.content) <= 60_000


@pytest.mark.parametrize("count", [10, 100])
def test_artifacts_and_workers_come_in_pages(
    world: World, user: APIClient, host: Host, count: int, django_assert_max_num_queries: Any
) -> None:
    user.post(PATH, world.request, format="json")
    job = host.claim().job
    attempt = Attempt.objects.get()
    Artifact.objects.bulk_create(_artifact(attempt, number) for number in range(count))
    path = f"{PATH}/{job}"
    with django_assert_max_num_queries(9):
        assert len(user.get(f"{path}/samples?limit=200").json()["results"]) == count
    page, steps = user.get(f"{path}/samples?limit=7").json(), []
    while True:
        steps += [row["step"] for row in page["results"]]
        if not page["next"]:
            break
        page = user.get(page["next"]).json()
    assert steps == list(range(count))
    for query, expected in (
        ("step=3", 1),
        ("kind=checkpoint", 0),
        ("attempt=2", 0),
        ("attempt=1&search=3.png", count // 10),
    ):
        assert len(user.get(f"{path}/artifacts?limit=200&{query}").json()["results"]) == expected, query
    for query in ("kind=song", "step=-1", "step=99999999999999999999", "attempt=x"):
        assert user.get(f"{path}/artifacts?{query}").status_code == 400
    assert user.get("/api/v1/workers?limit=1").json()["next"] is None


def _artifact(attempt: Attempt, number: int) -> Artifact:
    file = {"path": f"samples/{number}.png", "size": 1, "sha256": "0" * 64}
    values = {
        "path": file["path"],
        "files": [file],
        "sha256": "0" * 64,
        "size_bytes": 1,
        "created": attempt.started_at,
    }
    return Artifact(job=attempt.job, attempt=attempt, kind="sample", step=number, **values)


@pytest.mark.database("sqlite")  # PostgreSQL plans by what is in the tables, and they are empty
@pytest.mark.parametrize("digits", [32, 31, 8])
def test_a_job_is_looked_up_by_its_id_and_not_among_the_jobs_of_its_project(
    digits: int, world: World, user: APIClient
) -> None:
    ref = user.post(PATH, world.request, format="json").json()["id"].replace("-", "")[:digits]
    with CaptureQueriesContext(connection) as queries:
        job_find(Job.objects.filter(project=world.project), ref)
    for query in list(queries):
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            plan = " ".join(str(row[-1]) for row in cursor.fetchall())
        assert "sqlite_autoindex_jobs_job_1 (id" in plan, plan


def test_many_jobs_with_one_prefix_are_distinguished_by_project(
    world: World, user: APIClient, stranger: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job.objects.get(pk=user.post(PATH, world.request, format="json").json()["id"])
    prefix = job.pk.hex[:8]
    for number in range(3):
        other = Job.objects.get(pk=job.pk)
        other.pk = uuid.UUID(f"{prefix}{number:024x}")
        other.project = Token.objects.get(user__username="admin-of-other").project
        other.save(force_insert=True)
    for most in (100, 2):
        monkeypatch.setattr(selectors, "MAX_ALIKE", most)
        assert user.get(f"{PATH}/{prefix}").json()["id"] == str(job.pk)
        assert stranger.get(f"{PATH}/{prefix}").status_code == 404, "more than one"


@pytest.mark.parametrize("what", ["log", "metrics", "events", "artifacts"])
def test_what_shows_no_job_reads_nothing_beside_it(what: str, world: World, user: APIClient) -> None:
    job = user.post(PATH, world.request, format="json").json()["id"]
    with CaptureQueriesContext(connection) as queries:
        assert user.get(f"{PATH}/{job}/{what}").status_code == 200
    assert not any("jobs_joblabel" in query["sql"] or "catalog_adaptor" in query["sql"] for query in queries)
