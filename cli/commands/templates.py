"""`anneal template`: saved parameters, and the bundled templates with the datasets and base models that they need."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.commands import inspections
from cli.completion import METHODS, TEMPLATES
from cli.errors import ApiError, CliError, Exit
from cli.http import Client, Record, without_none
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
from cli.requests import Method, Pool, Settings, method_schema, settings_parse, takes_request, yaml_load
from cli.uploads import version_ready
from cli.versions import Secrets, fetched
from cli.watch import wait

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the template.", autocompletion=TEMPLATES)]
Ref = Annotated[
    str, typer.Argument(help="Name of the template, or name@version.", autocompletion=TEMPLATES, metavar="NAME")
]
INPUTS = ("dataset", "further_datasets", "class_dataset", "model", "adaptors")
KEYS = ("name", "method", "params", *INPUTS, "resources", "pool", "priority")
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "templates"
COLLECTIONS = {"dataset": "datasets", "model": "models"}


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


def names(incomplete: str) -> list[str]:
    return [name for name in bundled() if name.startswith(incomplete)]


@app.command("bundled")
def template_bundled(as_json: Json = False) -> None:
    """Templates that ship with Anneal; `anneal template install NAME` installs one."""
    rows = [row(name, content) for name, content in bundled().items()]
    columns = {"name": "name", "what": "summary", "dataset": "dataset", "base model": "model"}
    print_rows(rows, columns, as_json=as_json)


@app.command("install")
def template_install(
    name: Annotated[str, typer.Argument(help="Of `anneal template bundled`.", autocompletion=names)],
    endpoint: Annotated[str | None, typer.Option(help="URL of another Hub that the operator allows.")] = None,
    secret: Secrets = None,
    pool: Pool = None,
    as_json: Json = False,
) -> None:
    """Install a bundled template; fetches its dataset and base model from the Hub if they are missing."""
    content = bundled().get(name)
    if content is None:
        known_names = ", ".join(bundled()) or "none: they come with a checkout of the project"
        raise CliError(f"there is no bundled template {name!r}; there are {known_names}", exit_code=Exit.USAGE)
    more = without_none({"endpoint": endpoint, "secrets": secret})
    with connect() as client:
        jobs = {role: fetch_start(client, role, {**source, **more}, pool) for role, source in content["fetch"].items()}
        for role, job in jobs.items():
            if job:
                ended = wait(client, job, as_json=as_json)
                version_ready(client, COLLECTIONS[role], fetched(client, ended, COLLECTIONS[role]))
        template = client.post("templates/import", content["template"], params={"replace": "true"})
    name, version = template["name"], template["version"]
    message = f"template {name}@{version} is ready: anneal job submit --template {name} --watch"
    print_done(template, message, as_json=as_json)


def bundled() -> dict[str, Record]:
    """{summary, fetch: {dataset, model}, template} by name."""
    return {path.stem: yaml_load(path) for path in sorted(FOLDER.glob("*.yaml"))}


def row(name: str, content: Record) -> Record:
    fetch = {role: f"{source['repo']}@{source['revision']}" for role, source in content["fetch"].items()}
    return {"name": name, "summary": content["summary"], **fetch}


def fetch_start(client: Client, role: str, params: Record, pool: str | None) -> Record | None:
    """The queued job; None where a version of that name is there."""
    try:
        if client.get(f"{COLLECTIONS[role]}/{params['name']}")["version"] is not None:
            return None
    except ApiError as error:
        if error.status != 404:
            raise
    err.print(f"fetching {escape(params['repo'])}", style="dim")
    body = without_none({"name": f"fetch {params['repo']}", "method": f"fetch_{role}", "params": params, "pool": pool})
    job: Record = client.post("jobs", {**body, "resources": {"accelerators": 0}})
    return job


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
