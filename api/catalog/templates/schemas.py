"""Request and response schemas of templates."""

from datetime import datetime
from typing import Any, Self

from pydantic import Field

from api.catalog.models import Template, TemplateVersion
from api.openapi import Schema
from trainers.contract.spec import Contract

INPUT_ROLES = ("dataset", "further_datasets", "class_dataset", "model", "adaptors")
"""The inputs that a template or a request may name; a checkpoint is chosen by the job itself."""
MAX_DATASETS = 20


class TemplateContent(Contract):
    """All fields of a template except its name."""

    method: str
    params: dict[str, Any] = Field({})
    """Of the method; what is left out has its default."""
    dataset: str | None = None
    """name or name@version"""
    further_datasets: list[str] = Field([], max_length=MAX_DATASETS)
    """Read after it, in this order."""
    class_dataset: str | None = None
    """Images of the class, for prior preservation."""
    model: str | None = None
    adaptors: list[str] = Field([])
    resources: dict[str, Any] | None = None
    """{accelerators: a count or exact indices, strategy}; left out: one accelerator where the pool has any."""
    pool: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")
    priority: int | None = Field(None, ge=-1000, le=1000)


class TemplateRequest(TemplateContent):
    name: str


class VerdictRequest(TemplateContent):
    name: str | None = None
    """Not looked at: what is checked may have no name yet."""


class VersionNumber(Contract):
    version: int = Field(ge=1, le=999_999_999)


class VerdictShape(Schema):
    valid: bool
    message: str
    """Empty where it is valid."""
    fields: dict[str, list[Any]]
    """What is wrong with which value, by its dotted path."""
    warnings: list[str]
    """Allowed, but probably not meant."""
    params: dict[str, Any] | None
    """With every default; null where it is not valid."""


class TemplateShape(Schema):
    name: str
    version: int
    """Of what is shown here."""
    latest: int
    """The newest version there is."""
    method: str
    params: dict[str, Any]
    dataset: str | None
    further_datasets: list[str]
    class_dataset: str | None
    model: str | None
    adaptors: list[str]
    resources: dict[str, Any] | None
    pool: str | None
    priority: int | None
    created: datetime
    updated: datetime
    """When this version was made."""

    @classmethod
    def of(cls, template: Template, **others: Any) -> Self:
        """The newest version."""
        content = {name: getattr(template, name) for name in TemplateContent.model_fields}
        return cls._of(template, template.version, content, template.updated, others)

    @classmethod
    def of_version(cls, version: TemplateVersion, **others: Any) -> Self:
        if version.version == version.template.version:
            return cls.of(version.template, **others)
        return cls._of(version.template, version.version, version.content, version.created, others)

    @classmethod
    def _of(
        cls, template: Template, version: int, content: dict[str, Any], updated: datetime, others: dict[str, Any]
    ) -> Self:
        numbers = {"version": version, "latest": template.version}
        values = {**content, **numbers, "name": template.name, "created": template.created, "updated": updated}
        return cls.model_validate({**values, **others})


class TemplateImportShape(TemplateShape):
    notes: list[str]
    """What was left out of the file, and why."""


class TemplateVersionShape(TemplateShape):
    actor: str
    """Who made the version."""
