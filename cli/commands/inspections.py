"""`anneal template preview` and `anneal dataset inspect`: what a trainer would see, reported by a job of its own."""

import tempfile
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from cli.completion import DATASETS, METHODS, TEMPLATES
from cli.downloads import file_download, samples_of
from cli.errors import CliError, Exit
from cli.http import Client, Record, without_none
from cli.output import Json, connect, err, out, print_json, print_record, print_table
from cli.requests import Model, Pool, Settings, json_or_text, method_schema, settings_parse
from cli.watch import wait

METHOD_OF_KIND = {"text": "masked_text", "images": "image_lora"}
CPU = {"resources": {"accelerators": 0}}
Rows = Annotated[int, typer.Option("--num-rows", "-n", min=1, max=64, help="Samples shown.")]
Ref = Annotated[
    str, typer.Argument(help="Name of the template, or name@version.", autocompletion=TEMPLATES, metavar="NAME")
]
Dataset = Annotated[str | None, typer.Option(help="Use this one instead of the template's.", autocompletion=DATASETS)]


def template_preview(
    name: Ref,
    dataset: Dataset = None,
    model: Model = None,
    num_rows: Rows = 8,
    set_: Settings = None,
    pool: Pool = None,
    as_json: Json = False,
) -> None:
    """Show what a job of the template would see: crops, buckets and captions, or tokens by their part."""
    with connect() as client:
        job = preview_start(
            client, name, settings=set_ or [], num_rows=num_rows, dataset=dataset, model=model, pool=pool
        )
        report_show(client, job, as_json=as_json)


def dataset_inspect(
    name: Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=DATASETS)],
    template: Annotated[str | None, typer.Option(help="For jobs of this template.", autocompletion=TEMPLATES)] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Without a template: for this method.", autocompletion=METHODS)
    ] = None,
    model: Model = None,
    num_rows: Rows = 8,
    set_: Settings = None,
    pool: Pool = None,
    as_json: Json = False,
) -> None:
    """Show what a trainer would read of the dataset, and every file or row that it would drop or change, and why."""
    with connect() as client:
        if template:
            changes = {"dataset": name, "model": model, "pool": pool}
            job = preview_start(client, template, settings=set_ or [], num_rows=num_rows, **changes)
        else:
            method = method or METHOD_OF_KIND[client.get(f"datasets/{name}")["details"].get("kind", "images")]
            shown = {"template_method": method, "num_rows": num_rows}
            shown |= {"template_params": settings_parse(set_ or [], method_schema(client, method))}
            body = {"name": f"inspect {name}", "method": "inspect_dataset", "params": shown, "dataset": name}
            job = client.post("jobs", {**body, **without_none({"model": model, "pool": pool}), **CPU})
        report_show(client, job, as_json=as_json)


def preview_start(
    client: Client, template: str, *, settings: list[str], num_rows: int, **changes: str | None
) -> Record:
    schema = method_schema(client, client.get(f"templates/{template}")["method"]) if settings else None
    body = {"params": settings_parse(settings, schema), "num_rows": num_rows, **without_none(changes)}
    job: Record = client.post(f"templates/{template}/preview", body)
    return job


def report_show(client: Client, job: Record, *, as_json: bool) -> None:
    ended = wait(client, job, as_json=as_json)
    report = report_read(client, ended["id"])
    if report is None:
        raise CliError("the job succeeded but left no report", f"anneal job logs {ended['id'][:8]}")
    if as_json:
        print_json({"job": ended["id"], **report})
    else:
        report_print(report, ended["id"][:8])
    if report.get("refused"):
        raise typer.Exit(Exit.FAILED)


REPORT = "samples/report.json"
STYLES = {"special": "dim", "prompt": "blue", "response": "green", "masked": "bold black on yellow"}
"""By the role of a token, or that it is masked."""
MARKS = {"special": "<>", "prompt": "{}", "response": "()", "masked": "[]"}
"""Around tokens of one part in a row, where there are no colours."""
SHOWN = ("refused", "images", "rows", "rows_per_epoch", "steps_per_epoch", "shapes", "tokens_per_row")
LONG = ("files", "samples", "faults")
MOST_FILES = 40


def report_read(client: Client, job: str) -> Record | None:
    """The job's report; None where it left none."""
    sample = next((row for row in samples_of(client, job, search=REPORT) if row["path"] == REPORT), None)
    if sample is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        read = json_or_text(file_download(sample, Path(folder) / "report.json").read_text(encoding="utf-8"))
    return read if isinstance(read, dict) else None


def report_print(report: Record, job: str) -> None:
    """`job`: where the images can be had."""
    others = [name for name in report if name not in (*SHOWN, *LONG)]
    print_record(report, [*SHOWN, *others])
    for fault in report.get("faults") or []:
        err.print(f"[red]fault:[/red] {escape(str(fault))}", soft_wrap=True)
    files = [file_row(file) for file in report.get("files") or []]
    if files:
        print_table(files[:MOST_FILES], {"file": "file", "what becomes of it": "said"})
    if len(files) > MOST_FILES:
        err.print(f"and {len(files) - MOST_FILES} more; --json has them", style="dim")
    samples = report.get("samples") or []
    if any("tokens" in sample for sample in samples):
        tokens_print(samples)
    elif samples:
        columns = {"image": "path", "of": "file", "text": "text", "resized to": "resized", "crop": "crop"}
        print_table(samples, columns)
        out.print(f"`anneal job samples {job} --output FOLDER` fetches them", style="dim")


def file_row(file: Record) -> Record:
    note = file.get("refused") or "; ".join(file.get("changes") or [])
    return {"file": file.get("where") or file.get("file"), "said": note}


def tokens_print(samples: list[Record]) -> None:
    """Each row as its tokens; a token that is masked stands in the colour of the mask."""
    coloured = out.is_terminal and not out.no_color
    if coloured:
        out.print(Text.assemble(*((f" {role} ", style) for role, style in STYLES.items()), style="dim"))
    else:
        out.print(escape("  ".join(f"{marks[0]}{role}{marks[1]}" for role, marks in MARKS.items())))
    for number, sample in enumerate(samples, start=1):
        where = sample.get("where") or f"row {number}"
        out.print(f"[bold]{escape(str(where))}[/bold]  {len(sample['tokens'])} tokens", soft_wrap=True)
        out.print(tokens_text(sample["tokens"]) if coloured else tokens_marked(sample["tokens"]), soft_wrap=True)


def tokens_text(tokens: list[Any]) -> Text:
    """`tokens`: [{text, role, masked}]."""
    return Text.assemble(*((str(token.get("text", "")), STYLES.get(part_of(token), "")) for token in tokens))


def tokens_marked(tokens: list[Any]) -> Text:
    """The same for a file or a pipe: each run of tokens of one part between its marks."""
    runs: list[str] = []
    for part, run in groupby(tokens, key=part_of):
        marks = MARKS.get(part, "  ")
        runs += [marks[0], *(str(token.get("text", "")) for token in run), marks[1]]
    return Text("".join(runs))


def part_of(token: Record) -> str:
    return "masked" if token.get("masked") else str(token.get("role"))
