"""Wakes the host's loop from signal handlers and threads alike: a pipe, since locks are not safe in handlers."""

import os
import select
from contextlib import suppress


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
