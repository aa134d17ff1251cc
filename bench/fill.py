"""Fills a queue: run by `python -m api shell` in the API's environment, which calls `fill(job_id, count)`.

Inserts copies of a queued job into the database, each created a microsecond after the one before.
"""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

from django.db import connection, transaction

from api.jobs.models import Job

BATCH = 2000


def fill(job_id: str, count: int) -> None:
    pattern = Job.objects.get(pk=job_id)
    values = {field.attname: getattr(pattern, field.attname) for field in Job._meta.concrete_fields}
    copies = _copies(values, count)
    while batch := list(islice(copies, BATCH)):
        Job.objects.bulk_create(batch)


def _copies(values: dict[str, Any], count: int) -> Iterator[Job]:
    for n in range(1, count + 1):
        yield Job(**{**values, "id": uuid.uuid4(), "created": values["created"] + timedelta(microseconds=n)})


def fill_mixed(job_id: str, count: int) -> None:
    """Inserts copies of the job by SQL, each created a second before the one before; every other one has succeeded."""
    sqlite = connection.vendor == "sqlite"
    pattern = Job.objects.get(pk=job_id)
    changed = {
        "id": "lower(hex(randomblob(16)))" if sqlite else "gen_random_uuid()",
        "created": "strftime('%%Y-%%m-%%d %%H:%%M:%%f000', created, '-' || i || ' seconds')"
        if sqlite
        else "created - i * interval '1 second'",
        "state": "CASE WHEN i %% 2 = 0 THEN 'succeeded' ELSE 'queued' END",
    }
    columns = [field.column for field in Job._meta.concrete_fields]
    chosen = ", ".join(changed.get(column, column) for column in columns)
    _insert(f"jobs_job ({', '.join(columns)})", f"{chosen} FROM jobs_job, n WHERE id = %s", count, pattern.pk)


def fill_points(attempt_id: str, count: int, *, curves: int = 100) -> None:
    """Inserts `count` points of an attempt's curves by SQL."""
    points = f"%s, 'curve ' || (i %% {curves}), i / {curves}, 0.5 FROM n"
    _insert("jobs_metric (attempt_id, name, step, value)", points, count, uuid.UUID(attempt_id))


def _insert(into: str, select: str, count: int, key: uuid.UUID) -> None:
    """`select` may use i, which goes from 1 to `count`, and has one placeholder for `key`."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {into} {numbers} SELECT {select}", [key.hex])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
