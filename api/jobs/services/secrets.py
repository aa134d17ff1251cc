"""Project secrets for jobs: a job names them in its parameters, and the answer to a claim alone has their values."""

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
from trainers.contract.params.base import Params


@dataclass(frozen=True)
class Given:
    """What an attempt is given: values by environment variable, and the names of what is no longer to be had."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    missing: tuple[str, ...] = ()


def secrets_check(project: Project, params: Params) -> None:
    """Raises Problem that names the field where a job asks for a secret that it could not be given."""
    names = names_in(params.model_dump())
    if not names:
        return
    cipher()
    found = secrets_named(project.pk, names)
    variables: dict[str, str] = {}
    for index, name in enumerate(names):
        if name not in found:
            _refuse(index, f"there is no secret {name!r} in project {project.name!r}; an admin can PUT it")
        other = variables.setdefault(found[name].variable, name)
        if other != name:
            _refuse(index, f"{name!r} and {other!r} would both be {found[name].variable}; name one of them")


def secrets_give(*, attempt: Attempt) -> Given:
    """The secrets that the attempt's job names, with an audit row for each."""
    names = names_in(attempt.job.spec["params"])
    return _give(attempt, names) if names else Given()


def names_in(params: dict[str, object]) -> list[str]:
    """Of parameters as JSON; in the order given, each once."""
    given = params.get("secrets") or ()
    assert isinstance(given, (list, tuple)), f"`secrets` is for names of project secrets, got {type(given).__name__}"
    return list(dict.fromkeys(str(name) for name in given))


@transaction.atomic
def _give(attempt: Attempt, names: list[str]) -> Given:
    job = attempt.job
    found = secrets_named(job.project_id, names)
    values: dict[str, str] = {}
    for name, secret in sorted(found.items()):
        try:
            values[secret.variable] = value_open(secret)
        except (UnreadableError, Problem):
            continue
        _audit(attempt, name, job.project_id)
    opened = {name for name, secret in found.items() if secret.variable in values}
    return Given(values, tuple(name for name in names if name not in opened))


def _audit(attempt: Attempt, name: str, project_id: UUID) -> None:
    told = {"job": str(attempt.job_id), "worker": str(attempt.worker_id)}
    by = f"attempt:{attempt.pk}"
    audit_add(actor=by, kind="secret_given", object=f"secret:{name}", at=now(), project_id=project_id, data=told)


def _refuse(index: int, said: str) -> None:
    raise Problem("unknown_secret", f"params.secrets.{index}: {said}.", fields={f"params.secrets.{index}": [said]})
