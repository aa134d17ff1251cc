"""The shim: parent of one attempt's trainer, and the one that makes sure that nothing of it is left.

    python -m worker.shim <host pid> <attempt> <kill seconds> <deadline> <folder> -- command...

stdin: orders of the host, one a line: `deadline <CLOCK_BOOTTIME seconds>`, `terminate`, `kill`; its end means that the
    host is gone.
stdout: one JSON object when all is over: {"code": status, negative for a signal, "fenced": whether the lease ran out}.
stderr: becomes the trainer's standard output and error.

The shim keeps the lease itself, so that a host that hangs or was stopped cannot keep a trainer alive.
Standard library only.
"""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, field

from worker.clock import boottime
from worker.tree import ATTEMPT_MARK, become_subreaper, descendants, die_with_parent, kill_until_none, marked

TICK_SECONDS = 1.0
"""Longest wait: poll does not count suspended time, the lease does."""


@dataclass
class Shim:
    attempt: str
    kill_seconds: float
    deadline: float
    folder: str
    command: list[str]
    host_gone: bool = False
    fenced: bool = False
    kill_at: float | None = None
    code: int | None = None
    pid: int = 0
    _orders: bytes = b""
    _bell: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))

    def run(self) -> None:
        """Starts the trainer unless the lease is over, waits for its end or for a cause to end it, and sweeps."""
        if boottime() < self.deadline:
            self._start()
            while self.code is None and not self._must_kill():
                self._wait(TICK_SECONDS)
        else:
            self.fenced = True
        kill_until_none(self._left, lambda: self._wait(0.02))
        self._reap()

    def _start(self) -> None:
        signal.set_wakeup_fd(self._bell[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        deadman, self._deadman_end = os.pipe2(os.O_CLOEXEC)  # nobody writes; our death is its end of file
        me = os.getpid()

        def before_exec() -> None:
            die_with_parent(signal.SIGKILL)
            if os.getppid() != me:
                os._exit(70)

        # Standard input carries the pipe: torchrun closes every other descriptor before it starts its ranks.
        self.pid = subprocess.Popen(
            self.command,
            stdin=deadman,
            stdout=sys.stderr,
            stderr=sys.stderr,
            cwd=self.folder,
            env={**os.environ, "ANNEAL_DEADMAN_FD": "0", "ANNEAL_PARENT_PID": str(me)},
            preexec_fn=before_exec,
        ).pid
        os.close(deadman)

    def _must_kill(self) -> bool:
        now = boottime()
        if now >= self.deadline and not self.fenced:
            self.fenced = True
            self._terminate(self.deadline)  # not since now: after a suspend another trainer may already run
        return self.host_gone or (self.kill_at is not None and now >= self.kill_at)

    def _terminate(self, since: float) -> None:
        """SIGTERM now, SIGKILL kill_seconds after `since`."""
        if self.kill_at is None and self.code is None:
            self.kill_at = since + self.kill_seconds
            os.kill(self.pid, signal.SIGTERM)

    def _wait(self, seconds: float) -> None:
        """Until an order, a signal, a child's end or `seconds`."""
        watched = [self._bell[0]] if self.host_gone else [0, self._bell[0]]
        ready, _, _ = select.select(watched, [], [], min(seconds, self._seconds_left()))
        if self._bell[0] in ready:
            os.read(self._bell[0], 4096)
        if 0 in ready:
            self._obey(os.read(0, 4096))
        self._reap()

    def _seconds_left(self) -> float:
        return max(0.01, min(self.deadline if not self.fenced else 1e18, self.kill_at or 1e18) - boottime())

    def _obey(self, data: bytes) -> None:
        self.host_gone = self.host_gone or not data
        *lines, self._orders = (self._orders + data).split(b"\n")
        for line in lines:
            order, _, value = line.partition(b" ")
            if order == b"deadline":
                self.deadline = max(self.deadline, float(value))
            elif order == b"terminate":
                self._terminate(boottime())
            elif order == b"kill":
                self.kill_at = boottime()

    def _reap(self) -> None:
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self.pid:
                    self.code = os.waitstatus_to_exitcode(found[1])
        except ChildProcessError:
            return

    def _left(self) -> set[int]:
        self._reap()
        return descendants(os.getpid()) | marked(ATTEMPT_MARK, self.attempt)


def main(argv: list[str]) -> int:
    host, attempt, kill_seconds, deadline, folder, dashes, *command = argv
    assert dashes == "--" and command, f"expected <host> <attempt> <kill> <deadline> <folder> -- command, got {argv}"
    shim = Shim(attempt, float(kill_seconds), float(deadline), folder, command)

    def host_died(*_: object) -> None:
        shim.host_gone = True

    signal.signal(signal.SIGTERM, host_died)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGTERM)
    if os.getppid() != int(host):
        return 1
    become_subreaper()
    shim.run()
    if not shim.host_gone:
        os.write(1, json.dumps({"code": shim.code, "fenced": shim.fenced}).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
