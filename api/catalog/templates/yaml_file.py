"""Templates as YAML files: read as untrusted input, written so that every YAML parser reads the same."""

from typing import Any

import yaml

from api.catalog.models import TemplateVersion
from api.errors import Problem
from foundation.yaml12 import PlainDumper, PlainLoader

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
