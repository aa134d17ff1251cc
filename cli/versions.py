"""Commands that datasets and base models share: list, show, add, used-by, delete."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.completion import names_of
from cli.errors import CliError, Exit
from cli.http import Client, Record
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
from cli.transfers import folder_size, folder_upload, version_ready, zip_upload

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
