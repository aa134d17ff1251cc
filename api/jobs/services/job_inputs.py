"""The inputs of a job as rows, and the promise that they are there while the job may still read them."""

from collections.abc import Iterable, Iterator
from typing import Any

from django.db import transaction

from api.catalog.models import Adaptor, DatasetVersion, PretrainedModelVersion
from api.errors import Problem
from api.jobs.models import Job, JobInput
from trainers.contract.spec import InputRef, Inputs

ROWS: dict[str, Any] = {"dataset": DatasetVersion, "model": PretrainedModelVersion, "adaptor": Adaptor}


def inputs_record(*, job: Job, inputs: Inputs) -> None:
    """Writes the rows that "used by" and the guards of deletes read, and the size of all inputs.

    Raises Problem 409 where one is gone.
    """
    named = list(_named(inputs))
    inputs_hold((role, ref.name, ref.key) for role, ref in named)
    JobInput.objects.bulk_create(JobInput(job=job, role=role, name=ref.name, key=ref.key) for role, ref in named)
    roles = {ref.key: role for role, ref in named}
    rows = (ROWS[role].objects.filter(key=key) for key, role in roles.items())
    job.input_bytes = sum(row.values_list("size_bytes", flat=True).get() for row in rows)
    job.save(update_fields=["input_bytes"])


def inputs_hold(wanted: Iterable[tuple[str, str, str]]) -> None:
    """Locks (role, name, key) until the transaction ends, so that a delete of one sees the job. Raises Problem 409."""
    assert transaction.get_connection().in_atomic_block, "inputs_hold is for transactions"
    for role, name, key in sorted(wanted):
        if not ROWS[role].objects.select_for_update().filter(key=key).only("pk").first():
            said = f"the {role} {name} was deleted"
            raise Problem("input_gone", f"inputs.{role}: {said}.", status=409, fields={f"inputs.{role}": [said]})


def _named(inputs: Inputs) -> Iterator[tuple[str, InputRef]]:
    for dataset in (inputs.dataset, *inputs.further_datasets, inputs.class_dataset):
        if dataset:
            yield "dataset", dataset
    if inputs.model:
        yield "model", inputs.model
    for adaptor in inputs.adaptors:
        yield "adaptor", adaptor
