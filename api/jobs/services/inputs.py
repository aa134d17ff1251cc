"""The inputs and secrets of a job: checks at its submit, the lock against deletion, what an attempt receives."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction

from api.accounts.models import Project
from api.accounts.secrets import UnreadableError, cipher, secrets_named, value_open
from api.audit.clock import now
from api.audit.models import audit_add
from api.catalog.models import Adaptor, DatasetVersion, PretrainedModelVersion
from api.catalog.selectors import input_files
from api.environment import environment
from api.errors import Problem
from api.jobs.models import Artifact, Attempt, Job, JobInput
from api.jobs.selectors import params_stored
from api.jobs.states import State
from api.storage import storage
from trainers.contract.params.base import Params
from trainers.contract.spec import InputRef, Inputs, folder_digest

Files = list[dict[str, Any]]
"""[{path, size, sha256, key}]"""
ROWS: dict[str, Any] = {"dataset": DatasetVersion, "model": PretrainedModelVersion, "adaptor": Adaptor}


def inputs_record(*, job: Job, inputs: Inputs) -> None:
    """Writes the rows for "used by" and the guards of deletes, and the size of all inputs.

    Raises Problem 409 if one was deleted.
    """
    refs = list(_refs(inputs))
    inputs_hold((role, ref.name, ref.key) for role, ref in refs)
    JobInput.objects.bulk_create(JobInput(job=job, role=role, name=ref.name, key=ref.key) for role, ref in refs)
    roles = {ref.key: role for role, ref in refs}
    rows = (ROWS[role].objects.filter(key=key) for key, role in roles.items())
    job.input_bytes = sum(row.values_list("size_bytes", flat=True).get() for row in rows)
    job.save(update_fields=["input_bytes"])


def inputs_hold(inputs: Iterable[tuple[str, str, str]]) -> None:
    """Locks (role, name, key) until the transaction ends, so that a delete of one sees the job. Raises Problem 409."""
    assert transaction.get_connection().in_atomic_block, "inputs_hold needs a transaction"
    for role, name, key in sorted(inputs):
        if not ROWS[role].objects.select_for_update().filter(key=key).only("pk").first():
            message = f"the {role} {name} was deleted"
            raise Problem("input_gone", f"inputs.{role}: {message}.", status=409, fields={f"inputs.{role}": [message]})


def attempt_spec(attempt: Attempt) -> dict[str, Any]:
    """The job's spec, with `inputs.checkpoint` if the attempt resumes."""
    return _spec_with(attempt.job, attempt.checkpoint)


def attempt_inputs(attempt: Attempt) -> dict[str, Any]:
    """{place below `in/`: {sha256, files}}; each file has a signed link."""
    return _inputs_with(attempt.job, attempt.checkpoint)


