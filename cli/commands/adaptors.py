"""`anneal adaptor`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.completion import ADAPTORS
from cli.downloads import adaptor_write
from cli.output import Json, connect, out, print_json, print_record, print_table, transfer_bar
from cli.versions import sized

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=ADAPTORS)]


@app.command("list")
def adaptor_list(as_json: Json = False) -> None:
    """What training jobs have made."""
    with connect() as client:
        rows = list(client.pages("adaptors"))
    if as_json:
        print_json(rows)
    else:
        columns = {"name": "name", "version": "version", "trigger": "trigger_word", "base model": "base_model"}
        print_table(rows, columns | {"partial": "partial", "created": "created"})


@app.command("show")
def adaptor_show(name: Name, as_json: Json = False) -> None:
    """One adaptor: trigger word, base model, job, files."""
    with connect() as client:
        adaptor = client.get(f"adaptors/{name}")
    if as_json:
        print_json(adaptor)
        return
    print_record(adaptor, ("name", "version", "method", "trigger_word", "base_model", "job", "partial", "created"))
    print_table([sized(file) for file in adaptor["files"]], {"file": "path", "size": "size"})


@app.command("pull")
def adaptor_pull(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; <name>-v<version> if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download an adaptor: safetensors that diffusers loads, model card, manifest."""
    with connect() as client:
        adaptor = client.get(f"adaptors/{name}")
    folder = output or Path(f"{adaptor['name']}-v{adaptor['version']}")
    total = sum(file["size"] for file in adaptor["files"])
    with transfer_bar(f"downloading {adaptor['name']}", total, quiet=as_json) as on_bytes:
        adaptor_write(adaptor, folder, on_bytes)
    if as_json:
        print_json({"name": adaptor["name"], "version": adaptor["version"], "folder": str(folder.resolve())})
    else:
        out.print(f"{adaptor['name']}@{adaptor['version']} is in {folder}", soft_wrap=True)
