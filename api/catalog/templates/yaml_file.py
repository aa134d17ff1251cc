"""Templates as YAML files: read with no more trust than any request, written so that they read the same everywhere."""

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
    """One mapping of plain values. Raises Problem that names line and column."""
    if len(data) > MAX_BYTES:
        raise Problem("too_large", f"Expected a template of at most {MAX_BYTES} bytes, got {len(data)}.", status=413)
    try:
        text = data.decode("utf-8-sig")
        _events_check(text)
        found = yaml.load(text, Loader=PlainLoader)
    except UnicodeDecodeError as error:
        raise _bad(f"expected UTF-8, got the byte 0x{data[error.start]:02x} at offset {error.start}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise _bad(_said(error)) from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise _bad(f"expected `name: value` lines, got {type(found).__name__}")
    return found


def template_write(version: TemplateVersion) -> str:
    """What `template_read` gives back: only what is set, under its name."""
    words = {"name": version.template.name, **version.content}
    kept = {word: value for word, value in words.items() if value not in (None, [], {})}
    body = yaml.dump(kept, Dumper=PlainDumper, sort_keys=False, allow_unicode=True)
    return f"# Anneal template {version}\n{body}"


def _events_check(text: str) -> None:
    """Before anything is built: no aliases (they can stand for more than memory holds), tags, depth, doubled keys."""
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
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise _at(key, f"the key {key.value!r} stands there twice")
            seen.add(key.value)
            _keys_check(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _keys_check(value)


def _at(where: Any, said: str) -> ValueError:
    mark = where.start_mark
    return ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {said}")


def _said(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error)


def _bad(said: str) -> Problem:
    return Problem("bad_yaml", f"The template cannot be read: {said}.", fields={"": [said]})
