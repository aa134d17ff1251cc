"""TensorBoard's files of a job, mirrored here while its trainer writes them."""

import tempfile
from pathlib import Path
from typing import Any

from cli.downloads import inside
from cli.http import Client, Record
from cli.transfers import file_download
from foundation.live_files import LIVE

KIND = "tensorboard"


class Mirror:
    """Below `folder`, one folder for each attempt. Files only grow, so whoever reads them may keep them open."""

    def __init__(self, client: Client, job: str, folder: Path) -> None:
        self._client = client
        self._job = job
        self._folder = folder

    def update(self) -> int:
        """Appends what is new; returns how many bytes that were."""
        attempts: list[int] = [attempt["n"] for attempt in self._client.get(f"jobs/{self._job}")["attempts"]]
        return sum(self._update_attempt(n) for n in attempts)

    def _update_attempt(self, n: int) -> int:
        rows = list(self._client.pages(f"jobs/{self._job}/artifacts", kind=KIND, attempt=n))
        target = self._folder / f"attempt-{n}"
        pieces = [row for row in rows if row["path"].startswith(f"{LIVE}/")]
        complete = [file for row in rows if row not in pieces for file in row["files"]]
        added = sum(self._append(file, _local(target, file["path"]), 0) for file in complete)
        return added + sum(self._append_piece(row, target) for row in sorted(pieces, key=_start))

    def _append_piece(self, row: Record, target: Path) -> int:
        """A piece that does not meet the end of the file waits for those before it."""
        local = _local(target, str(row["details"].get("file", "")))
        start, size = _start(row), local.stat().st_size if local.exists() else 0
        is_next = start <= size < start + row["size_bytes"]
        return self._append(row["files"][0], local, start) if is_next else 0

    def _append(self, file: Record, local: Path, start: int) -> int:
        """What `file`, which begins at `start`, has beyond the end of `local`."""
        size = local.stat().st_size if local.exists() else 0
        if start + file["size"] <= size:
            return 0
        with tempfile.TemporaryDirectory() as folder:
            data = file_download(file, Path(folder) / "piece").read_bytes()[size - start :]
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("ab") as end:
            end.write(data)
        return len(data)


def _start(row: Record) -> int:
    value: Any = row["details"].get("start", 0)
    return value if isinstance(value, int) else 0


def _local(folder: Path, path: str) -> Path:
    return inside(folder, Path(path).name or "unnamed")
