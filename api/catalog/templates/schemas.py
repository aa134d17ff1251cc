"""Request and response schemas of templates, as JSON and as YAML files."""

from datetime import datetime
from typing import Any, Self

import yaml
from pydantic import Field

from api.catalog.models import Template, TemplateVersion
from api.errors import Problem
from api.openapi import Schema
from foundation.yaml12 import PlainDumper, PlainLoader
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


MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_NODES = 20_000
PLAIN_TAGS = {"tag:yaml.org,2002:" + name for name in ("null", "bool", "int", "float", "str", "map", "seq")}


def template_read(data: bytes) -> dict[str, Any]:
    """Parses one mapping of scalars, lists and mappings. Raises Problem that names line and column."""
    if len(data) > MAX_BYTES:
        raise Problem("too_large", f"Expected a template of at most {MAX_BYTES} bytes, got {len(data)}.", status=413)
    try:
        text = data.decode("utf-8-sig")
        _events_check(text)
        content = yaml.load(text, Loader=PlainLoader)
    except UnicodeDecodeError as error:
        raise _bad(f"expected UTF-8, got the byte 0x{data[error.start]:02x} at offset {error.start}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise _bad(_error_text(error)) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise _bad(f"expected `name: value` lines, got {type(content).__name__}")
    return content


def template_write(version: TemplateVersion) -> str:
    """The inverse of `template_read`, without empty values."""
    columns = {"name": version.template.name, **version.content}
    content = {name: value for name, value in columns.items() if value not in (None, [], {})}
    body = yaml.dump(content, Dumper=PlainDumper, sort_keys=False, allow_unicode=True)
    return f"# Anneal template {version}\n{body}"


def _events_check(text: str) -> None:
    """Rejects aliases (which can expand beyond memory), tags, depth and duplicate keys before any object is built."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=PlainLoader):
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _at(event, "anchors and aliases are not allowed; write the value out")
        if (tag := getattr(event, "tag", None)) not in (None, "!", *PLAIN_TAGS):
            raise _at(event, f"the tag {tag} is not allowed; templates hold plain values")
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise _at(event, f"more than {MAX_DEPTH} levels or {MAX_NODES} values")
    _keys_check(yaml.compose(text, Loader=PlainLoader))


def _keys_check(node: Any) -> None:
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys:
                raise _at(key, f"the key {key.value!r} stands there twice")
            keys.add(key.value)
            _keys_check(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _keys_check(value)


def _at(node: Any, message: str) -> ValueError:
    mark = node.start_mark
    return ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {message}")


def _error_text(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error)


def _bad(message: str) -> Problem:
    return Problem("bad_yaml", f"The template cannot be read: {message}.", fields={"": [message]})
