"""`anneal dataset`."""

import csv
import io
import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import inspections
from cli.completion import DATASETS, JOBS
from cli.errors import CliError, Exit
from cli.http import Client, Record
from cli.output import Json, connect, print_done, print_rows
from cli.uploads import record_create, version_ready
from cli.versions import add_commands, add_fetch, warnings_say

Name = Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=DATASETS)]
PATHS, TEXTS = ("file_name", "file", "image"), ("text", "caption", "prompt")
"""Columns of a file with captions."""
CAPTIONS_AT_ONCE = 10_000


def dataset_captions(
    name: Name,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="As 'a.png=a grey cat'; may be repeated.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--from", "-f", help="A .csv or .jsonl with file_name and text.", exists=True)
    ] = None,
    column: Annotated[str | None, typer.Option(help="Caption column of the metadata, if it has several.")] = None,
    as_json: Json = False,
) -> None:
    """Edit captions as a new version; the images are not uploaded again."""
    captions = {**(captions_read(file) if file else {}), **dict(caption_parse(pair) for pair in set_ or [])}
    if not 1 <= len(captions) <= CAPTIONS_AT_ONCE:
        raise CliError(f"expected 1 to {CAPTIONS_AT_ONCE} captions by --set or --from", exit_code=Exit.USAGE)
    with connect() as client:
        version = client.post(f"datasets/{name}/captions", {"captions": captions, "column": column or ""})
        shown(client, version, as_json=as_json)


def dataset_from_samples(
    name: Annotated[str, typer.Argument(help="Name; adds a version if it exists.", autocompletion=DATASETS)],
    job: Annotated[
        list[str],
        typer.Option("--job", "-j", help="Job that produced the images; may be repeated.", autocompletion=JOBS),
    ],
    pick: Annotated[
        list[str] | None,
        typer.Option("--pick", help="Only this one, as 'base-seed-42.png' or 'base-seed-42.png=its caption'."),
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Add them to the latest version.")] = False,
    as_json: Json = False,
) -> None:
    """Create a dataset from images that jobs produced, each captioned with its prompt."""
    with connect() as client:
        record_create(client, "datasets", name)
        picks = [picked(client, one, pick or []) for one in job]
        if pick and not any(one["paths"] for one in picks):
            raise CliError(f"none of the jobs made {pick[0]!r}", "`anneal job samples JOB` lists them.")
        body = {"picks": [one for one in picks if one["paths"] or not pick], "extend": extend}
        shown(client, client.post(f"datasets/{name}/samples", body), as_json=as_json)


def picked(client: Client, job: str, names: list[str]) -> Record:
    """Those samples of the job that `names` names by path or by the end of it; all where nothing is wanted."""
    if not names:
        return {"job": job, "paths": []}
    paths = [row["path"] for row in client.pages(f"jobs/{job}/samples")]
    captions_by_path: dict[str, str | None] = {}
    for one in names:
        name, equals, caption = one.partition("=")
        captions_by_path |= {path: caption if equals else None for path in paths if f"/{path}".endswith(f"/{name}")}
    captions = {path: caption for path, caption in captions_by_path.items() if caption is not None}
    return {"job": job, "paths": [*captions_by_path], "captions": captions}


def caption_parse(pair: str) -> tuple[str, str]:
    path, equals, text = pair.partition("=")
    if not equals or not path:
        raise CliError(f"--set expects file=caption, got {pair!r}", exit_code=Exit.USAGE)
    return path, text


def captions_read(file: Path) -> dict[str, str]:
    """Text by image. Raises CliError that names the line or the columns."""
    captions = {}
    for number, row in enumerate(rows_read(file), start=1):
        path, text = (next((row[name] for name in names if name in row), None) for names in (PATHS, TEXTS))
        if not isinstance(path, str) or not isinstance(text, str):
            message = f"{file} row {number}: expected {PATHS[0]} and {TEXTS[0]}, got the columns {', '.join(row)}"
            raise CliError(message, exit_code=Exit.USAGE)
        captions[path] = text
    return captions


def rows_read(file: Path) -> list[Record]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
    except (ValueError, TypeError, csv.Error) as error:
        raise CliError(f"{file} cannot be read: {error}", exit_code=Exit.USAGE) from error


def shown(client: Client, version: Record, *, as_json: bool) -> None:
    ready = version_ready(client, "datasets", version)
    print_done(ready, f"{ready['name']}@{ready['version']}: {ready['num_files']} files", as_json=as_json)
    if not as_json:
        warnings_say(ready)


app = typer.Typer(no_args_is_help=True)
app.command("captions")(dataset_captions)
app.command("from-samples")(dataset_from_samples)
app.command("inspect")(inspections.dataset_inspect)
add_commands(app, "datasets", "a folder of images with metadata.jsonl, metadata.csv or one .txt beside each, or rows")
add_fetch(app, "datasets")


@app.command("preview")
def dataset_preview(
    name: Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=DATASETS)],
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="Items shown.")] = 20,
    as_json: Json = False,
) -> None:
    """Preview what a trainer will read: images with captions, or rows."""
    with connect() as client:
        items = list(islice(client.pages(f"datasets/{name}/preview", limit=min(most, 200)), most))
    rows = items if as_json else [item_row(item) for item in items]
    print_rows(rows, {"file": "path", "line": "line", "pixels": "pixels", "content": "content"}, as_json=as_json)


def item_row(item: Record) -> Record:
    pixels = f"{item['width']} x {item['height']}" if item.get("width") else None
    return {**item, "pixels": pixels, "content": item["row"] if item.get("row") is not None else item.get("caption")}
