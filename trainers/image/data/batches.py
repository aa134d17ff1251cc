"""Micro-batches of `image_lora`: which rows make up which step, and every draw, from (seed, step, position) alone.

Times are timesteps (DDPM) or shifted s in (0, 1] (flow matching). Shifts are applied only here: the sigmas in a
diffusers scheduler for SD3 are shifted already.
"""

# B batch, C channels, H height, W width (of latents)

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.loop import StepBatch
from trainers.core.losses import (
    alphas_cumprod,
    cosmap_weight,
    flux_mu,
    logit_normal_time,
    mode_time,
    offset_noise,
    shifted_time,
)
from trainers.core.noise import Purpose, integer, normal, permutation, stream, uniform
from trainers.image.data.examples import CaptionedImage, Examples
from trainers.image.data.framing import Augment, Crop, draw_change
from trainers.image.models.base import Base
from trainers.image.models.text_encoders import Text, text_stack


@dataclass(frozen=True, eq=False)
class Plan:
    """An epoch is a seeded permutation of the rows. Its last global batch may be short; nothing is repeated.

    Rows of different shapes are sorted into global batches of one shape; the rest of each shape fills the last batches
    of the epoch. The rows of a step depend on the size of the global batch alone, not on its division among ranks.
    """

    num_rows: int
    batch_size: int
    """Samples per rank and micro-batch."""
    accumulation: int
    world_size: int
    seed: int
    shapes: Sequence[Hashable] = ()
    """[row]; empty = one shape for all. A micro-batch has one shape."""
    num_class_rows: int = 0
    """Class images (prior preservation): each global batch has as many of them as rows."""

    @property
    def batch_rows(self) -> int:
        """Rows of a full global batch."""
        return self.batch_size * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_rows / self.batch_rows)

    def rows(self, step: int) -> list[int]:
        """The global batch of `step` (from 0); its index is the sample's position."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return _order(self, epoch)[within * self.batch_rows : (within + 1) * self.batch_rows]

    def class_rows(self, step: int) -> list[int]:
        """The class images of the step, in seeded permutations that continue from step to step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = epoch * self.num_rows + within * self.batch_rows
        places = [divmod(start + index, self.num_class_rows) for index in range(len(self.rows(step)))]
        return [_class_order(self, round_)[place] for round_, place in places]

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step / self.steps_per_epoch

    def micro_batches(self, shapes: Sequence[Hashable]) -> list[range]:
        """Positions in each micro-batch, over all ranks, of samples that have these shapes: one shape each."""
        edges = [0, *(i for i in range(1, len(shapes)) if shapes[i] != shapes[i - 1]), len(shapes)]
        return [
            range(at, min(at + self.batch_size, end))
            for start, end in pairwise(edges)
            for at in range(start, end, self.batch_size)
        ]


@lru_cache(maxsize=4)
def _order(plan: Plan, epoch: int) -> list[int]:
    order = permutation(plan.num_rows, plan.seed, Purpose.ORDER, epoch)
    if not plan.shapes:
        return order
    batched: list[int] = []
    waiting: dict[Hashable, list[int]] = {}
    for row in order:
        same_shape = waiting.setdefault(plan.shapes[row], [])
        same_shape.append(row)
        if len(same_shape) == plan.batch_rows:
            batched += same_shape
            same_shape.clear()
    return batched + [row for same_shape in waiting.values() for row in same_shape]


@lru_cache(maxsize=4)
def _class_order(plan: Plan, round_: int) -> list[int]:
    return permutation(plan.num_class_rows, plan.seed, Purpose.CLASS_ORDER, round_)


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


@dataclass(frozen=True)
class MicroBatch:
    """Ready for the network, on the CPU."""

    latents_BCHW: Tensor
    noise_BCHW: Tensor
    times_B: Tensor
    """int64 timesteps (DDPM), or fp32 s in (0, 1] (flow)."""
    text: Text
    """Input of the family's `predict`, batch axis first; token ids ("ids/...") if a text encoder is trained."""
    sizes_B6: Tensor
    """fp32, in pixels: height and width before the resize, top and left of the crop, its height and width."""
    weights_B: Tensor
    """fp32 weight of each sample's mean loss in the batch's sum: that of its time, and also 1/count if a StepBatch's
    count is 1, because images and class images are averaged separately."""
    mask_B1HW: Tensor | None = None
    """Weights of the loss in latent resolution (masked_loss)."""


class Dropout(NamedTuple):
    """Of captions."""

    rate: float
    text: str
    """Replaces a dropped caption: the trigger word, or nothing."""


@dataclass(frozen=True)
class DrawSettings:
    """The settings of all draws of a sample."""

    seed: int
    times: Times
    scaling_factor: float
    """Of the VAE: latents are (sample - shift) x scale."""
    shift_factor: float
    augment: Augment
    dropout: Dropout
    noise_offset: float
    unmasked_weight: float
    """Of the loss under the black parts of a mask."""
    prior_weight: float
    """Of the class images' mean loss."""


@dataclass(frozen=True)
class _Sample:
    latent_CHW: Tensor
    noise_CHW: Tensor
    time: int | float
    text: Text
    sizes: tuple[int, ...]
    weight: float
    mask_1HW: Tensor | None


