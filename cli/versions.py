"""Commands that datasets and base models share: list, show, add, used-by, delete, fetch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.completion import SECRETS, names_of
from cli.errors import CliError, Exit
from cli.http import Client, Record, without_none
from cli.output import (
    Json,
    connect,
    err,
    human_bytes,
    print_done,
    print_json,
    print_record,
    print_rows,
    print_table,
    transfer_bar,
)
from cli.requests import Pool, Priority
from cli.uploads import folder_size, folder_upload, version_ready, zip_upload
from cli.watch import wait

SHOWN = ("name", "version", "state", "versions", "family", "digest", "num_files", "size", "created")
MOST_NOTICES = 20
SAMPLING_INPUTS = "sampling-inputs"
"""Dataset of what samplings start from; each content is one version."""
ADAPTOR_IMPORTS = "adaptor-imports"
"""Dataset of LoRA files and checkpoints to import; each content is one version."""
HELPERS = (SAMPLING_INPUTS, ADAPTOR_IMPORTS)
"""Datasets that commands fill; nobody looks for them in a list."""


def add_commands(app: typer.Typer, collection: str, content: str, *, with_add: bool = True) -> None:
    """Adds the commands for `collection` ("datasets" or "models") to `app`; `content` says what a folder holds."""
    ref = typer.Argument(help="Name, or name@version.", autocompletion=names_of(collection))

    @app.command("list")
    def list_(
        search: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
        all_names: Annotated[
            bool, typer.Option("--all", help=f"With {', '.join(HELPERS)} too.", hidden=collection == "models")
        ] = False,
        as_json: Json = False,
    ) -> None:
        """Names with their latest version."""
        names_print(collection, search, all_names=all_names, as_json=as_json)

    @app.command("show")
    def show(name: Annotated[str, ref], as_json: Json = False) -> None:
        """One version: state, digest, size, files, what the check noticed."""
        with connect() as client:
            version = client.get(f"{collection}/{name}")
        if as_json:
            print_json(version)
        else:
            print_version(version)

    def add(
        name: Annotated[
            str, typer.Argument(help="Name; adds a version if it exists.", autocompletion=names_of(collection))
        ],
        path: Annotated[Path, typer.Argument(help="Folder or zip to upload.", exists=True)],
        strip_metadata: Annotated[
            bool,
            typer.Option(
                "--strip-metadata",
                help="Remove GPS positions, camera data and comments from images, losslessly.",
                hidden=collection == "models",
            ),
        ] = False,
        as_json: Json = False,
    ) -> None:
        version_add(collection, name, path, as_json=as_json, strip_metadata=strip_metadata)

    if with_add:
        app.command("add", help=add_help(content))(add)

    @app.command("used-by")
    def used_by(name: Annotated[str, ref], as_json: Json = False) -> None:
        """Jobs, templates and adaptors that a version is in."""
        uses_print(collection, name, as_json=as_json)

    @app.command("delete")
    def delete(
        name: Annotated[str, ref],
        all_versions: Annotated[bool, typer.Option("--all-versions", help="The name, with all it has.")] = False,
        as_json: Json = False,
    ) -> None:
        """Delete a version that nothing uses, as in `NAME@3`."""
        version_delete(collection, name, all_versions=all_versions, as_json=as_json)


def names_print(collection: str, search: str | None, *, all_names: bool, as_json: bool) -> None:
    with connect() as client:
        rows = list(client.pages(collection, search=search))
    if collection == "datasets" and not (all_names or search or as_json):
        rows = [row for row in rows if row["name"] not in HELPERS]
    columns = {"name": "name", "version": "version", "files": "num_files", "size": "size", "created": "created"}
    print_rows(rows if as_json else [sized(row) for row in rows], columns, as_json=as_json)


def uses_print(collection: str, name: str, *, as_json: bool) -> None:
    with connect() as client:
        uses = client.get(f"{collection}/{name}/used-by")
    if as_json:
        print_json(uses)
        return
    print_record(uses, ("num_jobs", "templates", "adaptors"))
    print_table(uses["jobs"], {"job": "id", "name": "name", "state": "state"})


def version_delete(collection: str, name: str, *, all_versions: bool, as_json: bool) -> None:
    if all_versions == ("@" in name):
        raise CliError(
            f"expected name@version, or a name with --all-versions, got {name!r}",
            f"`anneal {collection.removesuffix('s')} show {name.partition('@')[0]}` lists its versions.",
            exit_code=Exit.USAGE,
        )
    with connect() as client:
        client.delete(f"{collection}/{name}")
    print_done({"deleted": name}, f"deleted {name}", as_json=as_json)


def add_help(content: str) -> str:
    return f"Upload {content}, or a zip of it, as the next version; the same content again makes no new one."


def version_add(collection: str, name: str, path: Path, *, as_json: bool, strip_metadata: bool = False) -> None:
    """Uploads, waits for the check, prints the version and what the check noticed."""
    with connect() as client:
        sent = upload(client, collection, name, path, quiet=as_json, strip_metadata=strip_metadata)
        version = version_ready(client, collection, sent)
    size = human_bytes(version["size_bytes"])
    print_done(
        version, f"{version['name']}@{version['version']}: {version['num_files']} files, {size}", as_json=as_json
    )
    if not as_json:
        warnings_say(version)


def upload(
    client: Client, collection: str, name: str, path: Path, *, quiet: bool, strip_metadata: bool = False
) -> Record:
    """Uploads a folder or a zip with a progress bar; returns the version's record, which may still be checked."""
    size_bytes = folder_size(path) if path.is_dir() else path.stat().st_size
    with transfer_bar(f"uploading {name}", size_bytes, quiet=quiet) as on_bytes:
        if path.is_dir():
            return folder_upload(client, collection, name, path, on_bytes, strip_metadata=strip_metadata)
        return zip_upload(client, collection, name, path, on_bytes, strip_metadata=strip_metadata)


def print_version(version: Record) -> None:
    print_record(sized(version), SHOWN)
    if version.get("reason"):
        print_record(version["reason"], ("message", "hint"))
    print_table([sized(file) for file in version.get("files") or []], {"file": "path", "size": "size"})
    notices = version.get("notices") or []
    for notice in notices[:MOST_NOTICES]:
        line = f":{notice['line']}" if notice.get("line") else ""
        err.print(f"[yellow]notice:[/yellow] {escape(notice['file'] + line)}: {escape(notice['message'])}")
    if len(notices) > MOST_NOTICES:
        err.print(f"and {len(notices) - MOST_NOTICES} more; --json has them", style="dim")
    warnings_say(version)


def warnings_say(version: Record) -> None:
    for warning in version.get("warnings") or []:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)


def sized(record: Record) -> Record:
    size = record.get("size_bytes", record.get("size"))
    return {**record, "size": human_bytes(size) if isinstance(size, int) else "-"}


Patterns = Annotated[list[str] | None, typer.Option(help="Only files like this, as unet/*; may be repeated.")]
Ignored = Annotated[list[str] | None, typer.Option(help="No files like this, as *.fp16.*; may be repeated.")]
Secrets = Annotated[
    list[str] | None,
    typer.Option("--secret", help="Project secret with the Hub's token; may be repeated.", autocompletion=SECRETS),
]


def add_fetch(app: typer.Typer, collection: str) -> None:
    """Adds `fetch` to `app`: a job downloads from a Hub, and its product is a version."""
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
