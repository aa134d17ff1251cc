"""`anneal template`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.completion import TEMPLATES
from cli.errors import ApiError
from cli.http import Client, Record
from cli.output import Json, connect, out, print_json, print_record, print_table
from cli.requests import (
    Accelerators,
    Adaptors,
    Dataset,
    Method,
    Model,
    Pool,
    Priority,
    Settings,
    method_schema,
    request_body,
)
from cli.values import settings_parse, yaml_dump, yaml_load

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the template.", autocompletion=TEMPLATES)]
KEYS = ("name", "method", "params", "dataset", "model", "adaptors", "resources", "pool", "priority")


@app.command("list")
def template_list(as_json: Json = False) -> None:
    """All templates."""
    with connect() as client:
        rows = list(client.pages("templates"))
    if as_json:
        print_json(rows)
    else:
        print_table(rows, {"name": "name", "method": "method", "dataset": "dataset", "model": "model"})


@app.command("show")
def template_show(name: Name, as_json: Json = False) -> None:
    """One template with its parameters."""
    with connect() as client:
        template = client.get(f"templates/{name}")
    if as_json:
        print_json(template)
    else:
        print_record(template, [key for key in KEYS if key != "params"])
        print_table(
            [{"name": k, "value": v} for k, v in template["params"].items()], {"parameter": "name", "": "value"}
        )


@app.command("create")
def template_create(
    name: Name,
    method: Method,
    dataset: Dataset = None,
    model: Model = None,
    adaptor: Adaptors = None,
    set_: Settings = None,
    accelerators: Accelerators = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Save parameters under a name; `anneal method show METHOD` lists them."""
    with connect() as client:
        body = request_body(dataset, model, adaptor, accelerators, pool, priority)
        params = settings_parse(set_ or [], method_schema(client, method))
        template = client.post("templates", {"name": name, "method": method, "params": params, **body})
    said(template, as_json=as_json, verb="created")


@app.command("import")
def template_import(
    file: Annotated[Path, typer.Argument(help="YAML with name, method, params, dataset, model, ...")],
    name: Annotated[str, typer.Option(help="Save under this name instead of the file's.")] = "",
    as_json: Json = False,
) -> None:
    """Save a template from a file; one of the same name is replaced."""
    body = yaml_load(file)
    with connect() as client:
        template = template_put(client, {**body, "name": name or body.get("name") or file.stem})
    said(template, as_json=as_json, verb="saved")


@app.command("export")
def template_export(
    name: Name,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; standard output if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Print a template as YAML, to keep in git or to import elsewhere."""
    with connect() as client:
        template = client.get(f"templates/{name}")
    kept = {key: template[key] for key in KEYS if template.get(key) not in (None, [], {})}
    if as_json:
        print_json(kept)
    elif output:
        output.write_text(yaml_dump(kept), encoding="utf-8")
        out.print(f"wrote {output}")
    else:
        typer.echo(yaml_dump(kept), nl=False)


@app.command("delete")
def template_delete(name: Name, as_json: Json = False) -> None:
    """Delete a template; its jobs stay."""
    with connect() as client:
        client.delete(f"templates/{name}")
    if as_json:
        print_json({"deleted": name})
    else:
        out.print(f"deleted {name}")


def template_put(client: Client, body: Record) -> Record:
    """Makes the template, or replaces the one of the same name."""
    try:
        made: Record = client.post("templates", body)
    except ApiError as error:
        if error.status != 409:
            raise
        made = client.put(f"templates/{body['name']}", body)
    return made


def said(template: Record, *, as_json: bool, verb: str) -> None:
    if as_json:
        print_json(template)
    else:
        out.print(f"{verb} template {template['name']} ({template['method']})")
