"""Writes of templates. Each change is a new version; what a version says is never changed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.utils import timezone

from api.accounts.models import Project
from api.audit.names import name_check
from api.audit.services import audit_add
from api.catalog.models import Template, TemplateVersion
from api.catalog.shapes import TemplateRequest
from api.catalog.templates.check import template_content
from api.errors import Problem
from trainers.contract.params import METHODS, params_class

RESERVED = ("validate", "import")
"""Words that stand in the place of a name in addresses."""


def template_create(*, project: Project, wanted: TemplateRequest, by: str) -> Template:
    """Raises Problem: 409 where the name is taken, 400 with fields as params.<name>."""
    name = template_name(wanted.name)
    return _create(project, name, template_content(project, wanted), by, {})


def template_update(*, template: Template, wanted: TemplateRequest, by: str) -> Template:
    """Replaces all by a new version; the same content again makes none. Another name renames it. Raises Problem."""
    name, content = template_name(wanted.name), template_content(template.project, wanted)
    return _replace(template, name, content, by, "template_updated")


def template_restore(*, template: Template, version: TemplateVersion, by: str) -> Template:
    """What the version said becomes the newest version. It is not checked: its inputs may be gone, as jobs will say."""
    return _replace(template, template.name, version.content, by, "template_restored")


def template_clone(*, version: TemplateVersion, name: str, by: str) -> Template:
    """A template of its own that starts with what the version says. Raises Problem 409 where the name is taken."""
    return _create(version.template.project, template_name(name), version.content, by, {"from": str(version)})


@transaction.atomic
def template_delete(*, template: Template, by: str) -> None:
    """Jobs that were made from it keep their parameters and the name that it had."""
    _told(template, "template_deleted", by, {"name": template.name})
    template.delete()


class Imported(NamedTuple):
    template: Template
    is_new: bool
    notes: list[str]
    """What of the file was left out, and why."""


def template_import(*, project: Project, wanted: TemplateRequest, replace: bool, by: str) -> Imported:
    """A template of the same name gets a version where `replace`, else it is a 409."""
    wanted, notes = _without_idle_params(wanted)
    found = Template.objects.select_related("project").filter(project=project, name=wanted.name).first()
    if found is not None and replace:
        return Imported(template_update(template=found, wanted=wanted, by=by), False, notes)
    return Imported(template_create(project=project, wanted=wanted, by=by), True, notes)


def template_name(name: str) -> str:
    """The name itself. Raises Problem."""
    if name in RESERVED:
        said = f"{name!r} is a word of the API; choose another name"
        raise Problem("invalid", f"name: {said}.", fields={"name": [said]})
    return name_check(name)


def _without_idle_params(wanted: TemplateRequest) -> tuple[TemplateRequest, list[str]]:
    if wanted.method not in METHODS:
        return wanted, []
    params, notes = params_class(wanted.method).imported(wanted.params)
    return wanted.model_copy(update={"params": params}), notes


@transaction.atomic
def _create(project: Project, name: str, content: Mapping[str, Any], by: str, told: dict[str, Any]) -> Template:
    template = Template(project=project, name=name, **content)
    _save(template)
    TemplateVersion.objects.create(template=template, version=1, content=content, actor=by)
    _told(template, "template_created", by, {"name": name, **told})
    return template


@transaction.atomic
def _replace(template: Template, name: str, content: Mapping[str, Any], by: str, kind: str) -> Template:
    template = Template.objects.select_for_update(of=("self",)).select_related("project").get(pk=template.pk)
    before = {word: getattr(template, word) for word in content}
    if (name, content) == (template.name, before):
        return template
    template.name = name
    if content != before:
        template.version += 1
        for column, value in content.items():
            setattr(template, column, value)
        TemplateVersion.objects.create(template=template, version=template.version, content=content, actor=by)
    _save(template)
    _told(template, kind, by, {"name": name, "version": template.version})
    return template


def _save(template: Template) -> None:
    try:
        with transaction.atomic():
            template.save()
    except IntegrityError:
        said = f"there is a template {template.name!r} already; change that one, or choose another name"
        raise Problem("name_taken", f"name: {said}.", status=409, fields={"name": [said]}) from None


def _told(template: Template, kind: str, by: str, data: dict[str, Any]) -> None:
    about = f"template:{template.pk}"
    audit_add(actor=by, kind=kind, object=about, project_id=template.project_id, at=timezone.now(), data=data)
