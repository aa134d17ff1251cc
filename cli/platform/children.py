"""Processes that live and die with this one: started, watched, restarted, stopped in order."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cli.errors import CliError

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
BACKOFF_SECONDS = (1, 2, 4, 8, 15, 30)
MAX_LOG_BYTES = 10 * 2**20
OLD_LOGS = 3
HEALTHY_SECONDS = 60
"""A child that lived this long starts again at the shortest backoff."""
Say = Callable[[str], None]


@dataclass
class Child:
    name: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    stop_seconds: float = 10
    """From the stop signal to SIGKILL."""
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None
    """Runs as this user, where we are root."""
    failures: int = 0
    started: float = 0
    start_at: float | None = None
    """When it is due again after a death; None while it lives."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


def child_start(child: Child) -> None:
    """Starts it in a session of its own (Ctrl-C at the terminal reaches only us); it dies when this thread does."""
    group = pwd.getpwnam(child.user).pw_gid if child.user else None
    with child.log.open("ab") as log:
        child.process = subprocess.Popen(
            child.argv,
            env=child.env,
            cwd=child.log.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=child.user,
            group=group,
            extra_groups=[] if child.user else None,
            preexec_fn=tie_to_parent(signal.SIGKILL),  # after the change of user, which would untie it
        )
    child.started, child.start_at = time.monotonic(), None


def tie_to_parent(number: signal.Signals) -> Callable[[], None]:
    """For Popen's preexec_fn: the child gets this signal when the thread that starts it ends, however it ends."""
    parent = os.getpid()

    def tie() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def children_check(children: list[Child], say: Say) -> None:
    """Starts again what died, later each time; rotates logs."""
    now = time.monotonic()
    for child in children:
        log_rotate(child.log)
        if child.alive or child.process is None:
            continue
        if child.start_at is None:
            child.failures = 1 if now - child.started > HEALTHY_SECONDS else child.failures + 1
            pause = BACKOFF_SECONDS[min(child.failures, len(BACKOFF_SECONDS)) - 1]
            child.start_at = now + pause
            say(f"{child.name} {ending(child)}; starting it again in {pause} s (log: {child.log})")
        elif now >= child.start_at:
            child_start(child)


def ending(child: Child) -> str:
    """How it ended, in words."""
    assert child.process is not None, f"{child.name} was never started"
    code = child.process.returncode
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def child_stop(child: Child, seconds: float | None = None) -> None:
    """Its stop signal, then SIGKILL for its whole session after `seconds`."""
    if child.process is None:
        return
    if child.alive:
        child.process.send_signal(child.stop_signal)
    try:
        child.process.wait(child.stop_seconds if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()


def log_rotate(path: Path) -> None:
    """Moves a log past MAX_LOG_BYTES to `.1`, and older ones on. Its writer appends to the emptied file.

    Lines that are written between the copy and the cut are lost.
    """
    if not path.exists() or path.stat().st_size <= MAX_LOG_BYTES:
        return
    for number in range(OLD_LOGS - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)


def log_tail(path: Path, num_lines: int = 20) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-num_lines:])


START_SECONDS = 60


def wait_until(ready: Callable[[], bool], child: Child, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if not child.alive:
            raise CliError(
                f"{child.name} {ending(child)} before it was ready; the end of {child.log}:", log_tail(child.log)
            )
        if time.monotonic() > deadline:
            raise CliError(
                f"{child.name} was not ready after {seconds:g} s; the end of {child.log}:", log_tail(child.log)
            )
        time.sleep(0.1)


def answers_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
