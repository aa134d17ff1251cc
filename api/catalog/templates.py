"""Templates: what is checked before one is saved."""

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from pydantic import ValidationError

from api.accounts.models import Project
from api.catalog.models import Template
from api.catalog.names import name_check
from api.catalog.selectors import resolve_inputs
from api.catalog.shapes import TemplateRequest
from api.errors import Problem, fields_of, invalid
from trainers.params import METHODS, params_class
from trainers.spec import Resources


def template_create(*, project: Project, wanted: TemplateRequest) -> Template:
    """Raises Problem: 409 where the name is taken, 400 with fields as params.<name>."""
    template = Template(project=project, name=name_check(wanted.name), **template_columns(project, wanted))
    return _save(template)


def template_update(*, template: Template, wanted: TemplateRequest) -> Template:
    """Replaces all of it; another name renames it. Raises Problem."""
    template.name = name_check(wanted.name)
    for column, value in template_columns(template.project, wanted).items():
        setattr(template, column, value)
    return _save(template)


def template_columns(project: Project, wanted: TemplateRequest) -> dict[str, Any]:
    """All columns but the name, checked."""
    params = _params(wanted.method, wanted.params)
    resolve_inputs(project, dataset=wanted.dataset, model=wanted.model, adaptors=wanted.adaptors)
    _roles_check(wanted)
    resources = _resources(wanted.resources)
    return {**wanted.model_dump(exclude={"name"}), "params": params, "resources": resources}


def _save(template: Template) -> Template:
    try:
        with transaction.atomic():
            template.save()
    except IntegrityError:
        said = f"there is a template {template.name!r} already; PUT to it to change it"
        raise Problem("name_taken", f"name: {said}.", status=409, fields={"name": [said]}) from None
    return template


def _params(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Only what was set, in the types that the method knows."""
    if method not in METHODS:
        said = f"unknown method {method!r:.100}; known methods: {', '.join(sorted(METHODS))}"
        raise Problem("invalid", f"method: {said}.", fields={"method": [said]})
    try:
        return params_class(method).model_validate(given).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise invalid(fields_of(error, "params")) from None


def _roles_check(wanted: TemplateRequest) -> None:
    """A template may leave an input to the job, but it may not name one that the method has no use for."""
    method = params_class(wanted.method)
    for role in ("dataset", "model", "adaptors"):
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
