"""How much a trainer may leave: entries and bytes in the folders that it writes, looked at while it runs."""

import time
from collections.abc import Sequence

from worker.transfer.out_folder import OutFolder, UnsafeFileError

LOOK_SECONDS = 2.0
SHARE = 20
"""Looking takes at most one part in this many of the time."""


class OutBounds:
    """`folders` are counted together. A file that was removed but is still open is not seen."""

    def __init__(self, folders: Sequence[OutFolder], *, most_files: int, most_bytes: int) -> None:
        self._folders = folders
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._next_look = 0.0

    def look(self) -> str:
        """`problem`, once it is time again."""
        started = time.monotonic()
        if started < self._next_look:
            return ""
        problem = self.problem()
        now = time.monotonic()
        self._next_look = now + max(LOOK_SECONDS, SHARE * (now - started))
        return problem

    def problem(self) -> str:
        """A sentence that says which bound is exceeded; empty where none is."""
        entries = size_bytes = 0
        try:
            for folder in self._folders:
                usage = folder.usage(most_entries=self._most_files - entries)
                entries, size_bytes = entries + usage.entries, size_bytes + usage.size_bytes
        except UnsafeFileError as error:
            return f"The trainer left folders that cannot be read: {error}."
        if entries > self._most_files:
            return f"Expected at most {self._most_files} files and folders in out/, found more."
        if size_bytes > self._most_bytes:
            return f"Expected at most {self._most_bytes} bytes in out/, found {size_bytes}."
        return ""
