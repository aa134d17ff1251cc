"""Writes of templates. Each change is a new version; versions never change."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.utils import timezone

from api.accounts.models import Project
from api.audit.names import name_check
from api.audit.services import audit_add
from api.catalog.models import Template, TemplateVersion
from api.catalog.templates.check import template_content
from api.catalog.templates.schemas import TemplateRequest
from api.errors import Problem
from trainers.contract.params import METHODS, params_class

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
