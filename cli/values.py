"""What a person types becomes values: `--set key=value`, YAML files."""

import json
from pathlib import Path
from typing import Any

import yaml

from cli.errors import CliError, Exit
from cli.http import Record
from foundation.yaml12 import PlainLoader


def yaml_load(path: Path) -> Record:
    """One YAML (or JSON) mapping. Raises CliError that names file and line."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=PlainLoader)
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", exit_code=Exit.USAGE) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CliError(f"{path} is not YAML: {error}", exit_code=Exit.USAGE) from error
    if not isinstance(content, dict):
        raise CliError(f"{path}: expected `key: value` lines, got {type(content).__name__}", exit_code=Exit.USAGE)
    return content


def settings_parse(pairs: list[str], schema: Record | None = None) -> Record:
    """`["lora_r=16"]` as parameters: JSON where it reads as JSON, else text, as in `schema`.

    A list is JSON, or numbers separated by commas, or one text for each time that its key is given.
    """
    properties = (schema or {}).get("properties", {})
    values: Record = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CliError(f"--set expects key=value, got {pair!r}", exit_code=Exit.USAGE)
        field = choice_of(properties.get(key, {}))
        values[key] = [*values.get(key, []), *list_read(field, value)] if is_list(field) else value_read(field, value)
    return values


def choice_of(field: Record) -> Record:
    """The one choice of a field that may also be none."""
    choices = [choice for choice in field.get("anyOf", ()) if choice.get("type") != "null"]
    return {**choices[0], "nullable": True} if len(choices) == 1 else field


def is_list(field: Record) -> bool:
    return field.get("type") == "array"


def list_read(field: Record, value: str) -> list[Any]:
    parsed = json_or_text(value)
    if isinstance(parsed, list):
        return parsed
    if choice_of(field.get("items", {})).get("type") == "string":
        return [value]
    return [json_or_text(one.strip()) for one in value.split(",")] if value else []


def value_read(field: Record, value: str) -> Any:
    if field.get("type") != "string":
        return json_or_text(value)
    return None if field.get("nullable") and value == "null" else value


def json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
