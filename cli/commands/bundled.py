"""`anneal template bundled` and `install`: ready templates with the datasets and base models that they need."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.commands.sample import wait
from cli.errors import ApiError, CliError, Exit
from cli.fetching import Secrets, fetched
from cli.http import Client, Record, without_none
from cli.output import Json, connect, err, print_done, print_rows
from cli.requests import Pool, yaml_load
from cli.transfers import version_ready

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "templates"
COLLECTIONS = {"dataset": "datasets", "model": "models"}


def names(incomplete: str) -> list[str]:
    return [name for name in bundled() if name.startswith(incomplete)]


def template_bundled(as_json: Json = False) -> None:
    """Templates that ship with Anneal; `anneal template install NAME` installs one."""
    rows = [row(name, content) for name, content in bundled().items()]
    columns = {"name": "name", "what": "summary", "dataset": "dataset", "base model": "model"}
    print_rows(rows, columns, as_json=as_json)


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
