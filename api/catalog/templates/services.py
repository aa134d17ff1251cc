"""Validation and writes of templates. Each change is a new version; versions never change."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.utils import timezone
from pydantic import ValidationError

from api.accounts.models import Project
from api.audit.models import audit_add
from api.audit.names import name_check
from api.catalog.devices import resources_for
from api.catalog.models import Template, TemplateVersion
from api.catalog.selectors import named_files_check, resolve_inputs
from api.catalog.templates.schemas import INPUT_ROLES, TemplateContent, TemplateRequest, VerdictShape
from api.errors import Problem, fields_of, invalid
from trainers.contract.params import METHODS, params_class
from trainers.contract.spec import JobSpec, Resources

RESERVED = ("validate", "import")
"""Names that are path segments of the API."""


def template_create(*, project: Project, body: TemplateRequest, by: str) -> Template:
    """Raises Problem: 409 if the name is taken, 400 with fields as params.<name>."""
    name = template_name(body.name)
    return _create(project, name, template_content(project, body), by, {})


def template_update(*, template: Template, body: TemplateRequest, by: str) -> Template:
    """Replaces the content by a new version, unless it is equal; another name renames the template. Raises Problem."""
    name, content = template_name(body.name), template_content(template.project, body)
    return _replace(template, name, content, by, "template_updated")


def template_restore(*, template: Template, version: TemplateVersion, by: str) -> Template:
    """Makes the content of `version` the newest version, without validation: jobs report inputs that are gone."""
    return _replace(template, template.name, version.content, by, "template_restored")


def template_clone(*, version: TemplateVersion, name: str, by: str) -> Template:
    """A new template with the content of `version`. Raises Problem 409 if the name is taken."""
    return _create(version.template.project, template_name(name), version.content, by, {"from": str(version)})


@transaction.atomic
def template_delete(*, template: Template, by: str) -> None:
    """Jobs of the template keep their parameters and its name."""
    _audit(template, "template_deleted", by, {"name": template.name})
    template.delete()


class Imported(NamedTuple):
    template: Template
    is_new: bool
    notes: list[str]
    """What was left out of the file, and why."""


def template_import(*, project: Project, body: TemplateRequest, replace: bool, by: str) -> Imported:
    """With `replace` an existing template of that name gets a new version; otherwise raises Problem 409."""
    body, notes = _without_unused_params(body)
    existing = Template.objects.select_related("project").filter(project=project, name=body.name).first()
    if existing is not None and replace:
        return Imported(template_update(template=existing, body=body, by=by), False, notes)
    return Imported(template_create(project=project, body=body, by=by), True, notes)


def template_name(name: str) -> str:
    """Returns the name if it is valid. Raises Problem."""
    if name in RESERVED:
        message = f"{name!r} is a word of the API; choose another name"
        raise Problem("invalid", f"name: {message}.", fields={"name": [message]})
    return name_check(name)


def _without_unused_params(body: TemplateRequest) -> tuple[TemplateRequest, list[str]]:
    if body.method not in METHODS:
        return body, []
    params, notes = params_class(body.method).imported(body.params)
    return body.model_copy(update={"params": params}), notes


@transaction.atomic
def _create(project: Project, name: str, content: Mapping[str, Any], by: str, data: dict[str, Any]) -> Template:
    template = Template(project=project, name=name, **content)
    _save(template)
    TemplateVersion.objects.create(template=template, version=1, content=content, actor=by)
    _audit(template, "template_created", by, {"name": name, **data})
    return template


@transaction.atomic
def _replace(template: Template, name: str, content: Mapping[str, Any], by: str, kind: str) -> Template:
    template = Template.objects.select_for_update(of=("self",)).select_related("project").get(pk=template.pk)
    before = {column: getattr(template, column) for column in content}
    if (name, content) == (template.name, before):
        return template
    template.name = name
    if content != before:
        template.version += 1
        for column, value in content.items():
            setattr(template, column, value)
        TemplateVersion.objects.create(template=template, version=template.version, content=content, actor=by)
    _save(template)
    _audit(template, kind, by, {"name": name, "version": template.version})
    return template


def _save(template: Template) -> None:
    try:
        with transaction.atomic():
            template.save()
    except IntegrityError:
        message = f"there is a template {template.name!r} already; change that one, or choose another name"
        raise Problem("name_taken", f"name: {message}.", status=409, fields={"name": [message]}) from None


def _audit(template: Template, kind: str, by: str, data: dict[str, Any]) -> None:
    name = f"template:{template.pk}"
    audit_add(actor=by, kind=kind, object=name, project_id=template.project_id, at=timezone.now(), data=data)


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
