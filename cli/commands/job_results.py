"""`anneal job`: curves, samples, artifacts."""

import csv
import io
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.downloads import artifacts_write, job_write, samples_of
from cli.http import Record
from cli.output import Json, connect, err, out, print_json, print_rows, print_table, stdout_write, transfer_bar
from cli.requests import JobRef
from cli.transfers import file_download

ALL_POINTS = 100_000
"""The most that the API gives of one curve."""
Series = dict[str, list[list[float]]]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Download them into this folder.")]


def job_metrics(
    job: JobRef,
    name: Annotated[list[str] | None, typer.Option(help="Only this curve, for instance loss; may be repeated.")] = None,
    points: Annotated[int | None, typer.Option(help="Maximum points per curve; peaks are preserved.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print name,step,value lines, for a spreadsheet.")] = False,
    as_json: Json = False,
) -> None:
    """Curves: loss, learning rate, speed."""
    num_points = points or (ALL_POINTS if as_csv else None)
    with connect() as client:
        series: Series = client.get(f"jobs/{job}/metrics", name=name or None, points=num_points)["series"]
    if as_json:
        print_json(series)
    elif as_csv:
        csv_print(series)
    else:
        columns = {"metric": "name", "points": "points", "first": "first", "last": "last", "lowest": "lowest"}
        print_table([curve_row(curve, points) for curve, points in series.items() if points], columns)


def job_samples(
    job: JobRef,
    step: Annotated[int | None, typer.Option(help="Only those of this step.")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Images that the job produced."""
    with connect() as client:
        samples = samples_of(client, job, step=step)
    if output:
        for sample in samples:
            file_download(sample, output / Path(sample["path"]).name)
    print_rows(samples, {"step": "step", "file": "path", "bytes": "size_bytes"}, as_json=as_json)


def job_artifacts(
    job: JobRef,
    kind: Annotated[str | None, typer.Option(help="checkpoint, sample, tensorboard or other.")] = None,
    step: Annotated[int | None, typer.Option(help="Only those of this step.")] = None,
    attempt: Annotated[int | None, typer.Option(help="Only those of this attempt.")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Files that the job published: checkpoints, samples, TensorBoard logs."""
    with connect() as client:
        rows = list(client.pages(f"jobs/{job}/artifacts", kind=kind, step=step, attempt=attempt))
    if output:
        written = artifacts_write(rows, output)
        err.print(f"wrote {len(written)} files below {output}", soft_wrap=True)
    columns = {"kind": "kind", "step": "step", "path": "path", "bytes": "size_bytes"}
    print_rows(rows, columns, as_json=as_json)


def job_manifest(job: JobRef, as_json: Json = False) -> None:  # noqa: ARG001 it is JSON either way
    """The manifest of the job's last attempt that left one, as JSON: results, files, versions."""
    with connect() as client:
        print_json(client.get(f"jobs/{job}/manifest")["manifest"])


def job_spec(
    job: JobRef,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that gets spec.json and in/.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Without the checkpoint that it would resume from.")] = False,
    as_json: Json = False,
) -> None:
    """Download what a trainer needs to run by hand: spec, dataset, base model, adaptors and checkpoint."""
    with connect() as client:
        rows = client.get(f"jobs/{job}/spec")
        if fresh and rows["inputs"].pop("checkpoint", None):
            rows["spec"]["inputs"]["checkpoint"] = None
        total = sum(file["size"] for part in rows["inputs"].values() for file in part["files"])
        with transfer_bar("downloading the inputs", total, quiet=as_json) as on_bytes:
            job_write(rows, output, on_bytes)
    places = sorted(rows["inputs"])
    if as_json:
        print_json({"spec": str(output / "spec.json"), "inputs": places})
        return
    out.print(escape(f"wrote {output}/spec.json and {output}/in/ ({', '.join(places) or 'no inputs'})"), soft_wrap=True)
    run = "python -m trainers.run spec.json in/ out/ cache/"
    out.print(escape(f"run it where Anneal is installed: cd {output} && {run}"), soft_wrap=True)


def csv_print(series: Series) -> None:
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(("name", "step", "value"))
    lines.writerows((name, step, value) for name, points in series.items() for step, value in points)
    stdout_write(table.getvalue())


def curve_row(name: str, points: list[list[float]]) -> Record:
    first, last = (f"{points[index][1]:.6g}" for index in (0, -1))
    lowest = min(value for _, value in points)
    return {"name": name, "points": len(points), "first": first, "last": last, "lowest": f"{lowest:.6g}"}
