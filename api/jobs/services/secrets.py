"""Project secrets for jobs: a job names them in its parameters; only the response to a claim has their values."""

from dataclasses import dataclass, field
from uuid import UUID

from django.db import transaction

from api.accounts.models import Project
from api.accounts.secrets import secrets_named
from api.accounts.secrets_cipher import UnreadableError, cipher, value_open
from api.audit.clock import now
from api.audit.services import audit_add
from api.errors import Problem
from api.jobs.models import Attempt
from api.jobs.selectors import params_stored
from trainers.contract.params.base import Params


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
