"""What is checked of a template before one is saved, and what a job of it would be told now."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.accounts.models import Project
from api.catalog.devices import resources_for
from api.catalog.named_files import named_files_check
from api.catalog.selectors import resolve_inputs
from api.catalog.shapes import INPUT_ROLES, TemplateContent
from api.errors import Problem, fields_of, invalid
from trainers.contract.params import METHODS, params_class
from trainers.contract.spec import JobSpec, Resources


def template_content(project: Project, wanted: TemplateContent) -> dict[str, Any]:
    """All that a template says but its name, checked. Raises Problem with fields as params.<name>."""
    params = _params(wanted.method, wanted.params)
    resolve_inputs(project, **{role: getattr(wanted, role) for role in INPUT_ROLES})
    _roles_check(wanted)
    resources = _resources(wanted.resources)
    resources_for(wanted.method, params, resources, lambda: 0)
    words = {word: getattr(wanted, word) for word in TemplateContent.model_fields}
    return {**words, "params": params, "resources": resources}


def template_verdict(project: Project, wanted: TemplateContent) -> dict[str, Any]:
    """Whether a job of it would be taken, what is wrong where, the job's warnings, its parameters with all defaults."""
    try:
        content = template_content(project, wanted)
        _job_check(project, wanted, content)
    except Problem as problem:
        return {"valid": False, "message": problem.message, "fields": problem.fields, "warnings": [], "params": None}
    params = params_class(wanted.method).model_validate(content["params"])
    told = {"warnings": params.warnings(), "params": params.model_dump(mode="json")}
    return {"valid": True, "message": "", "fields": {}, **told}


def _job_check(project: Project, wanted: TemplateContent, content: Mapping[str, Any]) -> None:
    """What a submit would refuse, as parameters that do nothing with the base model's family. Raises Problem.

    Where the template leaves a needed input to the job, it cannot be known yet.
    """
    if not all(getattr(wanted, role) for role in params_class(wanted.method).requires):
        return
    job = {
        "name": wanted.method,
        "method": wanted.method,
        "params": content["params"],
        "inputs": resolve_inputs(project, **{role: getattr(wanted, role) for role in INPUT_ROLES}),
    }
    try:
        named_files_check(JobSpec.model_validate(job))
    except ValidationError as error:
        raise invalid(fields_of(error)) from None


def _params(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Only what was set, in the types that the method knows."""
    if method not in METHODS:
        said = f"unknown method {method!r:.100}; known methods: {', '.join(sorted(METHODS))}"
        raise Problem("invalid", f"method: {said}.", fields={"method": [said]})
    try:
        return params_class(method).model_validate(given).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise invalid(fields_of(error, "params")) from None


def _roles_check(wanted: TemplateContent) -> None:
    """A template may leave an input to the job, but it may not name one that the method has no use for."""
    method = params_class(wanted.method)
    for role in INPUT_ROLES:
        if getattr(wanted, role) and role not in (*method.requires, *method.accepts):
            said = f"method {wanted.method} has no use for it; leave it out"
            raise Problem("invalid", f"{role}: {said}.", fields={role: [said]})


def _resources(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        return Resources.model_validate(given).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise invalid(fields_of(error, "resources")) from None
