"""Micro-batches of `image_lora`: every draw is a function of (seed, step, position in the global batch)."""

# B batch, C channels, H height, W width (of latents), L tokens, D text width, T training timesteps

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.data.examples import Examples
from trainers.data.plan import Plan
from trainers.loop import StepBatch
from trainers.losses import offset_noise
from trainers.noise import Purpose, integer, normal, uniform


@dataclass(frozen=True)
class MicroBatch:
    """Ready for the network, on the CPU."""

    latents_BCHW: Tensor
    noise_BCHW: Tensor
    times_B: Tensor
    """int64 timesteps (DDPM), or fp32 s in (0, 1] (flow)."""
    text: dict[str, Tensor]
    """What the family's `predict` wants, batch axis first; token ids ("ids/...") where a text encoder is trained."""
    sizes_B6: Tensor
    """fp32, in pixels: height and width as seen before the resize, top and left of the crop, its height and width."""
    weights_B: Tensor
    """fp32 weight of each sample's mean loss in the batch's sum: that of its time, and 1/count where a StepBatch's
    count is 1, since pictures and class pictures are counted apart."""
    mask_B1HW: Tensor | None = None
    """Weights of the loss in latent resolution (masked_loss)."""


@dataclass(frozen=True)
class Draws:
    """What decides how a row is seen at a step."""

    seed: int
    num_timesteps: int
    scaling_factor: float
    """Of the VAE: latents are (sample - shift) x scale."""
    shift_factor: float
    flips: int
    places: int
    caption_dropout_rate: float
    dropped_text: str
    """What stands for a dropped caption: the trigger word, or nothing."""
    noise_offset: float


def step_batch(
    examples: Examples, rows: Sequence[int], draws: Draws, plan: Plan, step: int, rank: int
) -> StepBatch[MicroBatch]:
    """This rank's part of `step` (from 0). `rows` maps the plan's rows to those of `examples`."""
    batch = [rows[index] for index in plan.rows(step)]
    micro_batches = [
        _stack([_sample(examples, batch[position], draws, step, position) for position in positions])
        for positions in plan.shares(len(batch), rank)
    ]
    return StepBatch(micro_batches, count=len(batch), units=len(batch), epoch=plan.epoch(step + 1))


def validation_batches(
    examples: Examples, rows: Sequence[int], draws: Draws, timesteps_per_row: int
) -> list[MicroBatch]:
    """One micro-batch a row: it is seen at `timesteps_per_row` fixed timesteps, evenly spread, with fixed noise."""
    spread = [int((k + 0.5) / timesteps_per_row * draws.num_timesteps) for k in range(timesteps_per_row)]

    def seen(row: int, index: int, timestep: int) -> MicroBatch:
        moments_2CHW = examples.moments_of(row, 0, 0)
        shape = tuple(moments_2CHW[0].shape)
        eps_CHW = normal(shape, draws.seed, Purpose.VALIDATION_LATENT, row, index)
        noise_CHW = normal(shape, draws.seed, Purpose.VALIDATION_NOISE, row, index)
        text = examples.captions[row]
        return _one(latent(moments_2CHW, eps_CHW, draws), noise_CHW, timestep, examples.embeddings[text])

    return [_stack([seen(row, index, timestep) for index, timestep in enumerate(spread)]) for row in rows]


def latent(moments_2CHW: Tensor, eps_CHW: Tensor, draws: Draws) -> Tensor:
    """A sample of the VAE's posterior, scaled as the network wants it. Log-variance is clamped as in diffusers."""
    mean_CHW, logvar_CHW = moments_2CHW
    sample_CHW: Tensor = mean_CHW + torch.exp(0.5 * logvar_CHW.clamp(-30, 20)) * eps_CHW
    return (sample_CHW - draws.shift_factor) * draws.scaling_factor


def _sample(examples: Examples, row: int, draws: Draws, step: int, position: int) -> MicroBatch:
    seed = draws.seed
    flip = integer(draws.flips, seed, Purpose.FLIP, step, position)
    place = integer(draws.places, seed, Purpose.CROP, step, position)
    moments_2CHW = examples.moments_of(row, flip, place)
    shape = tuple(moments_2CHW[0].shape)
    noise_CHW = normal(shape, seed, Purpose.NOISE, step, position)
    if draws.noise_offset:
        shift_C = normal(shape[:1], seed, Purpose.NOISE_OFFSET, step, position)
        noise_CHW = offset_noise(noise_CHW[None], shift_C[None], draws.noise_offset)[0]
    dropped = uniform(seed, Purpose.CAPTION_DROPOUT, step, position) < draws.caption_dropout_rate
    text = draws.dropped_text if dropped else examples.captions[row]
    return _one(
        latent(moments_2CHW, normal(shape, seed, Purpose.LATENT, step, position), draws),
        noise_CHW,
        integer(draws.num_timesteps, seed, Purpose.TIMESTEP, step, position),
        examples.embeddings[text],
    )


def _one(latent_CHW: Tensor, noise_CHW: Tensor, timestep: int, embedding_LD: Tensor) -> MicroBatch:
    height, width = latent_CHW.shape[1] * 8, latent_CHW.shape[2] * 8
    sizes_16 = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
    text = {"prompt": embedding_LD[None]}
    return MicroBatch(latent_CHW[None], noise_CHW[None], torch.tensor([timestep]), text, sizes_16, torch.ones(1))


def _stack(samples: Sequence[MicroBatch]) -> MicroBatch:
    return MicroBatch(
        torch.cat([sample.latents_BCHW for sample in samples]),
        torch.cat([sample.noise_BCHW for sample in samples]),
        torch.cat([sample.times_B for sample in samples]),
        {name: torch.cat([sample.text[name] for sample in samples]) for name in samples[0].text},
        torch.cat([sample.sizes_B6 for sample in samples]),
        torch.cat([sample.weights_B for sample in samples]),
    )
