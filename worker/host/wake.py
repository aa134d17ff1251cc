"""Wake-up calls between the Celery consumer, a child of the host, and the host, over a socket in the state folder.

The consumer connects; the host answers `ok` once it has claimed, or had a free slot and found nothing. It claims for
all of its pools, so that a call need not say which.
"""

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from foundation.retry import backoff

log = structlog.get_logger()
OPTIONS = ["-c", "1", "--disable-prefetch", "--without-gossip", "--without-mingle", "--without-heartbeat"]


class Consumer:
    """The Celery consumer (app.py): starts it, and starts it again whenever it dies. Polling goes on meanwhile."""

    def __init__(self, *, broker_url: str, pools: tuple[str, ...], wake_socket: Path, backoff_seconds: float) -> None:
        queues = ",".join(f"pool.{pool}" for pool in pools)
        self._command = [
            *(sys.executable, "-m", "celery", "--quiet", "-A", "worker.host.app", "worker", *OPTIONS),
            *("-Q", queues, "-n", f"wake-{os.getpid()}@%h", "-l", "WARNING"),
        ]
        settings = {"BROKER_URL": broker_url, "WAKE_SOCKET": str(wake_socket), "HOST_PID": str(os.getpid())}
        self._env = {**_without_token(), **{f"ANNEAL_{name}": value for name, value in settings.items()}}
        self._backoff_seconds = backoff_seconds
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="consumer")
        self._watching = self._thread.submit(self._keep_alive)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def close(self) -> None:
        """Ends it at once: it holds nothing that could be lost."""
        self._closing.set()
        if self._process:
            self._process.kill()
        self._watching.result()
        self._thread.shutdown()

    def _keep_alive(self) -> None:
        for seconds in backoff(self._backoff_seconds):
            # its own session, so that the terminal's Ctrl-C reaches the host alone
            self._process = subprocess.Popen(self._command, env=self._env, start_new_session=True)
            if self._closing.is_set():
                self._process.kill()
            code = self._process.wait()
            if self._closing.is_set():
                return
            log.warning("consumer_died", exit_code=code)
            if self._closing.wait(seconds):
                return


def _without_token() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "ANNEAL_WORKER_TOKEN"}


class WakeServer:
    """Collects calls; `on_call` runs in the thread of the call."""

    def __init__(self, path: Path, on_call: Callable[[], None]) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        with _short(path) as address:
            self._listener.bind(address)
        path.chmod(0o600)
        self._listener.listen()
        self._on_call = on_call
        self._calls: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="wake", daemon=True).start()

    def take(self) -> list[socket.socket]:
        """The calls that wait now; they are answered by `answer`, after the next claim."""
        with self._lock:
            taken, self._calls = self._calls, []
        return taken

    def close(self) -> None:
        """Answers all: a call that is lost is harmless."""
        with suppress(OSError):  # shutdown of a listener is what ends accept(); some kernels refuse to name it
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        answer(self.take())

    def _accept(self) -> None:
        while True:
            try:
                call, _ = self._listener.accept()
            except OSError:
                return  # closed
            with self._lock:
                self._calls.append(call)
            self._on_call()


def answer(calls: list[socket.socket]) -> None:
    for call in calls:
        with call, suppress(OSError):  # the consumer may be gone
            call.sendall(b"ok\n")


def call_host(path: Path) -> bool:
    """Blocks until the host has answered; False where there is no host."""
    with socket.socket(socket.AF_UNIX) as call:
        try:
            with _short(path) as address:
                call.connect(address)
            return call.recv(3) != b""
        except OSError:
            return False


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """`path` by way of /proc, since a socket's address has room for 107 bytes only."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class WakeupPipe:
    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        with suppress(BlockingIOError):  # a full pipe has rung already
            os.write(self._write_end, b"!")

    def wait(self, seconds: float) -> None:
        """Until it rang since the last wait, or for `seconds`."""
        ready, _, _ = select.select([self._read_end], [], [], seconds)
        if ready:
            os.read(self._read_end, 65536)

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)
