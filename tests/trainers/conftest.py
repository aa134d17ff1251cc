"""Jobs for the tests of the trainers."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.built_once import built_once, folder_shared
from tests.tiny_text import BUILDERS
from tests.trainers.job import Job, job_make


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded images and captions of all jobs: it is content-keyed, so sharing it is part of what is tested."""
    return folder_shared(tmp_path_factory, "cache")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random text base by family. Read only."""

    def folder_of(family: str) -> Path:
        return built_once(tmp_path_factory, f"tiny_{family}", BUILDERS[family])

    return functools.cache(folder_of)


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
