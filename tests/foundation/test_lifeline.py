"""A trainer never outlives its supervisor, which dies, or closes its pipe, or was dead before. Real processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foundation.lifeline import DEADMAN_EXIT_CODE
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
TRAINER = """
import signal
from foundation.lifeline import tie_to_parent
tie_to_parent()
print("up", flush=True)
signal.pause()
"""
SUPERVISOR = f"""
import os, subprocess, sys
read, write = os.pipe()
environment = {{**os.environ, "ANNEAL_DEADMAN_FD": str(read), "ANNEAL_PARENT_PID": str(os.getpid())}}
trainer = subprocess.Popen([sys.executable, "-c", {TRAINER!r}], env=environment, pass_fds=[read])
print(trainer.pid, flush=True)
sys.stdin.readline()
os.close(write)
sys.exit(trainer.wait())
"""


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], env=environment, **pipes) as process:
        yield process
        process.kill()


def trainer_pid(supervisor: subprocess.Popen[str]) -> int:
    """Once both are up."""
    assert supervisor.stdout
    words = {supervisor.stdout.readline().strip(), supervisor.stdout.readline().strip()}
    return int(next(word for word in words if word != "up"))


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_process_ends_with_its_parent(supervisor: subprocess.Popen[str]) -> None:
    pid = trainer_pid(supervisor)
    assert alive(pid)
    supervisor.kill()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_ends_with_the_deadman_pipe(supervisor: subprocess.Popen[str]) -> None:
    trainer_pid(supervisor)
    supervisor.communicate("\n", timeout=PATIENCE_SECONDS)
    assert supervisor.returncode == DEADMAN_EXIT_CODE


def test_a_process_with_another_parent_than_expected_ends_at_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ANNEAL_PARENT_PID": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", TRAINER], env=environment, capture_output=True, timeout=PATIENCE_SECONDS
    )
    assert ended.returncode == DEADMAN_EXIT_CODE
    assert ended.stdout == b""
