"""Worker hosts forked from a process that has imported them: most tests are of what a host does, not of its start.

python -m tests.worker.forked_host
    Each line of its input starts a host: {"env": ..., "log": path}. Each line of its output is [pid] of one that began,
    or [pid, code] of one that ended. It ends with its input, and the hosts with it.
"""

import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from foundation.lifeline import die_with_parent
from worker.__main__ import main

REPOSITORY = Path(__file__).parents[2]


class ForkedHost:
    """What a test uses of a `Popen`."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        log.touch()
        self._forker = _forker()
        self.pid = self._forker.fork(env, log)

    def poll(self) -> int | None:
        return self._forker.code(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        return self._forker.wait(self.pid, timeout)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Forker:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.worker.forked_host"]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._unread = b""
        self._begun: list[int] = []
        self._codes: dict[int, int] = {}

    def fork(self, env: dict[str, str], log: Path) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"env": env, "log": str(log)}).encode() + b"\n")
        self._process.stdin.flush()
        while not self._begun:
            self._read(None)
        pid = self._begun.pop()
        self._codes.pop(pid, None)  # of an earlier process with this number
        return pid

    def code(self, pid: int) -> int | None:
        self._read(0)
        return self._codes.get(pid)

    def wait(self, pid: int, timeout: float | None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.code(pid)) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left < 0:
                raise subprocess.TimeoutExpired(f"worker host {pid}", timeout or 0)
            self._read(left)
        return code

    def _read(self, timeout: float | None) -> None:
        """What there is to read within that time."""
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], timeout)[0]:
            data = os.read(self._process.stdout.fileno(), 65536)
            assert data, "the process that forks worker hosts is gone"
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                pid, *code = json.loads(line)
                self._codes |= {pid: code[0]} if code else {}
                self._begun += [] if code else [pid]
            timeout = 0


@functools.cache
def _forker() -> _Forker:
    return _Forker()


def serve() -> None:
    """Forks until its input ends; returns in each host."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([sys.stdin, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _ended_tell()
        elif not (line := sys.stdin.buffer.raw.readline()):
            os._exit(0)
        elif not (pid := os.fork()):
            return _become_host(**json.loads(line))
        else:
            _tell(pid)


def _ended_tell() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _tell(pid, os.waitstatus_to_exitcode(status))


def _tell(*numbers: int) -> None:
    os.write(sys.stdout.fileno(), json.dumps(numbers).encode() + b"\n")


def _become_host(env: dict[str, str], log: str) -> None:
    die_with_parent(signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, 64)


if __name__ == "__main__":
    serve()
    sys.exit(main())