def job_spec_and_inputs(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the job's next attempt; of a job that succeeded, those of its first."""
    checkpoint = None if job.state == State.SUCCEEDED else job.checkpoint
    return _spec_with(job, checkpoint), _inputs_with(job, checkpoint)


def attempt_links(attempt: Attempt, paths: list[str]) -> list[dict[str, Any]]:
    """Fresh links for files below `in/`, such as `dataset/a.png`. Raises Problem(404) for a path that is no input."""
    files_by_path = {
        f"{place}/{file['path']}": file
        for place, _, files in _places(attempt.job, attempt.checkpoint)
        for file in files
    }
    if unknown := [path for path in paths if path not in files_by_path]:
        raise Problem("not_found", f"{unknown[0]} is no input of this attempt.", status=404)
    return [{"path": path, "url": _linked(files_by_path[path])["url"]} for path in paths]


def _refs(inputs: Inputs) -> Iterator[tuple[str, InputRef]]:
    """(role, reference)"""
    for dataset in (inputs.dataset, *inputs.further_datasets, inputs.class_dataset):
        if dataset:
            yield "dataset", dataset
    if inputs.model:
        yield "model", inputs.model
    for adaptor in inputs.adaptors:
        yield "adaptor", adaptor


def _spec_with(job: Job, checkpoint: Artifact | None) -> dict[str, Any]:
    spec: dict[str, Any] = job.spec
    if checkpoint is None:
        return spec
    return {**spec, "inputs": {**spec["inputs"], "checkpoint": _checkpoint_ref(checkpoint).model_dump(mode="json")}}


def _inputs_with(job: Job, checkpoint: Artifact | None) -> dict[str, Any]:
    return {
        place: {"sha256": sha256, "files": [_linked(file) for file in files]}
        for place, sha256, files in _places(job, checkpoint)
    }


def _places(job: Job, checkpoint: Artifact | None) -> Iterator[tuple[str, str, Files]]:
    """(place below `in/`, SHA-256, files)"""
    for place, ref in Inputs.model_validate(job.spec["inputs"]).places().items():
        yield place, ref.sha256, input_files(ref)
    if checkpoint is not None:
        yield "checkpoint", _checkpoint_ref(checkpoint).sha256, _checkpoint_files(checkpoint)


def _checkpoint_ref(artifact: Artifact) -> InputRef:
    return InputRef(
        name=f"checkpoint of step {artifact.step}",
        key=f"{artifact.attempt.prefix}/{artifact.path}",
        sha256=folder_digest(_checkpoint_files(artifact)),
        details={"step": artifact.step},
    )


def _checkpoint_files(artifact: Artifact) -> Files:
    """With paths relative to the checkpoint's folder."""
    return [
        {
            **file,
            "path": file["path"].removeprefix(artifact.path + "/"),
            "key": f"{artifact.attempt.prefix}/{file['path']}",
        }
        for file in artifact.files
    ]


def _linked(file: dict[str, Any]) -> dict[str, Any]:
    url = storage().presign_get(file["key"], expires_seconds=environment().link_seconds).url
    return {"path": file["path"], "size": file["size"], "sha256": file["sha256"], "url": url}


@dataclass(frozen=True)
class AttemptSecrets:
    """Values by environment variable, and the names of secrets that are no longer available."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    missing: tuple[str, ...] = ()


def secrets_check(project: Project, params: Params) -> None:
    """Raises Problem that names the field if a job names a secret that it cannot get."""
    names = _names_in(params)
    if not names:
        return
    cipher()
    secrets = secrets_named(project.pk, names)
    variables: dict[str, str] = {}
    for index, name in enumerate(names):
        if name not in secrets:
            _refuse(index, f"there is no secret {name!r} in project {project.name!r}; an admin can PUT it")
        other = variables.setdefault(secrets[name].variable, name)
        if other != name:
            _refuse(index, f"{name!r} and {other!r} would both be {secrets[name].variable}; name one of them")


def secrets_open(*, attempt: Attempt) -> AttemptSecrets:
    """The secrets that the attempt's job names, with an audit row for each."""
    names = _names_in(params_stored(attempt.job))
    return _open(attempt, names) if names else AttemptSecrets()


def _names_in(params: Params) -> list[str]:
    """In their order, without duplicates."""
    return list(dict.fromkeys(params.secret_names))


@transaction.atomic
def _open(attempt: Attempt, names: list[str]) -> AttemptSecrets:
    job = attempt.job
    secrets = secrets_named(job.project_id, names)
    values: dict[str, str] = {}
    for name, secret in sorted(secrets.items()):
        try:
            values[secret.variable] = value_open(secret)
        except (UnreadableError, Problem):
            continue
        _audit(attempt, name, job.project_id)
    opened = {name for name, secret in secrets.items() if secret.variable in values}
    return AttemptSecrets(values, tuple(name for name in names if name not in opened))


def _audit(attempt: Attempt, name: str, project_id: UUID) -> None:
    data = {"job": str(attempt.job_id), "worker": str(attempt.worker_id)}
    by = f"attempt:{attempt.pk}"
    audit_add(actor=by, kind="secret_given", object=f"secret:{name}", at=now(), project_id=project_id, data=data)


def _refuse(index: int, message: str) -> None:
    field = f"params.secrets.{index}"
    raise Problem("unknown_secret", f"{field}: {message}.", fields={field: [message]})
