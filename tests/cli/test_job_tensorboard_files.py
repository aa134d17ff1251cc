"""TensorBoard's files as they grow: appended, never rewritten, whatever comes when."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from cli.commands.job_results import Mirror
from tests.cli.small_server import Answer, serving

NAME = "events.out.tfevents.1"


class Job:
    """The answers of the API about one job, and the links of its files."""

    def __init__(self) -> None:
        self.url = ""
        self.rows: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def add(self, path: str, data: bytes, **details: Any) -> None:
        self.files[f"/{path}"] = data
        file = {
            "path": path,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "url": f"{self.url}/{path}",
        }
        folder = path if details else path.rpartition("/")[0]
        self.rows.append({"path": folder, "size_bytes": len(data), "files": [file], "details": details})

    def piece(self, start: int, data: bytes, file: str = f"tensorboard/{NAME}") -> None:
        self.add(f"tensorboard-live/000-{start}.part", data, file=file, start=start)

    def get(self, _: str) -> Any:
        return {"attempts": [{"n": 1}]}

    def pages(self, _: str, **query: Any) -> Any:
        assert query == {"kind": "tensorboard", "attempt": 1}
        return iter(self.rows)

    def answer(self, path: str, _: dict[str, str]) -> Answer:
        self.fetched.append(path)
        return 200, {}, self.files[path]


@pytest.fixture
def job() -> Any:
    job = Job()
    with serving(job.answer) as url:
        job.url = url
        yield job


def mirrored(job: Job, folder: Path) -> bytes:
    Mirror(job, "id", folder).update()  # type: ignore[arg-type]
    path = folder / "attempt-1" / NAME
    return path.read_bytes() if path.exists() else b""


def test_pieces_are_appended_once_each(job: Job, tmp_path: Path) -> None:
    assert mirrored(job, tmp_path) == b""
    job.piece(0, b"abc")
    assert mirrored(job, tmp_path) == b"abc"
    reader = (tmp_path / "attempt-1" / NAME).open("rb")
    job.piece(3, b"def")
    assert mirrored(job, tmp_path) == b"abcdef" == mirrored(job, tmp_path)
    assert len(job.fetched) == 2
    assert reader.read() == b"abcdef", "TensorBoard keeps the file open"


def test_the_whole_file_ends_the_mirror_where_the_pieces_went(job: Job, tmp_path: Path) -> None:
    job.piece(0, b"abc")
    mirrored(job, tmp_path)
    job.rows.clear()
    job.add(f"tensorboard/{NAME}", b"abcdefgh")
    assert mirrored(job, tmp_path) == b"abcdefgh" == mirrored(job, tmp_path)


def test_a_gap_waits_for_the_whole_file(job: Job, tmp_path: Path) -> None:
    job.piece(0, b"abc")
    job.piece(9, b"jkl")
    assert mirrored(job, tmp_path) == b"abc"


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/../../x"])
def test_no_name_leaves_the_folder(name: str, job: Job, tmp_path: Path) -> None:
    job.piece(0, b"abc", file=name)
    mirrored(job, tmp_path / "mirror")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(path.is_relative_to(tmp_path / "mirror" / "attempt-1") for path in files)
