"""`anneal template`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.commands import bundled, inspections
from cli.completion import METHODS, TEMPLATES
from cli.errors import CliError
from cli.http import Client, Record
from cli.output import (
    Json,
    connect,
    err,
    out,
    print_done,
    print_json,
    print_record,
    print_rows,
    print_table,
    stdout_write,
)
from cli.requests import Method, Settings, method_schema, settings_parse, takes_request, yaml_load

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the template.", autocompletion=TEMPLATES)]
Ref = Annotated[
    str, typer.Argument(help="Name of the template, or name@version.", autocompletion=TEMPLATES, metavar="NAME")
]
INPUTS = ("dataset", "further_datasets", "class_dataset", "model", "adaptors")
KEYS = ("name", "method", "params", *INPUTS, "resources", "pool", "priority")


@app.command("list")
def template_list(
    search: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    method: Annotated[str | None, typer.Option(help="Only of this method.", autocompletion=METHODS)] = None,
    as_json: Json = False,
) -> None:
    """All templates."""
    with connect() as client:
        rows = list(client.pages("templates", search=search, method=method))
    columns = {"name": "name", "version": "version", "method": "method", "dataset": "dataset", "model": "model"}
    print_rows(rows, columns, as_json=as_json)


@app.command("show")
def template_show(name: Ref, as_json: Json = False) -> None:
    """One template with its parameters."""
    with connect() as client:
        template = client.get(f"templates/{name}")
    if as_json:
        print_json(template)
    else:
        print_record(template, ["name", "version", "latest", *(key for key in KEYS[1:] if key != "params")])
        print_table(
            [{"name": k, "value": v} for k, v in template["params"].items()], {"parameter": "name", "": "value"}
        )


@app.command("create")
@takes_request
def template_create(
    name: Name,
    method: Method,
    set_: Settings = None,
    request: Record = {},  # noqa: B006 stands for the shared options
    as_json: Json = False,
) -> None:
    """Save parameters under a name; `anneal method show METHOD` lists them."""
    with connect() as client:
        params = settings_parse(set_ or [], method_schema(client, method))
        template = client.post("templates", {"name": name, "method": method, "params": params, **request})
    template_print(template, as_json=as_json, verb="created")


@app.command("import")
def template_import(
    file: Annotated[Path, typer.Argument(help="YAML with name, method, params, dataset, model, ...")],
    name: Annotated[str, typer.Option(help="Save under this name instead of the file's.")] = "",
    as_json: Json = False,
) -> None:
    """Save a template from a file; one of the same name gets a new version."""
    body = yaml_load(file)
    with connect() as client:
        template = template_put(client, {**body, "name": name or body.get("name") or file.stem})
    template_print(template, as_json=as_json, verb="saved")


@app.command("export")
def template_export(
    name: Ref,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; standard output if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Print a template as YAML, to keep in git or to import elsewhere."""
    with connect() as client:
        if as_json:
            template = client.get(f"templates/{name}")
            print_json({key: template[key] for key in KEYS if template.get(key) not in (None, [], {})})
            return
        text = client.request("GET", f"templates/{name}/export").text
    if output:
        output.write_text(text, encoding="utf-8")
        out.print(f"wrote {output}")
    else:
        stdout_write(text)


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
    """Makes the template, or a new version of the one of that name."""
    template: Record = client.post("templates/import", body, params={"replace": "true"})
    return template


def template_print(template: Record, *, as_json: bool, verb: str) -> None:
    if as_json:
        print_json(template)
    else:
        out.print(f"{verb} template {template['name']}@{template['version']} ({template['method']})")
        for note in template.get("notes", []):
            err.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)


app.command("bundled")(bundled.template_bundled)
app.command("install")(bundled.template_install)
app.command("preview")(inspections.template_preview)


@app.command("validate")
def template_validate(name: Ref, as_json: Json = False) -> None:
    """Check that everything the template names still exists; exit with 1 if not."""
    with connect() as client:
        verdict: Record = client.post(f"templates/{name}/validate")
    if as_json:
        print_json(verdict)
    if not verdict["valid"]:
        error = CliError(verdict["message"], code="invalid")
        error.fields = verdict["fields"]
        raise error
    if not as_json:
        for warning in verdict["warnings"]:
            err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
        out.print(f"{escape(name)} is good")


@app.command("clone")
def template_clone(
    name: Ref, new: Annotated[str, typer.Argument(help="Name of the new template.")], as_json: Json = False
) -> None:
    """Copy a template under a new name."""
    with connect() as client:
        template = client.post(f"templates/{name}/clone", {"name": new})
    print_done(template, f"cloned {escape(name)} to {escape(new)}", as_json=as_json)


@app.command("history")
def template_versions(name: Name, as_json: Json = False) -> None:
    """Versions of a template, newest first; `show NAME@VERSION` shows one."""
    with connect() as client:
        rows = list(client.pages(f"templates/{name}/versions"))
    columns = {"version": "version", "by": "actor", "at": "updated", "dataset": "dataset", "params": "params"}
    print_rows(rows, columns, as_json=as_json)


@app.command("restore")
def template_restore(
    name: Name, version: Annotated[int, typer.Argument(help="Its number.")], as_json: Json = False
) -> None:
    """Restore an older version as the newest one."""
    with connect() as client:
        restored = client.post(f"templates/{name}/restore", {"version": version})
    sentence = f"{escape(name)}@{restored['version']} says what version {version} said"
    print_done(restored, sentence, as_json=as_json)
