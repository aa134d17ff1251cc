from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from trainers.core.noise import Purpose, integer, normal, permutation, stream, uniform

pytestmark = pytest.mark.numeric

BASE: dict[str, Any] = {"seed": 42, "purpose": Purpose.NOISE, "step": 7, "position": 3}


def test_streams_that_differ_in_one_field_differ() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 43},
        {"purpose": Purpose.LATENT},
        {"step": 8},
        {"position": 4},
        {"step": 3, "position": 7},
    ]
    draws = [tuple(stream(**(BASE | change)).integers(2**63, size=4)) for change in changes]
    assert len(set(draws)) == len(changes)


def test_all_64_bits_of_the_seed_count() -> None:
    seeds = [42, 42 + 2**32, 42 + 2**62]
    assert len({uniform(seed, Purpose.NOISE) for seed in seeds}) == 3


def test_a_draw_is_a_function_of_its_fields_alone() -> None:
    first = normal((4, 8, 8), 42, Purpose.NOISE, 7, 3)
    normal((2,), 42, Purpose.NOISE, 7, 4)
    assert torch.equal(first, normal((4, 8, 8), 42, Purpose.NOISE, 7, 3))


def test_neighbouring_streams_do_not_overlap() -> None:
    long = normal((100_000,), 42, Purpose.NOISE, 0, 0)
    following = normal((100,), 42, Purpose.NOISE, 0, 1)
    windows = long.unfold(0, 4, 1)
    assert not (windows == following[:4]).all(dim=1).any()


def test_normal_draws_have_mean_0_and_variance_1() -> None:
    draws = normal((200_000,), 1, Purpose.NOISE)
    assert abs(draws.mean()) < 0.01
    assert abs(draws.var() - 1) < 0.01
    assert draws.dtype == torch.float32


def test_integers_and_permutations_cover_their_range() -> None:
    assert {integer(4, 1, Purpose.CROP, step) for step in range(100)} == {0, 1, 2, 3}
    assert sorted(permutation(10, 1, Purpose.ORDER, 2)) == list(range(10))
    assert permutation(10, 1, Purpose.ORDER, 2) != permutation(10, 1, Purpose.ORDER, 3)


def test_numbers_of_purposes_never_change() -> None:
    assert [(purpose.name, purpose.value) for purpose in Purpose][:9] == [
        ("ORDER", 0),
        ("TIMESTEP", 1),
        ("NOISE", 2),
        ("NOISE_OFFSET", 3),
        ("LATENT", 4),
        ("CROP", 5),
        ("FLIP", 6),
        ("CAPTION_DROPOUT", 7),
        ("LAYER_DROPOUT", 8),
    ]


def test_draws_are_pinned() -> None:
    assert integer(1000, 42, Purpose.TIMESTEP, 5, 1) == 693
    assert normal((1,), 42, Purpose.NOISE, 5, 1).item() == 1.1180298328399658


@pytest.mark.parametrize("seed", [0, 42, 2**63 - 1, 0xF123456789ABCDEF])
def test_draws_are_those_of_a_new_stream_in_any_order_and_thread(seed: int) -> None:
    """The generator is reused: nothing of an earlier draw may be left in it, also not half of a 64-bit word."""

    def draws(place: tuple[int, int]) -> tuple[object, ...]:
        return (
            integer(1000, seed, Purpose.TIMESTEP, *place),
            normal((3, 5), seed, Purpose.NOISE, *place).tolist(),
            uniform(seed, Purpose.FLIP, *place),
            integer(7, seed, Purpose.CROP, *place),
        )

    def expected(place: tuple[int, int]) -> tuple[object, ...]:
        return (
            int(stream(seed, Purpose.TIMESTEP, *place).integers(1000)),
            stream(seed, Purpose.NOISE, *place).standard_normal((3, 5), dtype=np.float32).tolist(),
            float(stream(seed, Purpose.FLIP, *place).random()),
            int(stream(seed, Purpose.CROP, *place).integers(7)),
        )

    places = [(step, position) for step in (0, 1, 2**40) for position in (0, 15, 3)]
    assert [draws(place) for place in places] == [expected(place) for place in places]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draws, places * 20)) == [expected(place) for place in places] * 20
