"""The shim: parent of one attempt's trainer, and the one that makes sure that nothing of it is left.

    python -m worker.process.shim <host pid> <mark> <its value> <kill seconds> <deadline> <folder> <confinement>
        -- command...

stdin: orders of the host, one a line: `deadline <CLOCK_BOOTTIME seconds>`, `terminate`, `kill`; its end means that the
    host is gone.
stdout: one JSON object when all is over: {"code": status, negative for a signal, "fenced": whether the lease ran out}.
stderr: becomes the trainer's standard output and error.

With the mark of a resident (see residents.py) the trainer takes attempts from its standard input, one at a time. Each
is one more order, `job {"attempt": ..., "deadline": ..., "line": what the trainer reads}`, and one more line of stdout
once it is over and nothing but the trainer itself is left: {"attempt": ..., "code": status}.

The shim keeps the lease itself, so that a host that hangs or was stopped cannot keep a trainer alive.
Standard library only.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from foundation.boottime import boottime
from foundation.lifeline import die_with_parent
from worker.process.tree import RESIDENT_MARK, become_subreaper, descendants, kill_until_none, marked
from worker.sandbox.confine import Confinement, confine, confinement_parse

NEVER = float("inf")
NOT_CONFINED = 71
"""Exit status of a trainer that the wall did not close around."""
TICK_SECONDS = 1.0
"""Longest wait: poll does not count suspended time, the lease does."""


class HasPid(Protocol):
    @property
    def pid(self) -> int: ...


@dataclass(frozen=True)
class TrainerStart:
    """What a trainer is started with; `before` runs in the new process, which its wall closes around there."""

    command: list[str]
    stdin: int
    stdout: int
    folder: str
    env: dict[str, str]
    passed: tuple[int, ...]
    """Descriptors that it may use besides the first three."""
    before: Callable[[], None]


def trainer_exec(start: TrainerStart) -> "subprocess.Popen[bytes]":
    """A new program."""
    return subprocess.Popen(
        start.command,
        stdin=start.stdin,
        stdout=start.stdout,
        stderr=sys.stderr,
        cwd=start.folder,
        env=start.env,
        pass_fds=start.passed,
        preexec_fn=start.before,
    )


@dataclass
class Jobs:
    """The pipes to a trainer that serves: attempts go in, their exit statuses come out."""

    trainer_ends: tuple[int, int] = field(init=False)
    """Standard input and output of the trainer; closed here once it has them."""
    attempt: str = ""
    """What the trainer works on."""
    answers: int | None = None
    """Readable when the trainer has said something; None once it has ended."""
    _lines: int = -1
    _rest: bytes = b""

    def __post_init__(self) -> None:
        read_end, self._lines = os.pipe2(os.O_CLOEXEC)
        self.answers, write_end = os.pipe2(os.O_CLOEXEC)
        self.trainer_ends = (read_end, write_end)

    def give(self, attempt: str, line: dict[str, Any]) -> None:
        assert not self.attempt, f"the trainer still works on {self.attempt}"
        self.attempt = attempt
        try:
            os.write(self._lines, json.dumps(line).encode() + b"\n")
        except BrokenPipeError:
            return  # it has died; its end says so

    def read(self) -> int | None:
        """The exit status of the attempt, once the trainer has told it whole."""
        assert self.answers is not None
        data = os.read(self.answers, 4096)
        if not data:
            os.close(self.answers)
            self.answers = None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not lines:
            return None
        return int(json.loads(lines[-1])["code"])


@dataclass
class Shim:
    mark: str
    mark_value: str
    kill_seconds: float
    deadline: float
    folder: str
    confinement: Confinement
    command: list[str]
    host_gone: bool = False
    fenced: bool = False
    kill_at: float | None = None
    code: int | None = None
    pid: int = 0
    jobs: Jobs | None = None
    """For a resident."""
    start_trainer: Callable[[TrainerStart], HasPid] = trainer_exec
    _orders: bytes = b""
    _bell: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))

    def run(self) -> None:
        """Starts the trainer unless the lease is over, waits for its end or for a cause to end it, and sweeps."""
        self.host_gone = self.host_gone or _hung_up(0)
        if self.host_gone:
            return
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

        def close_wall() -> None:
            try:
                confine(self.confinement)
                die_with_parent(signal.SIGKILL)  # a change of the uid takes it back, so it comes last
            except Exception as error:  # whatever it is: no trainer without its wall
                os.write(2, f"The trainer was not started, since it cannot be confined: {error}\n".encode())
                os._exit(NOT_CONFINED)
            if os.getppid() != me:
                os._exit(70)

        # Standard input carries the pipe: torchrun closes every other descriptor before it starts its ranks.
        stdin, stdout = self.jobs.trainer_ends if self.jobs else (deadman, sys.stderr.fileno())
        start = TrainerStart(
            self.command,
            stdin=stdin,
            stdout=stdout,
            folder=self.folder,
            env={**os.environ, "ANNEAL_DEADMAN_FD": str(deadman if self.jobs else 0), "ANNEAL_PARENT_PID": str(me)},
            passed=(deadman,) if self.jobs else (),
            before=close_wall,
        )
        self._process = self.start_trainer(start)  # a Popen that nobody holds reaps a trainer that has died already
        self.pid = self._process.pid
        for ours in {deadman, *(self.jobs.trainer_ends if self.jobs else ())}:
            os.close(ours)

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
        answers = self.jobs.answers if self.jobs else None
        if answers is not None:
            watched.append(answers)
        ready, _, _ = select.select(watched, [], [], min(seconds, self._seconds_left()))
        if self._bell[0] in ready:
            os.read(self._bell[0], 4096)
        if 0 in ready:
            self._obey(os.read(0, 4096))
        if self.jobs and answers in ready:
            self._hear(self.jobs)
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
            elif order == b"job" and self.jobs:
                self._begin(self.jobs, json.loads(value))

    def _begin(self, jobs: Jobs, job: dict[str, Any]) -> None:
        if boottime() >= job["deadline"]:
            self._report(attempt=job["attempt"], code=None, fenced=True)
            return
        self.deadline = job["deadline"]
        jobs.give(job["attempt"], job["line"])

    def _hear(self, jobs: Jobs) -> None:
        """Once the attempt is over, and all that it may have left: the trainer waits, without a lease."""
        code = jobs.read()
        if code is None:
            return
        attempt, jobs.attempt, self.deadline = jobs.attempt, "", NEVER
        kill_until_none(lambda: self._left() - {self.pid}, lambda: self._wait(0.02))
        self._report(attempt=attempt, code=code)

    def _report(self, **what: object) -> None:
        if not self.host_gone:
            os.write(1, json.dumps(what).encode() + b"\n")

    def _reap(self) -> None:
        try:
            while (status := os.waitpid(-1, os.WNOHANG))[0]:
                if status[0] == self.pid:
                    self.code = os.waitstatus_to_exitcode(status[1])
        except ChildProcessError:
            return

    def _left(self) -> set[int]:
        self._reap()
        return descendants(os.getpid()) | marked(self.mark, self.mark_value)

    def report_end(self) -> None:
        self._report(code=self.code, fenced=self.fenced)


def shim_parse(argv: list[str], start_trainer: Callable[[TrainerStart], HasPid] = trainer_exec) -> Shim:
    """`argv`: from the mark on."""
    mark, value, kill_seconds, deadline, folder, confinement, dashes, *command = argv
    assert dashes == "--" and command, f"expected ... <deadline> <folder> <confinement> -- command, got {argv}"
    return Shim(
        mark,
        value,
        float(kill_seconds),
        float(deadline),
        folder,
        confinement_parse(confinement),
        command,
        jobs=Jobs() if mark == RESIDENT_MARK else None,
        start_trainer=start_trainer,
    )


def shim_run(shim: Shim, host: int | None) -> bool:
    """To the end of all that the shim answers for, which it reports. False: the parent was another than `host`.

    `host`: None for a shim forked from a prepared process: the end of its standard input says that the host is gone.
    """

    def host_died(*_: object) -> None:
        shim.host_gone = True

    signal.signal(signal.SIGTERM, host_died)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if host is not None:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != host:
            return False
    become_subreaper()
    shim.run()
    shim.report_end()
    return True


def _hung_up(pipe: int) -> bool:
    """Whether nobody holds the other end; what lies in the pipe stays there."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def main(argv: list[str]) -> int:
    host, *rest = argv
    return 0 if shim_run(shim_parse(rest), int(host)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
