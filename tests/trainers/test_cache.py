"""The cache: content-keyed, safe to delete, safe to share, one item at a time."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainers.job import Job, job_make
from trainers.data.cache import cache_key, tensors_digest


def entries(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.glob("latents/*")}


@pytest.fixture
def own(tmp_path: Path, tiny_sd: Path) -> Callable[..., Job]:
    """Jobs that share a cache of this test alone."""

    def make(name: str, count: int = 3) -> Job:
        return job_make(tmp_path / name, tiny_sd, tmp_path / "cache", sizes=((80, 64),) * count)

    return make


def test_a_second_job_encodes_only_what_is_new(own: Callable[..., Job]) -> None:
    first, second = own("first"), own("second", count=4)
    assert first.run() == 0
    before = entries(first.cache)
    assert len(before) == 3
    assert second.run() == 0
    assert len(entries(first.cache)) == 4
    assert before.items() <= entries(first.cache).items()


def test_a_deleted_or_damaged_cache_is_rebuilt_to_the_same_bits(own: Callable[..., Job]) -> None:
    first, second = own("first"), own("second")
    assert first.run() == 0
    gone, damaged, *_ = sorted(first.cache.glob("latents/*"))
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert second.run() == 0
    assert second.manifest["cache_digest"] == first.manifest["cache_digest"]
    assert second.losses() == first.losses()


def test_moments_do_not_depend_on_the_other_pictures(own: Callable[..., Job]) -> None:
    few, many = own("few", count=1), own("many", count=3)
    object.__setattr__(many, "cache", many.root / "cache")
    assert few.run() == many.run() == 0
    (entry,) = few.cache.glob("latents/*")
    assert (many.cache / "latents" / entry.name).read_bytes() == entry.read_bytes()


def test_crops_and_flips_are_encoded_as_variants(own: Callable[..., Job]) -> None:
    job = own("job").spec(center_crop=False, random_flip=True)
    assert job.run() == 0
    assert 3 * 2 * 2 <= len(entries(job.cache)) <= 3 * 2 * 4  # two of four places may fall together


def test_two_jobs_at_once_share_it(own: Callable[..., Job]) -> None:
    jobs = [own(name, count=4) for name in ("first", "second")]
    for job in jobs:
        job.start()
    for job in jobs:
        job.processes[0].join()
        assert job.processes[0].exitcode == 0
    assert jobs[0].losses() == jobs[1].losses()
    assert not list(jobs[0].cache.rglob(".*"))


def test_a_key_depends_on_every_value_and_on_no_order() -> None:
    assert cache_key(a=1, b=2) == cache_key(b=2, a=1)
    assert len({cache_key(a=1), cache_key(a=2), cache_key(b=1), cache_key(a="1")}) == 4


def test_a_digest_sees_every_bit() -> None:
    whole = {"a": torch.tensor([1.0, 2.0])}
    assert tensors_digest(whole) == tensors_digest({"a": torch.tensor([1.0, 2.0])})
    assert tensors_digest(whole) != tensors_digest({"a": torch.tensor([1.0, 2.0000002])})
    assert tensors_digest(whole) != tensors_digest({"b": torch.tensor([1.0, 2.0])})
