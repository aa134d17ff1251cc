"""From noise and prompts to clean latents, for every family: the denoising loop, guidance and prompt embeddings."""

# B batch, L tokens, D width, C channels, H height, W width (of latents)

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.contract.params.sample_image import strength_steps
from trainers.core.losses import alphas_cumprod
from trainers.image.models.base import Base, TextSettings, scheduler_of
from trainers.image.models.families import image_family
from trainers.image.models.text_encoders import Text, text_stack

CHUNK = 77
"""States of one chunk of a prompt, its start and end tokens included."""
DISTILLED = ("flux",)
"""Families that take the guidance scale as an input of the network and need no second, negative prompt."""


@dataclass(frozen=True)
class Prompts:
    """Embeddings of every image's text, batch axis first."""

    positive: Text
    negative: Text | None
    """None: classifier-free guidance is off."""


@dataclass(frozen=True)
class InitLatents:
    """An image in latents that the noise is added to."""

    latents_BCHW: Tensor
    strength: float
    mask_11HW: Tensor | None = None
    """1 = repaint, 0 = keep; None: all is repainted."""


Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy_BCHW, time) -> the network's prediction, fp32, in the same shape."""
Watch = Callable[[int, int, Callable[[], Tensor]], bool]
"""(steps done, total steps, estimate of the clean latents so far) -> whether to continue."""


@torch.no_grad()
def denoise(
    base: Base,
    denoiser: Denoiser,
    *,
    noise_BCHW: Tensor,
    generators: Sequence[torch.Generator],
    num_inference_steps: int,
    scheduler: str,
    init: InitLatents | None,
    watch: Watch,
) -> Tensor | None:
    """Clean latents_BCHW in fp32, scaled as the network expects them; None if `watch` stopped the loop.

    The same steps as diffusers' pipelines of the family and task. `generators` give each image's further noise.
    """
    sampler = scheduler_of(base.scheduler_config, scheduler)
    _set_timesteps(base, sampler, num_inference_steps, noise_BCHW)
    times = _remaining_times(base, sampler, num_inference_steps, init)
    latents_BCHW = _first_latents(base, sampler, times, noise_BCHW, init)
    extra = {"generator": list(generators)} if _takes_generator(base, sampler) else {}
    for index, time in enumerate(times):
        input_BCHW = latents_BCHW if _is_flow(base) else sampler.scale_model_input(latents_BCHW, time)
        predicted_BCHW = denoiser(input_BCHW, _network_time(base, sampler, time))
        latents_BCHW = sampler.step(predicted_BCHW, time, latents_BCHW, **extra, return_dict=False)[0]
        if init is not None and init.mask_11HW is not None:
            latents_BCHW = _outside_restored(base, sampler, times[index + 1 :], latents_BCHW, noise_BCHW, init)
        estimate = _CleanEstimate(base, sampler, input_BCHW, predicted_BCHW, time)
        if not watch(index + 1, len(times), estimate):
            return None
    return latents_BCHW


@dataclass(frozen=True)
class _CleanEstimate:
    """Called: the clean latents that one step's prediction implies."""

    base: Base
    sampler: Any
    input_BCHW: Tensor
    predicted_BCHW: Tensor
    time: Tensor

    def __call__(self) -> Tensor:
        if _is_flow(self.base):
            return self.input_BCHW - _network_time(self.base, self.sampler, self.time) * self.predicted_BCHW
        abar = alphas_cumprod(self.base.scheduler_config)[int(self.time.round())]
        a, s = abar.sqrt(), (1 - abar).sqrt()  # the network's input is a x0 + s e for every sampler
        if self.sampler.config.prediction_type == "v_prediction":
            return a * self.input_BCHW - s * self.predicted_BCHW
        return (self.input_BCHW - s * self.predicted_BCHW) / a


