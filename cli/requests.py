"""The options that templates and jobs share, and the request that they make."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from cli.completion import ADAPTORS, DATASETS, JOBS, METHODS, MODELS
from cli.http import Client, Record, without_none

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