def step_batch(
    examples: Examples,
    rows: Sequence[int],
    draws: DrawSettings,
    plan: Plan,
    step: int,
    rank: int,
    class_rows: Sequence[int] = (),
) -> StepBatch[MicroBatch]:
    """This rank's part of `step` (from 0). `rows` and `class_rows` map the plan's rows to those of `examples`.

    The positions of class images follow those of the others. With class images, the step's loss is mean(images) +
    prior_weight x mean(class images), and its count is 1.
    """
    batch = [rows[index] for index in plan.rows(step)]
    of_class = [class_rows[index] for index in plan.class_rows(step)] if class_rows else []
    samples = batch + sorted(of_class, key=lambda row: examples.latents.views[row].shape)
    kinds = [(examples.rows[row].of_class, examples.latents.views[row].shape) for row in samples]

    def sample(position: int) -> _Sample:
        share = 1.0 if not of_class else 1 / len(batch) if position < len(batch) else draws.prior_weight / len(of_class)
        return _sample(examples, samples[position], draws, step, position, share)

    rank_batches = plan.micro_batches(kinds)[rank :: plan.world_size]
    return StepBatch(
        [_stack([sample(position) for position in positions]) for positions in rank_batches],
        count=1 if of_class else len(batch),
        units=len(samples),
        epoch=plan.epoch(step + 1),
    )


def validation_batches(
    examples: Examples, rows: Sequence[int], draws: DrawSettings, times_per_row: int
) -> list[MicroBatch]:
    """One micro-batch for each row, at `times_per_row` evenly spaced times, with fixed noise."""

    def fixed_sample(row: int, index: int) -> _Sample:
        crop = examples.latents.views[row].crops[0][0]
        moments_2CHW = examples.latents.moments(row, crop)
        shape = tuple(moments_2CHW[0].shape)
        eps_CHW = normal(shape, draws.seed, Purpose.VALIDATION_LATENT, row, index)
        return _Sample(
            latent_CHW=latent_sample(moments_2CHW, eps_CHW, draws),
            noise_CHW=normal(shape, draws.seed, Purpose.VALIDATION_NOISE, row, index),
            time=draws.times.fixed((index + 0.5) / times_per_row, *shape[1:]),
            text=examples.texts[examples.rows[row].texts[0]],
            sizes=examples.latents.views[row].sizes(crop),
            weight=1.0,
            mask_1HW=_loss_weights(examples.latents.mask(row, crop), draws),
        )

    return [_stack([fixed_sample(row, index) for index in range(times_per_row)]) for row in rows]


def latent_sample(moments_2CHW: Tensor, eps_CHW: Tensor, draws: DrawSettings) -> Tensor:
    """A sample of the VAE's posterior, scaled for the network. Log-variance is clamped as in diffusers."""
    mean_CHW, logvar_CHW = moments_2CHW
    sample_CHW: Tensor = mean_CHW + torch.exp(0.5 * logvar_CHW.clamp(-30, 20)) * eps_CHW
    return (sample_CHW - draws.shift_factor) * draws.scaling_factor


def draw_crop(crops: Sequence[Sequence[Crop]], seed: int, step: int, position: int) -> Crop:
    """One of crops[flip][place]."""
    flip = integer(len(crops), seed, Purpose.FLIP, step, position)
    return crops[flip][integer(len(crops[flip]), seed, Purpose.CROP, step, position)]


def draw_text(row: CaptionedImage, dropout: Dropout, seed: int, step: int, position: int) -> str:
    """`dropout.text` if the caption is dropped, else one of the row's texts."""
    is_dropped = uniform(seed, Purpose.CAPTION_DROPOUT, step, position) < dropout.rate
    if is_dropped and not row.of_class:
        return dropout.text
    if len(row.texts) == 1:
        return row.texts[0]
    return row.texts[integer(len(row.texts), seed, Purpose.CAPTION_SHUFFLE, step, position)]


def _sample(examples: Examples, row: int, draws: DrawSettings, step: int, position: int, share: float) -> _Sample:
    """Row `row` at a position of a step; `share` is the weight of its loss in the step's, without that of its time."""
    seed, view = draws.seed, examples.latents.views[row]
    crop = draw_crop(view.crops, seed, step, position)
    change = draw_change(draws.augment, seed, step, position)
    moments_2CHW = examples.latents.moments(row, crop, change)
    shape = tuple(moments_2CHW[0].shape)
    noise_CHW = normal(shape, seed, Purpose.NOISE, step, position)
    if draws.noise_offset:
        shift_C = normal(shape[:1], seed, Purpose.NOISE_OFFSET, step, position)
        noise_CHW = offset_noise(noise_CHW[None], shift_C[None], draws.noise_offset)[0]
    time, weight = draws.times.draw(seed, step, position, *shape[1:])
    of_class = examples.rows[row].of_class
    return _Sample(
        latent_CHW=latent_sample(moments_2CHW, normal(shape, seed, Purpose.LATENT, step, position), draws),
        noise_CHW=noise_CHW,
        time=time,
        text=examples.texts[draw_text(examples.rows[row], draws.dropout, seed, step, position)],
        sizes=view.sizes(crop),
        weight=share * weight,
        mask_1HW=None if of_class else _loss_weights(examples.latents.mask(row, crop, change), draws),
    )


def _loss_weights(mask_1HW: Tensor | None, draws: DrawSettings) -> Tensor | None:
    if mask_1HW is None:
        return None
    return draws.unmasked_weight + (1 - draws.unmasked_weight) * mask_1HW


def _stack(samples: Sequence[_Sample]) -> MicroBatch:
    masks = [sample.mask_1HW for sample in samples if sample.mask_1HW is not None]
    return MicroBatch(
        torch.stack([sample.latent_CHW for sample in samples]),
        torch.stack([sample.noise_CHW for sample in samples]),
        torch.tensor([sample.time for sample in samples]),
        text_stack([sample.text for sample in samples]),
        torch.tensor([sample.sizes for sample in samples], dtype=torch.float32),
        torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
        torch.stack(masks) if masks else None,
    )
