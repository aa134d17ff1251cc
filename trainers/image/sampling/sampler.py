"""Images from text, from an image, or inside a mask, with the live weights of a base model."""

# B batch, C channels, H height, W width

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import family_module
from trainers.image.sampling.denoise import (
    LatentStart,
    Prompts,
    denoise,
    guided_denoiser,
    is_guided,
    prompts_encode,
    vae_factor,
)

FLUX_SIDE = 128
"""Latents along one side of Flux' own images; its config does not say."""


@dataclass(frozen=True)
class Start:
    """An image to start from, of the size that is drawn."""

    image: Image.Image
    """8-bit RGB."""
    strength: float
    """How far it is dissolved in noise first, in (0, 1]."""
    mask: Image.Image | None = None
    """8-bit grey: 128 and above is painted anew, the rest stays as it is to the pixel."""


@dataclass(frozen=True)
class Previews:
    every: int
    """Denoising steps between two previews; none is made of the last step."""
    show: Callable[[int, list[Image.Image]], None]
    """Called with the steps done and what each image looks like by then."""


def sample_images(
    base: Base,
    *,
    prompts: list[str],
    negative_prompt: str,
    seeds: list[int],
    num_inference_steps: int,
    guidance_scale: float,
    width: int | None,
    height: int | None,
    scheduler: str = "default",
    guidance_rescale: float = 0.0,
    settings: TextSettings = TextSettings(),  # noqa: B008 - frozen
    start: Start | None = None,
    encoded: Prompts | None = None,
    previews: Previews | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Image.Image]:
    """Image i shows `prompts[i]` from `seeds[i]`, all denoised as one batch; width and height in pixels.

    An image depends on its own seed, not on its neighbours (up to the kernels' rounding). `encoded`: what
    `prompts_encode` made of the same texts before, for a base whose text encoders are gone. `on_progress(done, total)`
    is called after each denoising step; where `should_stop()` then says yes, the answer is the empty list. Weights,
    train mode and the global random state are left as they were. Raises TrainerError(NON_FINITE_LOSS).
    """
    assert prompts and len(prompts) == len(seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def watch(done: int, total: int, clean: Callable[[], Tensor]) -> bool:
        if on_progress:
            on_progress(done, total)
        if should_stop and should_stop():
            return False
        if previews and done % previews.every == 0 and done < total:
            previews.show(done, _images(base, clean(), seeds, start))
        return True

    with _evaluating(base), torch.no_grad():
        guided = is_guided(base, guidance_scale)
        text = encoded or prompts_encode(base, prompts, negative_prompt, settings, guided=guided)
        latent_start = _latent_start(base, start, generators) if start else None  # draws before the noise does
        latents_BCHW = denoise(
            base,
            guided_denoiser(base, text, guidance_scale=guidance_scale, guidance_rescale=guidance_rescale),
            noise_BCHW=_noise(base, generators, width, height),
            generators=generators,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
            start=latent_start,
            watch=watch,
        )
        return [] if latents_BCHW is None else _images(base, latents_BCHW, seeds, start)


def default_size(base: Base) -> int:
    """Side in pixels of the square images that the base was trained on."""
    return int(getattr(base.network.config, "sample_size", None) or FLUX_SIDE) * vae_factor(base)


def _noise(base: Base, generators: list[torch.Generator], width: int | None, height: int | None) -> Tensor:
    """Standard normal (B, C, H/8, W/8), drawn per image on the CPU, so that device and dtype do not matter."""
    factor = vae_factor(base)
    shape = (
        int(base.vae.config.latent_channels),
        (height or default_size(base)) // factor,
        (width or default_size(base)) // factor,
    )
    return _drawn(generators, shape).to(base.network.device)


def _drawn(generators: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _latent_start(base: Base, start: Start, generators: list[torch.Generator]) -> LatentStart:
    """The image in latents, each drawing with a sample of its own from the VAE's posterior."""
    pixels_BHWC = torch.from_numpy(np.array(start.image, dtype=np.float32)[None] / 255)
    mean_BCHW, logvar_BCHW = family_module(base.family).encode_image(base, pixels_BHWC.permute(0, 3, 1, 2) * 2 - 1)
    noise_BCHW = _drawn(generators, tuple(mean_BCHW.shape[1:])).to(mean_BCHW.device)
    latents_BCHW = mean_BCHW + (0.5 * logvar_BCHW).exp() * noise_BCHW
    scaled_BCHW = (latents_BCHW - _shift(base)) * base.vae.config.scaling_factor
    mask_11HW = None
    if start.mask:
        whole_HW = torch.from_numpy(_repainted(start.mask)).float()
        mask_11HW = functional.interpolate(whole_HW[None, None], size=tuple(scaled_BCHW.shape[2:]))
        mask_11HW = mask_11HW.to(base.network.device)
    return LatentStart(scaled_BCHW.to(base.network.device), start.strength, mask_11HW)


def _repainted(mask: Image.Image) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    """Where the mask says to paint, (H, W)."""
    found: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = np.asarray(mask.convert("L")) >= 128
    return found


def _shift(base: Base) -> float:
    return float(getattr(base.vae.config, "shift_factor", None) or 0.0)


def _images(base: Base, latents_BCHW: Tensor, seeds: list[int], start: Start | None) -> list[Image.Image]:
    images = [_decode(base, latents_BCHW[i : i + 1], seed) for i, seed in enumerate(seeds)]
    if start is None or start.mask is None:
        return images
    mask = Image.fromarray(_repainted(start.mask).astype(np.uint8) * 255)
    return [Image.composite(image, start.image, mask) for image in images]


def _decode(base: Base, latents_BCHW: Tensor, seed: int) -> Image.Image:
    """One image at a time: memory stays that of one, and neighbours cannot change its bits."""
    unscaled_BCHW = latents_BCHW / base.vae.config.scaling_factor + _shift(base)
    pixels_BCHW = base.vae.decode(unscaled_BCHW.to(base.vae.device, base.vae.dtype), return_dict=False)[0]
    if not torch.isfinite(pixels_BCHW).all():
        raise TrainerError(
            ReasonCode.NON_FINITE_LOSS,
            f"the image of seed {seed} has values that are NaN or infinite",
        )
    bright_HWC = (pixels_BCHW[0].float() * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0) * 255
    return Image.fromarray(bright_HWC.round().to(torch.uint8).cpu().numpy())


@contextmanager
def _evaluating(base: Base) -> Iterator[None]:
    """Dropout off in the network and in the text encoders; their modes are put back."""
    with ExitStack() as modes:
        for module in (base.network, *base.text_encoders):
            modes.enter_context(_evaluating_one(module))
        yield


@contextmanager
def _evaluating_one(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
