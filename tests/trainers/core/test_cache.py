"""The cache: content-keyed, safe to delete, safe to share, one item at a time."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.ports import free_port
from tests.trainers.job import FORKSERVER, Job, job_make
from trainers.contract.spec import Resources
from trainers.core.cache import cache_key, stores_digest, tensors_cached
from trainers.core.control import Control
from trainers.core.distributed import start_processes, stop_processes
from trainers.core.reporting import Reporter


def entries(cache: Path) -> dict[str, int]:
    """The file behind each name: an entry that is written again is another file, one that is used is touched."""
    return {path.name: path.stat().st_ino for path in cache.glob("latents/*")}


@pytest.fixture
def local(tmp_path: Path, tiny_sd: Path) -> Callable[..., Job]:
    """Jobs that share a cache of this test alone."""

    def make(name: str, count: int = 3) -> Job:
        return job_make(tmp_path / name, tiny_sd, tmp_path / "cache", sizes=((80, 64),) * count)

    return make


def test_a_second_job_encodes_only_what_is_new(local: Callable[..., Job]) -> None:
    first, second = local("first"), local("second", count=4)
    assert first.run() == 0
    before = entries(first.cache)
    assert len(before) == 3
    assert second.run() == 0
    assert len(entries(first.cache)) == 4
    assert before.items() <= entries(first.cache).items()


def test_a_deleted_or_damaged_cache_is_rebuilt_bit_for_bit(local: Callable[..., Job]) -> None:
    first, second = local("first"), local("second")
    assert first.run() == 0
    gone, damaged, *_ = sorted(first.cache.glob("latents/*"))
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert second.run() == 0
    assert second.manifest["cache_digest"] == first.manifest["cache_digest"]
    assert second.losses() == first.losses()


def test_moments_do_not_depend_on_the_other_images(local: Callable[..., Job]) -> None:
    few, many = local("few", count=1), local("many", count=3)
    object.__setattr__(many, "cache", many.root / "cache")
    assert few.run() == many.run() == 0
    (entry,) = few.cache.glob("latents/*")
    assert (many.cache / "latents" / entry.name).read_bytes() == entry.read_bytes()


def test_crops_and_flips_are_encoded_as_variants(local: Callable[..., Job]) -> None:
    job = local("job").spec(center_crop=False, random_flip=True)
    assert job.run() == 0
    assert 3 * 2 * 2 <= len(entries(job.cache)) <= 3 * 2 * 4  # two of four places may fall together


@pytest.mark.slow
def test_two_concurrent_jobs_share_a_cache(local: Callable[..., Job]) -> None:
    jobs = [local(name, count=4) for name in ("first", "second")]
    for job in jobs:
        job.start()
    for job in jobs:
        job.processes[0].join()
        assert job.processes[0].exitcode == 0
    assert jobs[0].losses() == jobs[1].losses()
    assert not list(jobs[0].cache.rglob(".*"))


def test_ranks_of_a_host_compute_each_entry_once_and_read_all(tmp_path: Path) -> None:
    port = free_port()
    ranks = [FORKSERVER.Process(target=_make_as_rank, args=(tmp_path, rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    created = [(tmp_path / f"made-by-{rank}").read_text().split() for rank in range(2)]
    assert created == [["0", "2", "4"], ["1", "3"]]
    assert [(tmp_path / f"read-by-{rank}").read_text() for rank in range(2)] == ["0 1 2 3 4"] * 2


def _make_as_rank(folder: Path, rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = start_processes(Resources(strategy="ddp", processes=2))
    reporter = Reporter(None)

    def maker(value: int) -> Callable[[], dict[str, torch.Tensor]]:
        def make() -> dict[str, torch.Tensor]:
            with (folder / f"made-by-{rank}").open("a") as log:
                log.write(f"{value} ")
            return {"value": torch.tensor([value])}

        return make

    store = tensors_cached(
        folder / "cache",
        {str(value): maker(value) for value in range(5)},
        stage="making",
        processes=processes,
        control=Control(folder / "control", processes, reporter),
        reporter=reporter,
    )
    assert store is not None
    (folder / f"read-by-{rank}").write_text(" ".join(str(store[key]["value"].item()) for key in sorted(store)))
    stop_processes()


def test_a_key_depends_on_every_value_but_not_on_order() -> None:
    assert cache_key(a=1, b=2) == cache_key(b=2, a=1)
    assert len({cache_key(a=1), cache_key(a=2), cache_key(b=1), cache_key(a="1")}) == 4


def test_a_digest_depends_on_every_bit() -> None:
    def digest(name: str, *values: float) -> str:
        return stores_digest({"texts": {"one": {name: torch.tensor(values)}}})

    assert digest("a", 1.0, 2.0) == digest("a", 1.0, 2.0)
    assert len({digest("a", 1.0, 2.0), digest("a", 1.0, 2.0000002), digest("b", 1.0, 2.0)}) == 3
