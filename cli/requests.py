"""The options that templates and jobs share, `--set` values, and the request that they make."""

import inspect
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from cli.completion import ADAPTORS, DATASETS, JOBS, METHODS, MODELS
from cli.errors import CliError, Exit
from cli.http import Client, Record, without_none
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


JobRef = Annotated[str, typer.Argument(help="Id of the job, or its first 8 characters or more.", autocompletion=JOBS)]

Method = Annotated[
    str, typer.Option("--method", "-m", help="What to run, for instance image_lora.", autocompletion=METHODS)
]
Dataset = Annotated[str | None, typer.Option(help="Dataset: name or name@version.", autocompletion=DATASETS)]
FurtherDatasets = Annotated[
    list[str] | None,
    typer.Option("--further-dataset", help="A dataset read after the first; may be repeated.", autocompletion=DATASETS),
]
ClassDataset = Annotated[
    str | None, typer.Option(help="Images of the class, for prior preservation.", autocompletion=DATASETS)
]
Model = Annotated[str | None, typer.Option(help="Base model: name or name@version.", autocompletion=MODELS)]
Adaptors = Annotated[
    list[str] | None,
    typer.Option("--adaptor", help="Adaptor: name or name@version; may be repeated.", autocompletion=ADAPTORS),
]
Settings = Annotated[list[str] | None, typer.Option("--set", "-s", help="A parameter: key=value; may be repeated.")]
Accelerators = Annotated[
    int | None, typer.Option(min=0, help="How many; 0 = the CPU. Left out: one if the pool has any.")
]
Pool = Annotated[str | None, typer.Option(help="Workers that may take it.")]
Priority = Annotated[int | None, typer.Option(help="Higher goes first.")]
REQUEST: dict[str, Any] = {
    "dataset": Dataset,
    "further_datasets": FurtherDatasets,
    "class_dataset": ClassDataset,
    "model": Model,
    "adaptors": Adaptors,
    "accelerators": Accelerators,
    "pool": Pool,
    "priority": Priority,
}
"""Options in the order of the help."""


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Puts the shared options in the place of the parameter `request`, which gets the part of a request body that they
    make."""
    return takes("request", REQUEST, request_body)(command)


def takes(
    place: str, options: dict[str, Any], make: Callable[..., Record]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Puts `options` in the place of the parameter `place`, which gets what `make` makes of their values. Typer reads
    signature and annotations, so both are written anew."""

    def taking(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(**arguments: Any) -> None:
            options_given = {name: arguments.pop(name) for name in options}
            command(**arguments, **{place: make(**options_given)})

        signature = inspect.signature(command)
        kind = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter(name, kind, default=None, annotation=option) for name, option in options.items()]
        before: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            before += shared if parameter.name == place else [parameter.replace(kind=kind)]
        wrapped.__signature__ = signature.replace(parameters=before)  # type: ignore[attr-defined]  # functions have it
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in before} | {"return": None}
        return wrapped

    return taking


def request_body(*, accelerators: int | None = None, **fields: Any) -> Record:
    """What was given, and nothing else: the API fills in the rest. `fields`: the names of REQUEST."""
    resources: dict[str, Any] | None = None
    if accelerators is not None:
        resources = {"accelerators": accelerators, "strategy": "ddp" if accelerators > 1 else "single"}
    several = {name: fields.pop(name, None) or None for name in ("further_datasets", "adaptors")}
    return without_none({**fields, **several, "resources": resources})


def method_schema(client: Client, method: str) -> Record:
    """JSON Schema of the method's parameters. Raises ApiError that lists the known methods."""
    schema: Record = client.get(f"methods/{method}")["schema"]
    return schema
