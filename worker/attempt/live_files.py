"""TensorBoard's files while the trainer writes them: what was added since the last look becomes a piece to publish."""

import time

import structlog

from foundation.live_files import LIVE
from worker.attempt.publish import Artifact, Publisher
from worker.transfer.out_folder import OutFolder, UnsafeFileError

FOLDER = "tensorboard"
PIECE_BYTES = 16 * 1024**2
MAX_FILES = 50
SHARE = 50
"""A look is made each 50th of the time so far, so that the pieces of the longest job stay few."""
log = structlog.get_logger()


class LiveFiles:
    """`every_seconds`: between two looks in the first minutes."""

    def __init__(self, out: OutFolder, publisher: Publisher, every_seconds: float) -> None:
        self._out = out
        self._publisher = publisher
        self._every_seconds = every_seconds
        self._started_at = self._looked_at = time.monotonic()
        self._ends: dict[str, int] = {}
        """By file, how much of it was staged."""
        self._last: Artifact | None = None

    def look(self, step: int) -> None:
        """Stages what is new, once it is time and the storage has taken the pieces before it."""
        now = time.monotonic()
        pause = max(self._every_seconds, (now - self._started_at) / SHARE)
        if now < self._looked_at + pause or (self._last and not self._last.done.is_set()):
            return
        self._looked_at = now
        try:
            for path in self._out.files(FOLDER, limit=MAX_FILES):
                self._stage(path, step)
        except FileNotFoundError:
            return
        except (OSError, UnsafeFileError) as error:  # the whole files come at the end
            log.warning("live_files_left_out", error=str(error)[:1000])

    def _stage(self, path: str, step: int) -> None:
        start = self._ends.get(path, 0)
        data = self._out.read(path, start=start, limit=PIECE_BYTES)
        if data:
            index = list(self._ends).index(path) if path in self._ends else len(self._ends)
            name = f"{LIVE}/{index:03d}-{start:015d}.part"
            self._last = self._publisher.stage_bytes(FOLDER, step, name, data, {"file": path, "start": start})
            self._ends[path] = start + len(data)
