"""`anneal job tensorboard`: TensorBoard on the files of a job, while it runs."""

import importlib.util
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.downloads import inside
from cli.errors import CliError, UnreachableError
from cli.follow import TERMINAL
from cli.http import Client, Record
from cli.output import Json, connect, err, print_json
from cli.requests import JobRef
from cli.transfers import file_download
from foundation.protocol import LIVE

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
