"""From noise to latents, for every family: the loop, the start from an image, the mask."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.contract.params.sample_image import strength_steps
from trainers.core.losses import alphas_cumprod
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import family_module
from trainers.image.models.schedulers import scheduler_of
from trainers.image.models.text_encoders import Text, text_stack

CHUNK = 77
"""States of one chunk of a prompt, its start and end included."""
DISTILLED = ("flux",)
"""Families that are told the guidance and answer with it, without a second, negative prompt."""


@dataclass(frozen=True)
class Prompts:
    """Embeddings of every image's text, batch axis first."""

    positive: Text
    negative: Text | None
    """None: classifier-free guidance is off."""


def is_guided(base: Base, guidance_scale: float) -> bool:
    """Whether the network is asked twice a step, with the prompt and with the negative prompt."""
    return guidance_scale > 1 and base.family not in DISTILLED


@torch.no_grad()
def prompts_encode(
    base: Base, prompts: Sequence[str], negative_prompt: str, settings: TextSettings, *, guided: bool
) -> Prompts:
    """Each text is encoded once and alone, so that neighbours cannot change its bits."""
    texts = list(dict.fromkeys([*prompts, *([negative_prompt] if guided else [])]))
    found = dict(zip(texts, _equally_long(base, texts, settings), strict=True))
    positive = text_stack([found[prompt] for prompt in prompts])
    if not guided:
        return Prompts(positive, None)
    negative = found[negative_prompt]
    if not negative_prompt and base.pipeline_config.get("force_zeros_for_empty_prompt"):
        negative = {key: torch.zeros_like(value) for key, value in negative.items()}
    return Prompts(positive, text_stack([negative] * len(prompts)))


