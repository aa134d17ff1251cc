"""`anneal job tensorboard` as a program: a real TensorBoard on the mirrored files, ended with the command."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tests.cli.small_server import Answer, serving
from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port

JOB = "00000000-0000-4000-8000-000000000001"


def events_of_two_steps(folder: Path) -> Path:
    writer = EventFileWriter(str(folder))
    for step in (1, 2):
        value = Summary.Value(tag="loss", simple_value=1 / step)
        writer.add_event(Event(step=step, wall_time=1.0, summary=Summary(value=[value])))
    writer.close()
    return next(folder.iterdir())


def answered(url: str, process: "subprocess.Popen[bytes]") -> Any:
    """The JSON at `url`, once it is there and not empty."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the command ended by itself"
        try:
            if content := httpx.get(url).raise_for_status().json():
                return content
        except (httpx.TransportError, httpx.HTTPStatusError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} gave nothing within {PATIENCE_SECONDS} s")


@pytest.mark.slow
def test_tensorboard_serves_the_mirrored_files_until_the_command_ends(tmp_path: Path) -> None:
    events = events_of_two_steps(tmp_path / "events")
    port = free_port()

    def answer(path: str, _: dict[str, str]) -> Answer:
        data = events.read_bytes()
        file = {"path": f"tensorboard/{events.name}", "size": len(data), "url": f"{url}/file"}
        file["sha256"] = hashlib.sha256(data).hexdigest()
        row = {"path": "tensorboard", "size_bytes": len(data), "files": [file], "details": {}}
        if path == "/file":
            return 200, {}, data
        job = {"id": JOB, "state": "running", "attempts": [{"n": 1}]}
        body = {"results": [row], "next": None} if "/artifacts" in path else job
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    with serving(answer) as url:
        command = [sys.executable, "-m", "cli.main", "job", "tensorboard", JOB, "--port", str(port), "--every", "1"]
        environment = {**os.environ, "ANNEAL_URL": url, "ANNEAL_TOKEN": "t"}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            board = f"http://127.0.0.1:{port}"
            assert answered(f"{board}/data/runs", process) == ["attempt-1"]
            scalars = answered(f"{board}/data/plugin/scalars/scalars?tag=loss&run=attempt-1", process)
            assert [(step, value) for _, step, value in scalars] == [(1, 1.0), (2, 0.5)]
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_SECONDS)
            with pytest.raises(httpx.ConnectError):
                httpx.get(board)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
