"""The norms of text losses, and what a model that knows nothing must score."""

import math

import numpy as np
import pytest

from trainers.text.objective.corruption import LossNorm, NoiseSchedule, masked_share, norm_scales, scheduler_weight

pytestmark = pytest.mark.numeric

COUNTS = (3, 0, 12, 7)


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


@pytest.mark.parametrize("norm", ["token", "sequence", "batch"])
def test_a_batch_without_maskable_tokens_has_no_loss(norm: LossNorm) -> None:
    assert all(math.isfinite(scale) and scale * 0 == 0 for scale in norm_scales([0, 0], norm))


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
