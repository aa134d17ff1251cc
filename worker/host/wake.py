"""Wake-up calls between the Celery consumer and the host, over a unix socket in the state folder.

The consumer connects; the host answers `ok` once it has claimed, or had a free slot and found nothing. It claims for
all of its pools, so that a call need not say which.
"""

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
