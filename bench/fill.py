"""Makes a queue long: `python -m api shell` runs this with the API's environment, `fill(job_id, count)` at its end.

Copies of one queued job are written straight into the database, each a microsecond younger than the one before.
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
