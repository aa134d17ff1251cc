"""Times, masks, weights and cutoffs of text diffusion against closed forms."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.core.noise import Purpose
from trainers.text.objective import corruption
from trainers.text.objective.corruption import (
    LossNorm,
    NoiseSchedule,
    cart_weights,
    columns_cut,
    cut_columns,
    document_time,
    grid_time,
    mask_draw,
    masked_share,
    norm_scales,
    response_cut,
    scheduler_weight,
)

SCHEDULES: tuple[NoiseSchedule, ...] = ("linear", "cosine")
MASK = np.array([bool(int(digit)) for digit in "00110111"])


def cart_matrix(masked_L: np.ndarray, geo_p: float) -> np.ndarray:
    """The definition, with its L x L matrix."""
    distance_LL = np.abs(np.subtract.outer(np.arange(len(masked_L)), np.arange(len(masked_L))))
    kernel_LL = np.where(distance_LL > 0, geo_p * (1 - geo_p) ** np.maximum(distance_LL - 1, 0), 0.0)
    return np.where(masked_L, 0.5 * kernel_LL @ ~masked_L, 0.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_everything_is_masked_at_time_one_and_nothing_at_zero(schedule: NoiseSchedule) -> None:
    assert masked_share(1.0, schedule) == 1.0
    assert masked_share(0.0, schedule) == pytest.approx(0.0, abs=1e-15)
    assert masked_share(0.5, schedule) == pytest.approx({"linear": 0.5, "cosine": math.cos(math.pi / 4)}[schedule])


@pytest.mark.parametrize(("schedule", "tolerance"), [("linear", 1e-5), ("cosine", 1e-3)])
def test_the_mean_of_weight_times_share_is_one(schedule: NoiseSchedule, tolerance: float) -> None:
    times = [grid_time(index, 10_000, epsilon=1e-3) for index in range(10_000)]
    mean = sum(scheduler_weight(time, schedule) * masked_share(time, schedule) for time in times) / len(times)
    edge = {"linear": 0.0, "cosine": 1.2e-6}[schedule]  # of the interval (0, epsilon), which is never drawn
    assert mean == pytest.approx(1 + edge, abs=tolerance)


@pytest.mark.parametrize("time", [0.0, 1e-6, 0.5])
def test_the_scheduler_weight_is_finite_and_equals_the_formula_near_zero(time: float) -> None:
    angle = math.pi / 2 * (1 - time)
    cosine = math.pi / 2 * math.sin(angle) / (math.cos(angle) + 1e-6)
    assert scheduler_weight(time, "linear") == pytest.approx(1 / (time + 1e-6), rel=1e-9)
    assert scheduler_weight(time, "cosine") == pytest.approx(cosine, rel=1e-9)


def test_the_cosine_weight_is_the_derivative_of_the_share_over_the_share() -> None:
    for time in (0.1, 0.5, 0.9):
        slope = (masked_share(time + 1e-6, "cosine") - masked_share(time - 1e-6, "cosine")) / 2e-6
        assert scheduler_weight(time, "cosine") == pytest.approx(slope / masked_share(time, "cosine"), rel=1e-4)


def test_the_weights_of_the_specification() -> None:
    expected = [0, 0, 0.36, 0.3285, 0, 0.237465, 0.166225, 0.116358]
    assert cart_weights(MASK, 0.3) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_the_recurrence_equals_the_matrix_form(masked: list[bool], geo_p: float) -> None:
    masked_L = np.array(masked)
    assert cart_weights(masked_L, geo_p) == pytest.approx(cart_matrix(masked_L, geo_p), abs=1e-12)


def test_cart_weights_of_a_document_equal_its_block_of_the_batch_matrix() -> None:
    """Documents reset: without the far document's tokens the weights are others."""
    together = cart_weights(np.concatenate([MASK, MASK]), 0.3)
    assert not np.allclose(together[:8], cart_weights(MASK, 0.3))