def _equally_long(base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
    """Shorter ones get empty chunks, as the longest one's: the network takes all in one batch."""
    family = family_module(base.family)
    found = family.encode_text(base, texts, settings)
    lengths = {text["prompt"].shape[0] for text in found}
    if len(lengths) == 1:
        return found
    wanted = TextSettings(settings.clip_skip, settings.max_sequence_length, min_chunks=max(lengths) // CHUNK)
    return family.encode_text(base, texts, wanted)


def text_to(text: Text, device: torch.device, dtype: torch.dtype) -> Text:
    def moved(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else None)

    return {key: moved(value) for key, value in text.items()}


Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy_BCHW, time) -> what the network says of it, fp32, in its shape."""


def guided_denoiser(base: Base, prompts: Prompts, *, guidance_scale: float, guidance_rescale: float) -> Denoiser:
    """What the network says with guidance, of latents in fp32 at one timestep (DDPM) or s (flow).

    With a negative prompt both halves go through the network as one batch: negative + scale (positive - negative)
    (Ho and Salimans 2022), rescaled as in Lin et al. 2024, section 3.4.
    """
    family, device, dtype = family_module(base.family), base.network.device, base.network.dtype
    positive = text_to(prompts.positive, device, dtype)
    text = positive
    if prompts.negative is not None:
        negative = text_to(prompts.negative, device, dtype)
        text = {key: torch.cat([negative[key], positive[key]]) for key in positive}
    copies = 1 if prompts.negative is None else 2

    def says(noisy_BCHW: Tensor, time: Tensor) -> Tensor:
        seen_BCHW = torch.cat([noisy_BCHW] * copies).to(device, dtype)
        times_B = time.to(device).expand(seen_BCHW.shape[0])
        sizes_B6 = _sizes(base, noisy_BCHW).expand(seen_BCHW.shape[0], 6)
        said_BCHW = family.predict(base, seen_BCHW, times_B, text, sizes_B6, guidance_scale).float()
        if copies == 1:
            return said_BCHW
        return guided(*said_BCHW.chunk(2), scale=guidance_scale, rescale=guidance_rescale)

    return says


def guided(negative_BCHW: Tensor, positive_BCHW: Tensor, *, scale: float, rescale: float) -> Tensor:
    found_BCHW = negative_BCHW + scale * (positive_BCHW - negative_BCHW)
    if not rescale:
        return found_BCHW
    factor_B111 = _std(positive_BCHW) / _std(found_BCHW)
    return rescale * (found_BCHW * factor_B111) + (1 - rescale) * found_BCHW


def _std(said_BCHW: Tensor) -> Tensor:
    return said_BCHW.std(dim=(1, 2, 3), keepdim=True)


def _sizes(base: Base, latents_BCHW: Tensor) -> Tensor:
    """The whole image, uncropped, as SDXL wants to be told: its pixels twice."""
    factor = vae_factor(base)
    height, width = latents_BCHW.shape[2] * factor, latents_BCHW.shape[3] * factor
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=base.network.device)


def vae_factor(base: Base) -> int:
    """Pixels per latent along one side: 8 for all families."""
    return int(2 ** (len(base.vae.config.block_out_channels) - 1))


@dataclass(frozen=True)
class LatentStart:
    """An image in latents that the noise is laid on."""

    latents_BCHW: Tensor
    strength: float
    mask_11HW: Tensor | None = None
    """1 = repaint, 0 = keep; None: all is repainted."""


Watch = Callable[[int, int, Callable[[], Tensor]], bool]
"""(steps done, steps in all, what the clean latents look like by now) -> whether to go on."""


@torch.no_grad()
def denoise(
    base: Base,
    says: Denoiser,
    *,
    noise_BCHW: Tensor,
    generators: Sequence[torch.Generator],
    num_inference_steps: int,
    scheduler: str,
    start: LatentStart | None,
    watch: Watch,
) -> Tensor | None:
    """Clean latents_BCHW in fp32, scaled as the network knows them; None where `watch` broke it off.

    The same steps as diffusers' pipelines of the family and task. `generators` give an image's further noise.
    """
    sampler = scheduler_of(base.scheduler_config, scheduler)
    _set_timesteps(base, sampler, num_inference_steps, noise_BCHW)
    times = _times_left(base, sampler, num_inference_steps, start)
    latents_BCHW = _first(base, sampler, times, noise_BCHW, start)
    extra = {"generator": list(generators)} if _takes_generator(base, sampler) else {}
    for index, time in enumerate(times):
        seen_BCHW = latents_BCHW if _is_flow(base) else sampler.scale_model_input(latents_BCHW, time)
        said_BCHW = says(seen_BCHW, _time_of(base, sampler, time))
        latents_BCHW = sampler.step(said_BCHW, time, latents_BCHW, **extra, return_dict=False)[0]
        if start is not None and start.mask_11HW is not None:
            latents_BCHW = _kept(base, sampler, times[index + 1 :], latents_BCHW, noise_BCHW, start)
        clean = _CleanView(base, sampler, seen_BCHW, said_BCHW, time)
        if not watch(index + 1, len(times), clean):
            return None
    return latents_BCHW


@dataclass(frozen=True)
class _CleanView:
    """Called: the clean latents that one step's answer amounts to."""

    base: Base
    sampler: Any
    seen_BCHW: Tensor
    said_BCHW: Tensor
    time: Tensor

    def __call__(self) -> Tensor:
        if _is_flow(self.base):
            return self.seen_BCHW - _time_of(self.base, self.sampler, self.time) * self.said_BCHW
        abar = alphas_cumprod(self.base.scheduler_config)[int(self.time.round())]
        a, s = abar.sqrt(), (1 - abar).sqrt()  # what the network sees is a x0 + s e for every sampler
        if self.sampler.config.prediction_type == "v_prediction":
            return a * self.seen_BCHW - s * self.said_BCHW
        return (self.seen_BCHW - s * self.said_BCHW) / a


def _set_timesteps(base: Base, sampler: Any, num_inference_steps: int, noise_BCHW: Tensor) -> None:
    device = noise_BCHW.device
    if not _is_flow(base):
        sampler.set_timesteps(num_inference_steps, device=device)
        return
    given: dict[str, Any] = {}
    if sampler.config.use_dynamic_shifting:
        given["mu"] = _shift_of(sampler.config, noise_BCHW.shape[2] // 2 * (noise_BCHW.shape[3] // 2))
    if base.family == "flux":
        given["sigmas"] = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    sampler.set_timesteps(num_inference_steps, device=device, **given)


def _shift_of(config: Any, tokens: int) -> float:
    """mu for an image of so many tokens (2 x 2 latents), on the line through the config's two points."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return float(tokens * slope + (config.base_shift - slope * config.base_image_seq_len))


def _times_left(base: Base, sampler: Any, num_inference_steps: int, start: LatentStart | None) -> Tensor:
    """Timesteps from where a start image is noised to; all of them without one."""
    if start is None:
        times: Tensor = sampler.timesteps
        return times
    steps = strength_steps(num_inference_steps, start.strength, is_flow=_is_flow(base))
    skipped = (num_inference_steps - steps) * sampler.order
    if hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(skipped)
    left: Tensor = sampler.timesteps[skipped:]
    return left


def _first(base: Base, sampler: Any, times: Tensor, noise_BCHW: Tensor, start: LatentStart | None) -> Tensor:
    masked_whole = start is not None and start.mask_11HW is not None and start.strength == 1
    if start is None or masked_whole:
        return noise_BCHW if _is_flow(base) else noise_BCHW * sampler.init_noise_sigma
    return _noised(base, sampler, start.latents_BCHW, noise_BCHW, times[:1].expand(noise_BCHW.shape[0]))


def _kept(
    base: Base, sampler: Any, times_left: Tensor, latents_BCHW: Tensor, noise_BCHW: Tensor, start: LatentStart
) -> Tensor:
    """Outside the mask the start image, as noisy as the latents are by now."""
    outside_BCHW = start.latents_BCHW
    if len(times_left):
        outside_BCHW = _noised(base, sampler, outside_BCHW, noise_BCHW, times_left[:1])
    assert start.mask_11HW is not None
    return (1 - start.mask_11HW) * outside_BCHW + start.mask_11HW * latents_BCHW


def _noised(base: Base, sampler: Any, latents_BCHW: Tensor, noise_BCHW: Tensor, times: Tensor) -> Tensor:
    if _is_flow(base):
        flowed_BCHW: Tensor = sampler.scale_noise(latents_BCHW, times, noise_BCHW)
        return flowed_BCHW
    noised_BCHW: Tensor = sampler.add_noise(latents_BCHW, noise_BCHW, times)
    return noised_BCHW


def _is_flow(base: Base) -> bool:
    return family_module(base.family).IS_FLOW


def _takes_generator(base: Base, sampler: Any) -> bool:
    return not _is_flow(base) and "generator" in inspect.signature(sampler.step).parameters


def _time_of(base: Base, sampler: Any, time: Tensor) -> Tensor:
    """What the family's `predict` is told: the timestep, or s in (0, 1]."""
    return time / sampler.config.num_train_timesteps if _is_flow(base) else time
