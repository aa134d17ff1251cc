"""Rows as the JSON that `docs/rest.md` promises."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from api.catalog.models import Template, TemplateVersion, VersionState
from api.catalog.shapes import TemplateContent
from api.environment import environment
from api.storage import storage

JsonObject = dict[str, Any]


def version_summary(record: Any, version: Any, versions: Sequence[Any]) -> JsonObject:
    """`version` of `record`, or nulls where it has none yet; `versions`: all of them, oldest first."""
    details = dict(version.details) if version else {}
    details.pop("notices", None)
    family = {"family": getattr(version, "family", None) or None} if _is_model(record) else {}
    return {
        "name": record.name,
        "version": version.version if version else None,
        "state": version.state if version else None,
        "reason": version.reason if version else None,
        "versions": [each.version for each in versions if each.state == VersionState.READY],
        "unready": [_unready(each) for each in versions if each.state != VersionState.READY],
        **family,
        "digest": version.digest if version else None,
        "num_files": version.num_files if version else None,
        "size_bytes": version.size_bytes if version else None,
        "warnings": details.pop("warnings", []),
        "details": details,
        "created": version.created if version else record.created,
    }


def version_detail(record: Any, version: Any, versions: Sequence[Any]) -> JsonObject:
    """With every notice and every file; those of a version that is not ready have no links."""
    summary = version_summary(record, version, versions)
    if version is None or version.state != VersionState.READY:
        return {**summary, "notices": [], "files": []}
    return {**summary, "notices": version.details.get("notices", []), "files": linked(version.key, version.files)}


def _unready(version: Any) -> JsonObject:
    return {"version": version.version, "state": version.state, "reason": version.reason}


def _is_model(record: Any) -> bool:
    return bool(record._meta.model_name == "pretrainedmodel")


def template_answer(template: Template) -> JsonObject:
    """What stands in the template now."""
    content = {word: getattr(template, word) for word in TemplateContent.model_fields}
    return _template(template, template.version, content, template.updated)


def template_version_answer(version: TemplateVersion) -> JsonObject:
    if version.version == version.template.version:
        return template_answer(version.template)
    return _template(version.template, version.version, version.content, version.created)


def _template(template: Template, version: int, content: JsonObject, updated: datetime) -> JsonObject:
    numbers = {"version": version, "latest": template.version}
    return {"name": template.name, **numbers, **content, "created": template.created, "updated": updated}


def linked(key: str, files: Sequence[JsonObject]) -> list[JsonObject]:
    """The files with a signed link each."""
    seconds = environment().link_seconds
    return [
        {**file, "url": storage().presign_get(f"{key}/{file['path']}", expires_seconds=seconds).url} for file in files
    ]
