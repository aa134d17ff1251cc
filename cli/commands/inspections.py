"""`anneal template preview` and `anneal dataset inspect`: what a trainer would see, as a job of its own."""

from typing import Annotated

import typer

from cli.commands.sample import wait
from cli.completion import DATASETS, METHODS, TEMPLATES
from cli.errors import CliError, Exit
from cli.http import Client, Record, without_none
from cli.output import Json, connect, print_json
from cli.report import report_print, report_read
from cli.requests import Model, Pool, Settings, method_schema, settings_parse

METHOD_OF_KIND = {"text": "masked_text", "images": "image_lora"}
CPU = {"resources": {"accelerators": 0}}
Rows = Annotated[int, typer.Option("--num-rows", "-n", min=1, max=64, help="Samples shown.")]
Ref = Annotated[
    str, typer.Argument(help="Name of the template, or name@version.", autocompletion=TEMPLATES, metavar="NAME")
]
Dataset = Annotated[str | None, typer.Option(help="Use this one instead of the template's.", autocompletion=DATASETS)]


def template_preview(
    name: Ref,
    dataset: Dataset = None,
    model: Model = None,
    num_rows: Rows = 8,
    set_: Settings = None,
    pool: Pool = None,
    as_json: Json = False,
) -> None:
    """Show what a job of the template would see: crops, buckets and captions, or tokens by their part."""
    with connect() as client:
        job = preview_start(
            client, name, settings=set_ or [], num_rows=num_rows, dataset=dataset, model=model, pool=pool
        )
        report_show(client, job, as_json=as_json)


def dataset_inspect(
    name: Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=DATASETS)],
    template: Annotated[str | None, typer.Option(help="For jobs of this template.", autocompletion=TEMPLATES)] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Without a template: for this method.", autocompletion=METHODS)
    ] = None,
    model: Model = None,
    num_rows: Rows = 8,
    set_: Settings = None,
    pool: Pool = None,
    as_json: Json = False,
) -> None:
    """Show what a trainer would read of the dataset, and every file or row that it would drop or change, and why."""
    with connect() as client:
        if template:
            changes = {"dataset": name, "model": model, "pool": pool}
            job = preview_start(client, template, settings=set_ or [], num_rows=num_rows, **changes)
        else:
            method = method or METHOD_OF_KIND[client.get(f"datasets/{name}")["details"].get("kind", "images")]
            shown = {"template_method": method, "num_rows": num_rows}
            shown |= {"template_params": settings_parse(set_ or [], method_schema(client, method))}
            body = {"name": f"inspect {name}", "method": "inspect_dataset", "params": shown, "dataset": name}
            job = client.post("jobs", {**body, **without_none({"model": model, "pool": pool}), **CPU})
        report_show(client, job, as_json=as_json)


def preview_start(
    client: Client, template: str, *, settings: list[str], num_rows: int, **changes: str | None
) -> Record:
    schema = method_schema(client, client.get(f"templates/{template}")["method"]) if settings else None
    body = {"params": settings_parse(settings, schema), "num_rows": num_rows, **without_none(changes)}
    job: Record = client.post(f"templates/{template}/preview", body)
    return job


def report_show(client: Client, job: Record, *, as_json: bool) -> None:
    ended = wait(client, job, as_json=as_json)
    report = report_read(client, ended["id"])
    if report is None:
        raise CliError("the job succeeded but left no report", f"anneal job logs {ended['id'][:8]}")
    if as_json:
        print_json({"job": ended["id"], **report})
    else:
        report_print(report, ended["id"][:8])
    if report.get("refused"):
        raise typer.Exit(Exit.FAILED)
