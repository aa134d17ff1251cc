"""Files that a job fetched or made become a version of a dataset or base model, without a copy."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from api.catalog.models import KINDS
from api.catalog.versions.create import AnyVersion, version_from_files
from api.jobs.models import Attempt, Job
from api.jobs.selectors import params_of
from api.jobs.transitions import event_add
from trainers.contract.params.base import Product

KIND_OF_PRODUCT: dict[Product, str] = {"dataset": "datasets", "model": "models"}
"""Products that become a version; each is in the folder of its name below out/."""
COMMIT = re.compile(r"[0-9a-f]{40}")


def products(job: Job) -> tuple[Product, ...]:
    """What the job leaves once it has succeeded."""
    return params_of(job).products()


def version_publish(
    *,
    product: Product,
    job: Job,
    attempt: Attempt,
    manifest: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    at: datetime,
) -> AnyVersion:
    """Returns the version, `checking` or an existing one with the same content, and adds an event that names it.

    `files`: [{path, size, sha256}] below the attempt's prefix. Call within the transaction of the finish.
    """
    kind, params = KIND_OF_PRODUCT[product], params_of(job)
    record, _ = KINDS[kind][0].objects.get_or_create(project_id=job.project_id, name=params.product_name)
    product_files = [
        {**file, "path": file["path"].removeprefix(f"{product}/")}
        for file in files
        if file["path"].startswith(f"{product}/")
    ]
    source = _method_source(job) if params.requires else {}
    if hub_source := params.hub_source():
        source |= _hub_source(job, manifest, hub_source)
    key = f"{attempt.prefix}/{product}"
    version = version_from_files(record=record, key=key, files=product_files, source=source, by=job.actor)
    data = {"kind": kind, "name": record.name, "version": version.version, "state": version.state, "source": source}
    event_add(job=job, kind="version", data=data, at=at, attempt=attempt)
    return version


def _hub_source(job: Job, manifest: Mapping[str, Any], requested: Mapping[str, str]) -> dict[str, Any]:
    """Where the files came from: by the job's parameters, except for the commit, which the trainer resolved."""
    source = manifest.get("source")
    commit = source.get("commit") if isinstance(source, Mapping) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise ValueError(f"the manifest's source.commit must be 40 hexadecimal digits, got {commit!r:.60}")
    return {**requested, "commit": commit, "job": str(job.pk)}


def _method_source(job: Job) -> dict[str, Any]:
    """The method and its inputs, by name@version."""
    inputs = job.spec["inputs"]
    datasets = [inputs.get("dataset"), *inputs.get("further_datasets", [])]
    refs_by_role = {"model": [inputs.get("model")], "adaptors": inputs.get("adaptors", []), "datasets": datasets}
    used = {role: [ref["name"] for ref in refs if ref] for role, refs in refs_by_role.items()}
    return {"method": job.method, "job": str(job.pk), **{role: names for role, names in used.items() if names}}
