"""What a job fetched or made becomes a version of a dataset or base model, where the files lie already."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from api.catalog.models import KINDS
from api.catalog.models import VersionState as State
from api.catalog.versions.create import AnyVersion, version_from_files
from api.jobs.models import Attempt, Job
from api.jobs.transitions import event_add
from trainers.contract.params import params_class
from trainers.contract.params.base import Params, Product
from trainers.contract.params.fetch import FetchParams

KIND_OF_PRODUCT: dict[Product, str] = {"dataset": "datasets", "model": "models"}
"""Products that become a version; each lies in the folder of its name below out/."""
COMMIT = re.compile(r"[0-9a-f]{40}")


def products(job: Job) -> tuple[Product, ...]:
    """What the job leaves once it succeeded."""
    return params_of(job).products()


def params_of(job: Job) -> Params:
    return params_class(job.method).model_validate(job.spec["params"])


def version_publish(
    *,
    product: Product,
    job: Job,
    attempt: Attempt,
    manifest: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    at: datetime,
) -> AnyVersion:
    """The version, `checking` or the one that has this content already, with an event that names it.

    `files`: [{path, size, sha256}] below the attempt's prefix. Call within the transaction of the finish.
    """
    kind = KIND_OF_PRODUCT[product]
    record, _ = KINDS[kind][0].objects.get_or_create(project_id=job.project_id, name=params_of(job).product_name)
    mine = [
        {**file, "path": file["path"].removeprefix(f"{product}/")}
        for file in files
        if file["path"].startswith(f"{product}/")
    ]
    source = {} if isinstance(params_of(job), FetchParams) else _made_from(job)
    if job.spec["params"].get("repo"):
        source |= _fetched_from(job, manifest)
    key = f"{attempt.prefix}/{product}"
    version = version_from_files(record=record, key=key, files=mine, source=source, by=job.actor)
    told = {"kind": kind, "name": record.name, "version": version.version, "state": version.state, "source": source}
    event_add(job=job, kind="version", data=told, at=at, attempt=attempt)
    return version


def versions_of_job(job: Job) -> list[AnyVersion]:
    """Those whose files lie among the job's own; of a refused one nobody needs them."""
    kept = [rows.objects.select_related("record").exclude(state=State.REFUSED) for _, rows in KINDS.values()]
    return [version for rows in kept for version in rows.filter(key__startswith=f"jobs/{job.pk}/")]


def _fetched_from(job: Job, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Where the files came from: from the job's own words, but for the commit, which the trainer found."""
    params = job.spec["params"]
    told = manifest.get("source")
    commit = told.get("commit") if isinstance(told, Mapping) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise ValueError(f"the manifest's source.commit must be 40 hexadecimal digits, got {commit!r:.60}")
    asked = {name: params[name] for name in ("endpoint", "repo", "revision")}
    asked |= {name: params[name] for name in ("config", "split") if params.get(name)}
    return {**asked, "commit": commit, "job": str(job.pk)}


def _made_from(job: Job) -> dict[str, Any]:
    """The method and what it was used on, by name@version."""
    inputs = job.spec["inputs"]
    datasets = [inputs.get("dataset"), *inputs.get("further_datasets", [])]
    named = {"model": [inputs.get("model")], "adaptors": inputs.get("adaptors", []), "datasets": datasets}
    used = {role: [ref["name"] for ref in refs if ref] for role, refs in named.items()}
    return {"method": job.method, "job": str(job.pk), **{role: names for role, names in used.items() if names}}
