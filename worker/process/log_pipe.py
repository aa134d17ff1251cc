"""A named pipe that a resident opens by its path for the output of one attempt."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

PIECE = 1 << 16


class LogPipe:
    """Copies what comes through the pipe at `path` to the descriptor `target`, which is closed at the end.

    `give` lets the trainer open it. A path, not a descriptor of this process: a confined trainer opens none of ours.
    """

    def __init__(self, path: Path, target: int, give: Callable[[Path], None]) -> None:
        self.path = path
        self._target = target
        os.mkfifo(path, 0o600)
        give(path)
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        self._writer = os.open(path, os.O_RDWR | flags)  # so that the pipe does not end before the trainer opens it
        self._reader = os.open(path, os.O_RDONLY | flags)
        threading.Thread(target=self._copy, name=f"log-{path.name[:8]}", daemon=True).start()

    def write(self, data: bytes) -> None:
        os.write(self._writer, data)

    def close(self) -> None:
        """The copy ends once the trainer has closed its end too."""
        os.close(self._writer)

    def _copy(self) -> None:
        try:
            while data := os.read(self._reader, PIECE):
                while data:
                    data = data[os.write(self._target, data) :]
        finally:
            os.close(self._reader)
            os.close(self._target)
            self.path.unlink(missing_ok=True)
