"""Jobs for the tests of the trainers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tiny_text import BUILDERS
from tests.trainers.job import Job, job_make


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded images and captions of all jobs: it is content-keyed, so sharing it is part of what is tested."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random text base by family, each made once. Read only."""
    root = tmp_path_factory.mktemp("tiny_text")

    def folder_of(family: str) -> Path:
        return root / family if (root / family).exists() else BUILDERS[family](root / family)

    return folder_of


@pytest.fixture
def make_job(tmp_path: Path, tiny_sd: Path, shared_cache: Path) -> Iterator[Callable[..., Job]]:
    """Makes jobs in folders of their own; what they started is gone after the test."""
    jobs: list[Job] = []

    def make(name: str = "job", **options: object) -> Job:
        jobs.append(job_make(tmp_path / name, tiny_sd, shared_cache, **options))  # type: ignore[arg-type]
        return jobs[-1]

    yield make
    for process in (process for job in jobs for process in job.processes):
        process.kill()
        process.join()


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job()
