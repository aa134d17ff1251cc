"""list, show and add: the same three commands for datasets and base models."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.completion import names_of
from cli.http import Client, Record
from cli.output import Json, connect, err, human_bytes, out, print_json, print_record, print_table, transfer_bar
from cli.transfers import folder_size, folder_upload


def add_commands(app: typer.Typer, collection: str, content: str) -> None:
    """Adds the commands for `collection` ("datasets" or "models") to `app`; `content` says what a folder holds."""
    ref = typer.Argument(help="Name, or name@version.", autocompletion=names_of(collection))

    @app.command("list")
    def list_(as_json: Json = False) -> None:
        """Names with their latest version."""
        with connect() as client:
            rows = list(client.pages(collection))
        if as_json:
            print_json(rows)
        else:
            columns = {"name": "name", "version": "version", "files": "num_files", "size": "size", "created": "created"}
            print_table([sized(row) for row in rows], columns)

    @app.command("show")
    def show(name: Annotated[str, ref], as_json: Json = False) -> None:
        """One version: digest, size, files."""
        with connect() as client:
            record = client.get(f"{collection}/{name}")
        if as_json:
            print_json(record)
            return
        print_record(sized(record), ("name", "version", "versions", "family", "digest", "num_files", "size", "created"))
        print_table([sized(file) for file in record.get("files") or []], {"file": "path", "size": "size"})

    @app.command("add", help=f"Upload {content} as the next version; the same content again makes no new one.")
    def add(
        name: Annotated[str, typer.Argument(help="Name; a new version if it exists.")],
        folder: Annotated[Path, typer.Argument(help="What to upload.", exists=True, file_okay=False)],
        as_json: Json = False,
    ) -> None:
        with connect() as client:
            record = upload(client, collection, name, folder, quiet=as_json)
        if as_json:
            print_json(record)
        else:
            size = human_bytes(record["size_bytes"])
            out.print(f"{record['name']}@{record['version']}: {record['num_files']} files, {size}")
            for warning in record.get("warnings") or []:
                err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)


def upload(client: Client, collection: str, name: str, folder: Path, *, quiet: bool) -> Record:
    """Uploads with a progress bar; returns the version's record."""
    with transfer_bar(f"uploading {name}", folder_size(folder), quiet=quiet) as on_bytes:
        return folder_upload(client, collection, name, folder, on_bytes)


def sized(record: Record) -> Record:
    size = record.get("size_bytes", record.get("size"))
    return {**record, "size": human_bytes(size) if isinstance(size, int) else "-"}
