"""How far a sample is noised: timesteps of DDPM, or shifted times s in (0, 1] of flow matching.

Shifts are applied only here: the sigmas in a diffusers scheduler for SD3 are shifted already.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.losses import alphas_cumprod, cosmap_weight, flux_mu, logit_normal_time, mode_time, shifted_time
from trainers.core.noise import Purpose, integer, stream, uniform
from trainers.image.models.base import Base

Shift = Callable[[int, int], float]
"""(height, width) of a latent -> its shift factor."""
AUTO_SHIFTS: dict[str, Shift] = {
    "sd3": lambda _height, _width: 3.0,
    "flux": lambda height, width: math.exp(flux_mu((height // 2) * (width // 2))),
}


@dataclass(frozen=True)
class DdpmTimes:
    """Whole timesteps 0..num_timesteps-1, uniform."""

    num_timesteps: int

    def draw(self, seed: int, step: int, position: int, _height: int, _width: int) -> tuple[int, float]:
        """(timestep, weight of its loss)"""
        return integer(self.num_timesteps, seed, Purpose.TIMESTEP, step, position), 1.0

    def fixed(self, share: float, _height: int, _width: int) -> int:
        """The timestep at `share` in (0, 1) of the way."""
        return int(share * self.num_timesteps)


@dataclass(frozen=True)
class FlowTimes:
    """Times s in (0, 1]; height and width are the latent's."""

    sampling: Literal["uniform", "logit_normal", "mode", "cosmap"]
    shift: Shift

    def draw(self, seed: int, step: int, position: int, height: int, width: int) -> tuple[float, float]:
        """(shifted time, weight of its loss): for cosmap the weight of the time before the shift, else 1."""
        if self.sampling == "logit_normal":
            time = logit_normal_time(float(stream(seed, Purpose.TIMESTEP, step, position).standard_normal()))
        elif self.sampling == "mode":
            time = mode_time(uniform(seed, Purpose.TIMESTEP, step, position))
        else:
            time = 1 - uniform(seed, Purpose.TIMESTEP, step, position)
        weight = cosmap_weight(time) if self.sampling == "cosmap" else 1.0
        return shifted_time(time, self.shift(height, width)), weight

    def fixed(self, share: float, height: int, width: int) -> float:
        """The shifted time of `share` in (0, 1)."""
        return shifted_time(share, self.shift(height, width))


Times = DdpmTimes | FlowTimes


def times_of(base: Base, params: ImageLoraParams) -> Times:
    """The time distribution of a job on `base`."""
    if base.family not in AUTO_SHIFTS:
        return DdpmTimes(len(alphas_cumprod(base.scheduler_config)))
    shift = params.timestep_shift
    return FlowTimes(params.timestep_sampling, AUTO_SHIFTS[base.family] if shift is None else lambda _h, _w: shift)
