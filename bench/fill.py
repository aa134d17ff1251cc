"""Fills a queue: run by `python -m api shell` in the API's environment, which calls `fill(job_id, count)`.

Inserts copies of a queued job into the database, each created a microsecond after the one before.
"""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

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