def _set_timesteps(base: Base, sampler: Any, num_inference_steps: int, noise_BCHW: Tensor) -> None:
    device = noise_BCHW.device
    if not _is_flow(base):
        sampler.set_timesteps(num_inference_steps, device=device)
        return
    arguments: dict[str, Any] = {}
    if sampler.config.use_dynamic_shifting:
        arguments["mu"] = _dynamic_mu(sampler.config, noise_BCHW.shape[2] // 2 * (noise_BCHW.shape[3] // 2))
    if base.family == "flux":
        arguments["sigmas"] = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    sampler.set_timesteps(num_inference_steps, device=device, **arguments)


def _dynamic_mu(config: Any, tokens: int) -> float:
    """mu for an image of `tokens` tokens (2 x 2 latents), on the line through the config's two points."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return float(tokens * slope + (config.base_shift - slope * config.base_image_seq_len))


def _remaining_times(base: Base, sampler: Any, num_inference_steps: int, init: InitLatents | None) -> Tensor:
    """Timesteps from the one that the init image is noised to; without an init image, all."""
    if init is None:
        times: Tensor = sampler.timesteps
        return times
    steps = strength_steps(num_inference_steps, init.strength, is_flow=_is_flow(base))
    skipped = (num_inference_steps - steps) * sampler.order
    if hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(skipped)
    remaining: Tensor = sampler.timesteps[skipped:]
    return remaining


def _first_latents(base: Base, sampler: Any, times: Tensor, noise_BCHW: Tensor, init: InitLatents | None) -> Tensor:
    if init is None or (init.mask_11HW is not None and init.strength == 1):
        return noise_BCHW if _is_flow(base) else noise_BCHW * sampler.init_noise_sigma
    return _add_noise(base, sampler, init.latents_BCHW, noise_BCHW, times[:1].expand(noise_BCHW.shape[0]))


def _outside_restored(
    base: Base, sampler: Any, times_left: Tensor, latents_BCHW: Tensor, noise_BCHW: Tensor, init: InitLatents
) -> Tensor:
    """Outside the mask the init image, as noisy as the latents are at this step."""
    outside_BCHW = init.latents_BCHW
    if len(times_left):
        outside_BCHW = _add_noise(base, sampler, outside_BCHW, noise_BCHW, times_left[:1])
    assert init.mask_11HW is not None
    return (1 - init.mask_11HW) * outside_BCHW + init.mask_11HW * latents_BCHW


def _add_noise(base: Base, sampler: Any, latents_BCHW: Tensor, noise_BCHW: Tensor, times: Tensor) -> Tensor:
    noised_BCHW: Tensor
    if _is_flow(base):
        noised_BCHW = sampler.scale_noise(latents_BCHW, times, noise_BCHW)
    else:
        noised_BCHW = sampler.add_noise(latents_BCHW, noise_BCHW, times)
    return noised_BCHW


def _is_flow(base: Base) -> bool:
    return image_family(base.family).is_flow


def _takes_generator(base: Base, sampler: Any) -> bool:
    return not _is_flow(base) and "generator" in inspect.signature(sampler.step).parameters


def _network_time(base: Base, sampler: Any, time: Tensor) -> Tensor:
    """The time argument of the family's `predict`: the timestep, or s in (0, 1]."""
    return time / sampler.config.num_train_timesteps if _is_flow(base) else time


def guided_denoiser(base: Base, prompts: Prompts, *, guidance_scale: float, guidance_rescale: float) -> Denoiser:
    """The network's prediction with guidance, of fp32 latents at one timestep (DDPM) or s (flow).

    With a negative prompt both halves go through the network as one batch: negative + scale (positive - negative)
    (Ho and Salimans 2022), rescaled as in Lin et al. 2024, section 3.4.
    """
    family, device, dtype = image_family(base.family), base.network.device, base.network.dtype
    positive = _text_to(prompts.positive, device, dtype)
    text = positive
    if prompts.negative is not None:
        negative = _text_to(prompts.negative, device, dtype)
        text = {key: torch.cat([negative[key], positive[key]]) for key in positive}
    copies = 1 if prompts.negative is None else 2

    def denoiser(noisy_BCHW: Tensor, time: Tensor) -> Tensor:
        input_BCHW = torch.cat([noisy_BCHW] * copies).to(device, dtype)
        times_B = time.to(device).expand(input_BCHW.shape[0])
        sizes_B6 = _sizes(base, noisy_BCHW).expand(input_BCHW.shape[0], 6)
        predicted_BCHW = family.predict(base, input_BCHW, times_B, text, sizes_B6, guidance_scale).float()
        if copies == 1:
            return predicted_BCHW
        return guided(*predicted_BCHW.chunk(2), scale=guidance_scale, rescale=guidance_rescale)

    return denoiser


def guided(negative_BCHW: Tensor, positive_BCHW: Tensor, *, scale: float, rescale: float) -> Tensor:
    guided_BCHW = negative_BCHW + scale * (positive_BCHW - negative_BCHW)
    if not rescale:
        return guided_BCHW
    factor_B111 = _std(positive_BCHW) / _std(guided_BCHW)
    return rescale * (guided_BCHW * factor_B111) + (1 - rescale) * guided_BCHW


def _std(predicted_BCHW: Tensor) -> Tensor:
    return predicted_BCHW.std(dim=(1, 2, 3), keepdim=True)


def _sizes(base: Base, latents_BCHW: Tensor) -> Tensor:
    """SDXL's condition for an uncropped image: original size, crop at (0, 0), target size, in pixels."""
    factor = vae_factor(base)
    height, width = latents_BCHW.shape[2] * factor, latents_BCHW.shape[3] * factor
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=base.network.device)


def vae_factor(base: Base) -> int:
    """Pixels per latent along one side: 8 for all families."""
    return int(2 ** (len(base.vae.config.block_out_channels) - 1))


def is_guided(base: Base, guidance_scale: float) -> bool:
    """Whether each step runs the network twice, with the prompt and with the negative prompt."""
    return guidance_scale > 1 and base.family not in DISTILLED


@torch.no_grad()
def prompts_encode(
    base: Base, prompts: Sequence[str], negative_prompt: str, settings: TextSettings, *, guided: bool
) -> Prompts:
    """Each distinct text is encoded once and alone, so that neighbours cannot change its bits."""
    texts = list(dict.fromkeys([*prompts, *([negative_prompt] if guided else [])]))
    embeddings = dict(zip(texts, _equal_length_embeddings(base, texts, settings), strict=True))
    positive = text_stack([embeddings[prompt] for prompt in prompts])
    if not guided:
        return Prompts(positive, None)
    negative = embeddings[negative_prompt]
    if not negative_prompt and base.pipeline_config.get("force_zeros_for_empty_prompt"):
        negative = {key: torch.zeros_like(value) for key, value in negative.items()}
    return Prompts(positive, text_stack([negative] * len(prompts)))


def _equal_length_embeddings(base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
    """Shorter texts are padded with empty chunks up to the longest, because the network takes all in one batch."""
    family = image_family(base.family)
    embeddings = family.encode_text(base, texts, settings)
    lengths = {text["prompt"].shape[0] for text in embeddings}
    if len(lengths) == 1:
        return embeddings
    padded = TextSettings(settings.clip_skip, settings.max_sequence_length, min_chunks=max(lengths) // CHUNK)
    return family.encode_text(base, texts, padded)


def _text_to(text: Text, device: torch.device, dtype: torch.dtype) -> Text:
    return {key: value.to(device, dtype if value.is_floating_point() else None) for key, value in text.items()}
