"""A prepared process: it has imported what trainers import, and forks the shim and trainer of each job.

    python -m worker.process.forker <host pid> <control socket> <modules> <room for the title>

The socket carries one message for each fork, {"arguments": those of the shim, "env": of the job}, with the shim's three
standard descriptors. The answer is {"pid": of the shim} with a descriptor of that process, or {"refused": why}. The
first message of all is {"ready": true}. This process ends with the socket; jobs that it forked go on.

It never sees inputs, tokens or secrets of a job: those reach the forked process alone. Standard library only, but for
the modules that it is told to import.
"""

import ctypes
import gc
import importlib
import json
import os
import pkgutil  # noqa: F401  # runpy imports it late, when a trainer may no longer read it
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.lifeline import die_with_parent
from worker.process.shim import TrainerStart, shim_parse, shim_run
from worker.process.tree import ATTEMPT_MARK, RESIDENT_MARK, WORKER_MARK, Title, title_open

MESSAGE_BYTES = 1 << 20
LARGEST_DESCRIPTOR = 1 << 20
PR_SET_DUMPABLE = 4
AFTER_FORK = "after_fork"
"""Function that a prepared module may have: called in a new trainer, before its program runs."""


class InTrainer(BaseException):
    """Raised in a forked trainer: it leaves the frames of the shim and runs its program at the bottom of the stack."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__()
        self.command = command


@dataclass(frozen=True)
class Request:
    arguments: list[str]
    env: dict[str, str]
    descriptors: list[int]


def main(argv: list[str]) -> None:
    host, control, modules = int(argv[0]), socket.socket(fileno=int(argv[1])), argv[2].split(",")
    die_with_parent()
    if os.getppid() != host:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    title = title_open()
    prepared = [importlib.import_module(name) for name in modules if name]
    _end_threads()
    gc.collect()
    gc.freeze()
    request = serve(control)
    try:
        shim_become(request, title)
        os._exit(0)
    except InTrainer as trainer:
        command = trainer.command
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    for module in prepared:
        getattr(module, AFTER_FORK, lambda: None)()
    program_run(command)


def serve(control: socket.socket) -> Request:
    """Forks for each request, and returns only in the forked process."""
    control.send(json.dumps({"ready": True}).encode())
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 3)
        if not data:
            os._exit(0)
        if problem := unfit({control.fileno(), *descriptors}):
            control.send(json.dumps({"refused": problem}).encode())
            os._exit(1)
        pid = os.fork()
        if pid == 0:
            control.close()
            return Request(**json.loads(data), descriptors=descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _answer(control, pid)


def unfit(used: set[int]) -> str:
    """Why this process must not be forked; "" where it may be. `used`: its descriptors beside the first three.

    Threads do not live on in a forked process, nor does CUDA, which holds devices open once it is initialised.
    """
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if len(threads) > 1:
        return f"it has {len(threads)} threads: {', '.join(sorted(threads))}"
    for link in Path("/proc/self/fd").iterdir():
        if int(link.name) not in used | {0, 1, 2}:
            try:
                return f"it holds {link.readlink()} open"
            except FileNotFoundError:
                continue  # the one that listed the folder
    return ""


def shim_become(request: Request, title: Title) -> None:
    """Runs the shim of a job to its end, in a session of its own. Raises InTrainer in the trainer that it forks."""
    os.setsid()
    for number, descriptor in enumerate(request.descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, LARGEST_DESCRIPTOR)
    coerced = {name: value for name, value in os.environ.items() if name == "LC_CTYPE"}  # Python sets it where LANG=C
    os.environ.clear()
    os.environ.update({**coerced, **request.env})
    marks = {name: request.env[name] for name in (ATTEMPT_MARK, RESIDENT_MARK, WORKER_MARK) if name in request.env}
    title.show([sys.executable, "-m", "worker.process.shim", *request.arguments], marks)

    def start_trainer(start: TrainerStart) -> "_Forked":
        pid = os.fork()
        if pid == 0:
            trainer_become(start)
            title.show(start.command, marks)
            raise InTrainer(start.command)
        return _Forked(pid)

    shim_run(shim_parse(request.arguments, start_trainer), host=None)


def trainer_become(start: TrainerStart) -> None:
    """What a new program gets from subprocess and the kernel, in the order of theirs."""
    for number, descriptor in enumerate((start.stdin, start.stdout, 2)):
        os.dup2(descriptor, number)
    os.chdir(start.folder)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    start.before()
    _let_be_read()
    lowest = 3
    for descriptor in sorted(start.passed):
        os.closerange(lowest, descriptor)
        os.set_inheritable(descriptor, True)
        lowest = descriptor + 1
    os.closerange(lowest, LARGEST_DESCRIPTOR)
    os.environ.clear()
    os.environ.update(start.env)


def program_run(command: Sequence[str]) -> None:
    """`python -m module ...` or `python file ...`, as the interpreter does it."""
    _, *words = command
    if words[0] == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(words[0]).resolve().parent)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


@dataclass(frozen=True)
class _Forked:
    pid: int


def _answer(control: socket.socket, pid: int) -> None:
    message = json.dumps({"pid": pid}).encode()
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:  # it has ended already
        control.send(message)
        return
    socket.send_fds(control, [message], [process])
    os.close(process)


def _end_threads() -> None:
    """OpenBLAS starts threads when it is imported. It ends them before any fork and starts them again when needed."""
    if os.fork() == 0:
        os._exit(0)


def _let_be_read() -> None:
    """A change of the uid closes /proc/self to the process until it starts a program; here none is started."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
