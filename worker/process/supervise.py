"""The process tree of one attempt, seen from the host: start, prolong, end for certain."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from worker.process.tree import ATTEMPT_MARK, kill_until_none, marked
from worker.sandbox.confine import Confinement


@dataclass(frozen=True)
class Exit:
    """How a trainer ended; by now no process of its tree is left."""

    code: int | None
    """Exit status, negative for a signal; None where it never started or its end was not seen."""
    fenced: bool = False
    """The lease ran out, so the shim ended it."""
    shim_died: bool = False
    """The shim was killed; the host swept."""


class ShimProcess(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def kill(self) -> None: ...

    def wait(self) -> object: ...


class ShimSource(Protocol):
    def shim(self, arguments: Sequence[str], env: Mapping[str, str], log: int) -> ShimProcess:
        """A shim with these arguments, whose trainer prints to `log`."""


class Spawner:
    """Starts shims from one thread that lives as long as the host: a death signal follows the thread that started."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def shim(self, arguments: Sequence[str], env: Mapping[str, str], log: int) -> "subprocess.Popen[bytes]":
        return self.start(
            [sys.executable, "-m", "worker.process.shim", str(os.getpid()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict(env),
            start_new_session=True,
        )

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """`options`: those of Popen."""
        return self._thread.submit(lambda: subprocess.Popen(command, **options)).result()

    def close(self) -> None:
        """Ends the thread, and with it every shim that still runs."""
        self._thread.shutdown()


class Supervisor:
    """One running trainer. `env` must carry the attempt's mark; `log` is a descriptor that its output goes to.

    `confinement`: what the trainer gives up before its first line runs; None = nothing.
    """

    def __init__(
        self,
        shims: ShimSource,
        *,
        attempt: str,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        log: int,
        kill_seconds: float,
        deadline: float,
        confinement: Confinement | None = None,
    ) -> None:
        assert env[ATTEMPT_MARK] == attempt, f"environment mark {env.get(ATTEMPT_MARK)} is not attempt {attempt}"
        self._attempt = attempt
        arguments = [ATTEMPT_MARK, attempt, str(kill_seconds), repr(deadline), str(folder)]
        arguments += [(confinement or Confinement()).as_text(), "--", *command]
        self._shim: ShimProcess = shims.shim(arguments, env, log)
        self.shim_pid = self._shim.pid
        self._exit: Exit | None = None
        self._ended = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._watch, name=f"watch-{attempt[:8]}", daemon=True).start()

    def extend(self, deadline: float) -> None:
        """The lease now ends at `deadline` on CLOCK_BOOTTIME."""
        self._order(f"deadline {deadline!r}")

    def terminate(self) -> None:
        """SIGTERM to the trainer, SIGKILL to all of the tree after kill_seconds."""
        self._order("terminate")

    def kill(self) -> None:
        """SIGKILL to the tree at once."""
        self._order("kill")

    def kill_shim(self) -> None:
        """For a shim that does not do its work: the host sweeps in its place."""
        self._shim.kill()

    def wait(self, timeout_seconds: float) -> Exit | None:
        """The end, once nothing of the tree is left; None if that takes longer."""
        self._ended.wait(timeout_seconds)
        return self._exit

    def _order(self, line: str) -> None:
        assert self._shim.stdin is not None
        with self._writing:
            try:
                os.write(self._shim.stdin.fileno(), f"{line}\n".encode())
            except (BrokenPipeError, ValueError):
                return  # it has ended meanwhile

    def _watch(self) -> None:
        assert self._shim.stdout is not None and self._shim.stdin is not None
        report = self._shim.stdout.read()
        self._shim.wait()
        if report.endswith(b"\n"):
            self._exit = Exit(**json.loads(report))
        else:
            sweep(ATTEMPT_MARK, self._attempt)
            self._exit = Exit(code=None, shim_died=True)
        self._ended.set()
        with self._writing:
            self._shim.stdin.close()
        self._shim.stdout.close()


def sweep(mark: str, value: str) -> int:
    """Kills whatever bears the mark until none is left; returns how many signals were sent."""
    return kill_until_none(lambda: marked(mark, value), lambda: time.sleep(0.02))