def test_antithetic_times_are_spread_evenly() -> None:
    size = 8
    times = sorted(document_time(7, 3, position, size, epsilon=1e-3, antithetic=True) for position in range(size))
    assert np.diff(times) == pytest.approx([(1 - 1e-3) / size] * (size - 1))
    assert 1e-3 <= times[0] < times[-1] < 1


def test_antithetic_times_are_offset_by_position_over_batch_size() -> None:
    """u_b = (u + b / B) mod 1."""
    times = [document_time(7, 3, position, 8, epsilon=0.0, antithetic=True) for position in range(8)]
    assert times == pytest.approx([(times[0] + position / 8) % 1 for position in range(8)])


def test_independent_times_are_uneven_and_at_least_epsilon() -> None:
    times = [document_time(7, 3, position, 8, epsilon=0.2, antithetic=False) for position in range(8)]
    assert min(times) >= 0.2
    assert np.std(np.diff(sorted(times))) > 1e-3


def test_streams_that_differ_in_one_field_differ() -> None:
    """Two values for each field, so that every pair that differs in one is among the sixteen."""
    fields = product((42, 42 + 2**32), (Purpose.MASK, Purpose.TOKEN), (3, 4), (0, 1))
    draws = [tuple(mask_draw(seed, purpose, step, position, 4)) for seed, purpose, step, position in fields]
    assert len(set(draws)) == 16


def test_the_mask_draw_of_a_shorter_document_is_a_prefix() -> None:
    assert list(mask_draw(1, Purpose.MASK, 2, 3, 9)[:5]) == list(mask_draw(1, Purpose.MASK, 2, 3, 5))


def test_the_response_cut_is_the_length_of_any_response_of_the_batch() -> None:
    lengths = [5, 9, 2]
    assert {response_cut(1, step, lengths) for step in range(50)} == set(lengths)


def test_columns_are_cut_at_the_ratio_and_leave_some_of_each_response() -> None:
    cuts = [columns_cut(1, step, 0.3, [6, 4]) for step in range(2000)]
    assert sum(cut > 0 for cut in cuts) / 2000 == pytest.approx(0.3, abs=0.04)
    assert set(cuts) == {0, 1, 2, 3}
    assert columns_cut(1, 0, 1.0, [1, 5]) == 0


def test_a_ratio_of_zero_cuts_no_column_even_on_the_smallest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruption, "uniform", lambda *_: 0.0)
    assert columns_cut(1, 0, 0.0, [6, 4]) == 0


def test_columns_are_cut_from_the_longest() -> None:
    assert cut_columns([10, 7, 9], 2) == [8, 7, 8]


COUNTS = (3, 0, 12, 7)


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("token", [1 / 22] * 4),
        ("sequence", [1 / 9, 0, 1 / 36, 1 / 21]),
        ("batch", [1 / 4] * 4),
    ],
)
def test_scales(norm: LossNorm, expected: list[float]) -> None:
    assert norm_scales(COUNTS, norm) == pytest.approx(expected)


@pytest.mark.numeric
@pytest.mark.parametrize("norm", ["token", "sequence", "batch"])
def test_a_batch_without_maskable_tokens_has_no_loss(norm: LossNorm) -> None:
    assert all(math.isfinite(scale) and scale * 0 == 0 for scale in norm_scales([0, 0], norm))


@pytest.mark.numeric
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("norm", "expected"), [("token", 1.0), ("sequence", 1.0), ("batch", sum(COUNTS) / len(COUNTS))]
)
def test_uniform_logits_give_log_v_in_expectation(schedule: NoiseSchedule, norm: LossNorm, expected: float) -> None:
    """nll = log V everywhere, so the loss is log V x sum of scale x w x masked; in expectation masked = p |M|."""
    times = (np.arange(20_000) + 0.5) / 20_000
    mean = np.mean([scheduler_weight(time, schedule) * masked_share(time, schedule) for time in times])
    loss = math.log(50) * sum(
        scale * mean * count for scale, count in zip(norm_scales(COUNTS, norm), COUNTS, strict=True)
    )
    assert loss == pytest.approx(expected * math.log(50), rel=1e-3)
