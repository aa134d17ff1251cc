"""`anneal job`: what it leaves: curves, samples, artifacts, TensorBoard while it runs."""

import csv
import importlib.util
import io
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.downloads import artifacts_write, file_download, inside, job_write, samples_of
from cli.errors import CliError, UnreachableError
from cli.http import TERMINAL, Client, Record
from cli.output import Json, connect, err, out, print_json, print_rows, print_table, stdout_write, transfer_bar
from cli.requests import JobRef
from foundation.protocol import LIVE

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


LIBRARY = "tensorboard"


def job_tensorboard(
    job: JobRef,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the mirrored files here.")] = None,
    port: Annotated[int, typer.Option(help="Port of TensorBoard.")] = 6006,
    every: Annotated[float, typer.Option(min=1, help="Seconds between updates.")] = 10,
    mirror_only: Annotated[
        bool, typer.Option("--mirror-only", help="Do not start TensorBoard; exit when the job ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Follow a job in TensorBoard while it runs: mirrors its event files as they grow. Ctrl-C ends it."""
    if not mirror_only and importlib.util.find_spec(LIBRARY) is None:
        hint = "`pip install tensorboard`, or give --mirror-only and -o, and start it elsewhere on that folder."
        raise CliError("TensorBoard is not installed here", hint)
    with connect() as client, ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anneal-tensorboard-")))
        folder.mkdir(parents=True, exist_ok=True)
        mirror = Mirror(client, job, folder)
        mirror.update()
        board = None if mirror_only else stack.enter_context(board_start(folder, port))
        if board:
            stack.callback(board.terminate)
        if as_json:
            print_json({"folder": str(folder), "url": f"http://127.0.0.1:{port}" if board else None})
        has_ended = False
        while board is None or board.poll() is None:
            has_ended = has_ended or client.get(f"jobs/{job}")["state"] in TERMINAL
            try:
                if mirror.update() == 0 and has_ended and board is None:
                    return
            except UnreachableError as error:
                err.print(escape(str(error)), soft_wrap=True)
            time.sleep(every)
        raise CliError(f"TensorBoard ended with exit code {board.returncode}", f"Is the port {port} free?")


def board_start(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    err.print(escape(f"TensorBoard on http://localhost:{port}, files in {folder}"), soft_wrap=True)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    return subprocess.Popen([*command, "--reload_interval", "5"], stderr=subprocess.DEVNULL)


KIND = "tensorboard"


class Mirror:
    """Below `folder`, one folder for each attempt. Files only grow, so whoever reads them may keep them open."""

    def __init__(self, client: Client, job: str, folder: Path) -> None:
        self._client = client
        self._job = job
        self._folder = folder

    def update(self) -> int:
        """Appends what is new; returns how many bytes that were."""
        attempts: list[int] = [attempt["n"] for attempt in self._client.get(f"jobs/{self._job}")["attempts"]]
        return sum(self._update_attempt(n) for n in attempts)

    def _update_attempt(self, n: int) -> int:
        rows = list(self._client.pages(f"jobs/{self._job}/artifacts", kind=KIND, attempt=n))
        target = self._folder / f"attempt-{n}"
        pieces = [row for row in rows if row["path"].startswith(f"{LIVE}/")]
        complete = [file for row in rows if row not in pieces for file in row["files"]]
        added = sum(self._append(file, _local(target, file["path"]), 0) for file in complete)
        return added + sum(self._append_piece(row, target) for row in sorted(pieces, key=_start))

    def _append_piece(self, row: Record, target: Path) -> int:
        """A piece that does not meet the end of the file waits for those before it."""
        local = _local(target, str(row["details"].get("file", "")))
        start, size = _start(row), local.stat().st_size if local.exists() else 0
        is_next = start <= size < start + row["size_bytes"]
        return self._append(row["files"][0], local, start) if is_next else 0

    def _append(self, file: Record, local: Path, start: int) -> int:
        """What `file`, which begins at `start`, has beyond the end of `local`."""
        size = local.stat().st_size if local.exists() else 0
        if start + file["size"] <= size:
            return 0
        with tempfile.TemporaryDirectory() as folder:
            data = file_download(file, Path(folder) / "piece").read_bytes()[size - start :]
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("ab") as end:
            end.write(data)
        return len(data)


def _start(row: Record) -> int:
    value: Any = row["details"].get("start", 0)
    return value if isinstance(value, int) else 0


def _local(folder: Path, path: str) -> Path:
    return inside(folder, Path(path).name or "unnamed")
