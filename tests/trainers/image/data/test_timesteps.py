from typing import Any

import pytest
import torch

from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.losses import cosmap_weight, shifted_time
from trainers.core.noise import Purpose, integer, uniform
from trainers.image.data.timesteps import DdpmTimes, FlowTimes, times_of
from trainers.image.models.base import Base

pytestmark = pytest.mark.numeric

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def base_of(family: str) -> Base:
    return Base(family, None, None, (), (), SD)


def params(**overrides: Any) -> ImageLoraParams:
    return ImageLoraParams(adaptor_name="a", **overrides)


def flow(sampling: Any, shift: float = 1.0) -> FlowTimes:
    return FlowTimes(sampling, lambda _height, _width: shift)


def drawn(times: FlowTimes, count: int = 2000) -> torch.Tensor:
    return torch.tensor([times.draw(7, step, 0, 8, 8)[0] for step in range(count)])


def test_ddpm_draws_whole_timesteps_of_the_bases_own_schedule() -> None:
    times = times_of(base_of("sd1"), params())
    assert isinstance(times, DdpmTimes)
    assert times.draw(7, 3, 1, 8, 8) == (integer(1000, 7, Purpose.TIMESTEP, 3, 1), 1.0)
    assert [times.fixed(share, 8, 8) for share in (0.125, 0.375, 0.625, 0.875)] == [125, 375, 625, 875]


def test_each_sampling_draws_from_its_own_density() -> None:
    uniform_, normal, mode = (drawn(flow(name)) for name in ("uniform", "logit_normal", "mode"))
    quartiles = torch.tensor([0.25, 0.5, 0.75])
    assert torch.allclose(uniform_.quantile(quartiles), quartiles, atol=0.03)
    assert torch.allclose(normal.quantile(quartiles), torch.sigmoid(torch.tensor([-0.6745, 0, 0.6745])), atol=0.03)
    assert mode.std() < uniform_.std() - 0.03  # heavy in the middle
    for times in (uniform_, normal, mode):
        assert times.min() > 0 and times.max() <= 1


def test_cosmap_draws_uniformly_and_weighs() -> None:
    time, weight = flow("cosmap").draw(7, 3, 0, 8, 8)
    assert time == 1 - uniform(7, Purpose.TIMESTEP, 3, 0)
    assert weight == cosmap_weight(time)
    assert flow("cosmap", shift=3.0).draw(7, 3, 0, 8, 8) == (shifted_time(time, 3.0), weight)
    assert all(flow(name).draw(7, 3, 0, 8, 8)[1] == 1.0 for name in ("uniform", "logit_normal", "mode"))


@pytest.mark.parametrize(
    ("family", "overrides", "shift"),
    [
        ("sd3", None, 3.0),
        ("flux", None, 3.1581929),  # exp(1.15) at 128 x 128 latents: 4096 tokens
        ("sd3", 1.0, 1.0),
        ("flux", 2.0, 2.0),
    ],
)
def test_the_shift_is_the_familys_or_the_one_given(family: str, overrides: float | None, shift: float) -> None:
    times = times_of(base_of(family), params(timestep_shift=overrides))
    assert isinstance(times, FlowTimes)
    assert times.fixed(0.5, 128, 128) == pytest.approx(shifted_time(0.5, shift))
    plain, _ = flow("logit_normal").draw(7, 3, 0, 128, 128)
    assert times.draw(7, 3, 0, 128, 128)[0] == pytest.approx(shifted_time(plain, shift))


def test_the_shift_of_flux_grows_with_the_image() -> None:
    times = times_of(base_of("flux"), params())
    assert times.fixed(0.5, 32, 32) < times.fixed(0.5, 64, 64) < times.fixed(0.5, 64, 128)


def test_the_sampling_that_was_asked_for_is_used() -> None:
    times = times_of(base_of("sd3"), params(timestep_sampling="mode"))
    assert isinstance(times, FlowTimes) and times.sampling == "mode"
