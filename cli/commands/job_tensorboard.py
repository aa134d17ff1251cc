"""`anneal job tensorboard`: TensorBoard on the files of a job, while it runs."""

import importlib.util
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.errors import CliError, UnreachableError
from cli.follow import TERMINAL
from cli.mirror import Mirror
from cli.output import Json, connect, err, print_json
from cli.requests import JobRef

LIBRARY = "tensorboard"


def job_tensorboard(
    job: JobRef,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the mirrored files here.")] = None,
    port: Annotated[int, typer.Option(help="Where TensorBoard listens.")] = 6006,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks for news.")] = 10,
    mirror_only: Annotated[
        bool, typer.Option("--mirror-only", help="Start no TensorBoard; end when the job has ended.")
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
