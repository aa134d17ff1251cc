"""Validation of templates: before one is saved, and whether a job of it would be accepted now."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.accounts.models import Project
from api.catalog.devices import resources_for
from api.catalog.named_files import named_files_check
from api.catalog.selectors import resolve_inputs
from api.catalog.templates.schemas import INPUT_ROLES, TemplateContent, VerdictShape
from api.errors import Problem, fields_of, invalid
from trainers.contract.params import METHODS, params_class
from trainers.contract.spec import JobSpec, Resources


def template_content(project: Project, template: TemplateContent) -> dict[str, Any]:
    """The validated columns of a template except its name. Raises Problem with fields as params.<name>."""
    params = _params(template.method, template.params)
    resolve_inputs(project, **{role: getattr(template, role) for role in INPUT_ROLES})
    _roles_check(template)
    resources = _resources(template.resources)
    resources_for(template.method, params, resources, lambda: 0)
    words = {word: getattr(template, word) for word in TemplateContent.model_fields}
    return {**words, "params": params, "resources": resources}


def template_verdict(project: Project, template: TemplateContent) -> VerdictShape:
    """Whether a job of the template would be accepted, with its errors, warnings, and parameters with all defaults."""
    try:
        content = template_content(project, template)
        _job_check(project, template, content)
    except Problem as problem:
        return VerdictShape(valid=False, message=problem.message, fields=problem.fields, warnings=[], params=None)
    params = params_class(template.method).model_validate(content["params"])
    return VerdictShape(
        valid=True, message="", fields={}, warnings=params.warnings(), params=params.model_dump(mode="json")
    )


def _job_check(project: Project, template: TemplateContent, content: Mapping[str, Any]) -> None:
    """Raises Problem for what a submit would reject, as parameters that the base model's family does not use.

    Does nothing if the template leaves a required input to the job.
    """
    if not all(getattr(template, role) for role in params_class(template.method).requires):
        return
    job = {
        "name": template.method,
        "method": template.method,
        "params": content["params"],
        "inputs": resolve_inputs(project, **{role: getattr(template, role) for role in INPUT_ROLES}),
    }
    try:
        named_files_check(JobSpec.model_validate(job))
    except ValidationError as error:
        raise invalid(fields_of(error)) from None


def _params(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that were set, in the method's types."""
    if method not in METHODS:
        message = f"unknown method {method!r:.100}; known methods: {', '.join(sorted(METHODS))}"
        raise Problem("invalid", f"method: {message}.", fields={"method": [message]})
    try:
        return params_class(method).model_validate(values).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise invalid(fields_of(error, "params")) from None


def _roles_check(template: TemplateContent) -> None:
    """Raises Problem for an input that the method does not accept; required ones may be left to the job."""
    method = params_class(template.method)
    for role in INPUT_ROLES:
        if getattr(template, role) and role not in (*method.requires, *method.accepts):
            message = f"method {template.method} has no use for it; leave it out"
            raise Problem("invalid", f"{role}: {message}.", fields={role: [message]})


def _resources(requested: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if requested is None:
        return None
    try:
        return Resources.model_validate(requested).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise invalid(fields_of(error, "resources")) from None
