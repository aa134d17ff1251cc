"""The options that templates and jobs share, and the request that they make."""

from typing import Annotated, Any

import typer

from cli.completion import ADAPTORS, DATASETS, METHODS, MODELS
from cli.http import Client, Record, known

Method = Annotated[
    str, typer.Option("--method", "-m", help="What to run, for instance image_lora.", autocompletion=METHODS)
]
Dataset = Annotated[str | None, typer.Option(help="Dataset: name or name@version.", autocompletion=DATASETS)]
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


def request_body(
    dataset: str | None,
    model: str | None,
    adaptors: list[str] | None,
    accelerators: int | None,
    pool: str | None,
    priority: int | None,
) -> Record:
    """What was given, and nothing else: the API fills in the rest."""
    resources: dict[str, Any] | None = None
    if accelerators is not None:
        resources = {"accelerators": accelerators, "strategy": "ddp" if accelerators > 1 else "single"}
    return known(
        {
            "dataset": dataset,
            "model": model,
            "adaptors": adaptors or None,
            "resources": resources,
            "pool": pool,
            "priority": priority,
        }
    )


def method_schema(client: Client, method: str) -> Record:
    """JSON Schema of the method's parameters. Raises ApiError that lists the known methods."""
    schema: Record = client.get(f"methods/{method}")["schema"]
    return schema
