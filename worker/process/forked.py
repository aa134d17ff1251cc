"""One prepared process, seen from the host: the socket to it, and the shims that it forks."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from worker.process.supervise import Spawner, sweep
from worker.process.tree import RESERVED, ROOM

ENVIRONMENT = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""For the prepared process alone: pyarrow starts a thread when it is imported."""
ANSWER_SECONDS = 20.0
MESSAGE_BYTES = 1 << 20
OUTPUT_BYTES = 2000
"""How much of what it printed is logged when it fails."""


class ForkError(Exception):
    """The prepared process did not fork; it has been killed, and nothing of the job was left running."""


class RefusedForkError(ForkError):
    """It found that it must not be forked."""


class Forker:
    """One prepared process and the socket to it."""

    def __init__(
        self, spawner: Spawner, folder: Path, env: Mapping[str, str], modules: Sequence[str], digest: str
    ) -> None:
        self.digest = digest
        self._started = time.monotonic()
        self._output = folder / "output"
        self._control, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "worker.process.forker", str(os.getpid()), str(other_end.fileno())]
        with other_end, self._output.open("wb") as output:
            self._process = spawner.start(
                [*command, ",".join(modules), ROOM],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**env, **ENVIRONMENT, RESERVED[0]: RESERVED[1]},
                pass_fds=(other_end.fileno(),),
                start_new_session=True,
            )
        self._control.settimeout(ANSWER_SECONDS)
        self._ready = False

    @property
    def is_ready(self) -> bool:
        if not self._ready and _is_readable(self._control.fileno(), seconds=0):
            self._ready = bool(self._control.recv(MESSAGE_BYTES))
        return self._ready

    @property
    def has_died(self) -> bool:
        return self._process.poll() is not None

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._started

    def output(self) -> str:
        return self._output.read_bytes()[-OUTPUT_BYTES:].decode(errors="replace")

    def fork(self, arguments: Sequence[str], env: Mapping[str, str], log: int) -> "ForkedShim":
        """A shim on pipes of its own. Once this raises, no process that was forked for it is left."""
        message = json.dumps({"arguments": list(arguments), "env": dict(env)}).encode()
        stdin, orders = os.pipe2(os.O_CLOEXEC)
        reports, stdout = os.pipe2(os.O_CLOEXEC)
        try:
            answer, process = self._exchange(message, [stdin, stdout, log])
        finally:
            os.close(stdin)
            os.close(stdout)
        if "pid" in answer:
            return ForkedShim(answer["pid"], process, os.fdopen(orders, "wb", 0), os.fdopen(reports, "rb"))
        self.close()
        os.close(orders)  # a shim that was forked all the same starts no trainer from here on
        os.close(reports)
        sweep(*arguments[:2])
        if "refused" in answer:
            raise RefusedForkError(answer["refused"])
        raise ForkError(answer.get("error", "it has died"))

    def _exchange(self, message: bytes, descriptors: list[int]) -> tuple[dict[str, Any], int | None]:
        """The answer, and the descriptor of the forked process unless it has ended."""
        try:
            socket.send_fds(self._control, [message], descriptors)
            data, received, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            return {"error": f"it does not answer: {error}"}, None
        return json.loads(data or "{}"), received[0] if received else None

    def close(self) -> None:
        """Jobs that were forked from it go on."""
        self._control.close()
        self._process.kill()
        self._process.wait()


class ForkedShim:
    """As much of `subprocess.Popen` as a shim's owner uses. The shim is no child of this process."""

    def __init__(self, pid: int, process: int | None, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._process = process
        """Descriptor of the process; None once it has ended."""
        self._lock = threading.Lock()

    def kill(self) -> None:
        with self._lock:
            if self._process is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def wait(self) -> None:
        """Returns once it has ended."""
        process = self._process
        if process is None:
            return
        _is_readable(process, seconds=None)
        with self._lock:
            self._process = None
        os.close(process)


def _is_readable(descriptor: int, *, seconds: float | None) -> bool:
    """Waits `seconds` at most, None = for ever. A process's descriptor is readable once the process has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
