"""`anneal dataset`."""

from itertools import islice
from typing import Annotated

import typer

from cli.commands import dataset_changes, inspections
from cli.completion import DATASETS
from cli.fetching import add_fetch
from cli.http import Record
from cli.output import Json, connect, print_rows
from cli.versions import add_commands

app = typer.Typer(no_args_is_help=True)
app.command("captions")(dataset_changes.dataset_captions)
app.command("from-samples")(dataset_changes.dataset_from_samples)
app.command("inspect")(inspections.dataset_inspect)
add_commands(app, "datasets", "a folder of images with metadata.jsonl, metadata.csv or one .txt beside each, or rows")
add_fetch(app, "datasets")


@app.command("preview")
def dataset_preview(
    name: Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=DATASETS)],
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="Items shown.")] = 20,
    as_json: Json = False,
) -> None:
    """What a trainer will read: images with their captions, or rows."""
    with connect() as client:
        items = list(islice(client.pages(f"datasets/{name}/preview", limit=min(most, 200)), most))
    rows = items if as_json else [item_row(item) for item in items]
    print_rows(rows, {"file": "path", "line": "line", "pixels": "pixels", "content": "content"}, as_json=as_json)


def item_row(item: Record) -> Record:
    pixels = f"{item['width']} x {item['height']}" if item.get("width") else None
    return {**item, "pixels": pixels, "content": item["row"] if item.get("row") is not None else item.get("caption")}
