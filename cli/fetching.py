"""`fetch` of `anneal dataset` and `anneal model`: a job downloads from a Hub, and its product is a version."""

from typing import Annotated

import typer

from cli.commands.sample import wait
from cli.completion import SECRETS, names_of
from cli.errors import CliError
from cli.http import Client, Record, without_none
from cli.output import Json, connect, human_bytes, print_done
from cli.requests import Pool, Priority
from cli.transfers import version_ready
from cli.versions import warnings_say

Patterns = Annotated[list[str] | None, typer.Option(help="Only files like this, as unet/*; may be repeated.")]
Ignored = Annotated[list[str] | None, typer.Option(help="No files like this, as *.fp16.*; may be repeated.")]
Secrets = Annotated[
    list[str] | None,
    typer.Option("--secret", help="Project secret with the Hub's token; may be repeated.", autocompletion=SECRETS),
]


def add_fetch(app: typer.Typer, collection: str) -> None:
    """Adds the command for `collection` ("datasets" or "models") to `app`."""
    method = f"fetch_{collection.removesuffix('s')}"

    @app.command("fetch")
    def fetch(
        name: Annotated[
            str, typer.Argument(help="Name; adds a version if it exists.", autocompletion=names_of(collection))
        ],
        repo: Annotated[str, typer.Argument(help="Repository on the Hub: owner/name.")],
        revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; main if left out.")] = None,
        allow: Patterns = None,
        ignore: Ignored = None,
        config: Annotated[
            str | None, typer.Option(help="Configuration of a dataset that has several.", hidden=collection == "models")
        ] = None,
        split: Annotated[
            str | None, typer.Option(help="Only this split of a dataset.", hidden=collection == "models")
        ] = None,
        endpoint: Annotated[str | None, typer.Option(help="URL of another Hub that the operator allows.")] = None,
        secret: Secrets = None,
        pool: Pool = None,
        priority: Priority = None,
        as_json: Json = False,
    ) -> None:
        """Download from a Hugging Face Hub as a job, and wait until the version is checked."""
        options = {"revision": revision, "allow": allow, "ignore": ignore, "endpoint": endpoint, "secrets": secret}
        params = without_none({"name": name, "repo": repo, "config": config, "split": split, **options})
        body = without_none(
            {"name": f"fetch {repo}", "method": method, "params": params, "pool": pool, "priority": priority}
        )
        with connect() as client:
            ended = wait(client, client.post("jobs", {**body, "resources": {"accelerators": 0}}), as_json=as_json)
            version = version_ready(client, collection, fetched(client, ended, collection))
        size = human_bytes(version["size_bytes"])
        message = f"{version['name']}@{version['version']}: {version['num_files']} files, {size}"
        print_done(version, message, as_json=as_json)
        if not as_json:
            warnings_say(version)


def fetched(client: Client, job: Record, collection: str) -> Record:
    """The version that the job's event names."""
    events = list(client.pages(f"jobs/{job['id']}/events"))
    versions = [event["data"] for event in events if event["kind"] == "version"]
    if not versions:
        raise CliError(f"job {job['id'][:8]} succeeded but names no version", f"anneal job show {job['id'][:8]}")
    version: Record = client.get(f"{collection}/{versions[-1]['name']}@{versions[-1]['version']}")
    return version
