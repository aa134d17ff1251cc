"""Sentences of waiting jobs."""

from api.jobs.placement import _accelerators


def test_one_accelerator_is_singular() -> None:
    assert [_accelerators(count, "free ") for count in (1, 2)] == ["1 free accelerator", "2 free accelerators"]
