"""Text to image with the live weights of a base model."""

# B batch, C channels, H height, W width

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from trainers.errors import ReasonCode, TrainerError
from trainers.models.base import Base
from trainers.models.schedulers import scheduler_of


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
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Image.Image]:
    """Picture i shows `prompts[i]` from `seeds[i]`, all denoised as one batch; width and height in pixels.

    A picture depends on its own seed, not on its neighbours (up to the kernels' rounding). `on_progress(done, total)`
    is called after each denoising step; where `should_stop()` then says yes, the answer is the empty list. Weights,
    train mode and the global random state are left as they were. Raises TrainerError(NON_FINITE_LOSS).
    """
    assert prompts and len(prompts) == len(seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    pipeline: Any = base.pipeline()
    pipeline.scheduler = scheduler_of(base.scheduler_config, scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def after_step(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_progress:
            on_progress(step + 1, num_inference_steps)
        pipe._interrupt = pipe._interrupt or bool(should_stop and should_stop())
        return tensors

    with _evaluating(base.network), torch.no_grad():
        latents_BCHW = pipeline(
            prompt=prompts,
            negative_prompt=[negative_prompt] * len(prompts),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            latents=_noise(base, generators, width, height),
            generator=generators,
            callback_on_step_end=after_step,
            output_type="latent",
        ).images
        if pipeline._interrupt:
            return []
        return [_decode(base, pipeline, latents_BCHW[i : i + 1], seeds[i]) for i in range(len(seeds))]


def default_size(base: Base) -> int:
    """Side in pixels of the square pictures that the base was trained on."""
    return int(base.network.config.sample_size) * vae_factor(base)


def vae_factor(base: Base) -> int:
    """Pixels per latent along one side: 8 for Stable Diffusion 1.x."""
    return int(2 ** (len(base.vae.config.block_out_channels) - 1))


def _noise(base: Base, generators: list[torch.Generator], width: int | None, height: int | None) -> Tensor:
    """Standard normal (B, C, H/8, W/8), drawn per picture on the CPU, so that the device does not matter."""
    factor = vae_factor(base)
    shape = (
        int(base.network.config.in_channels),
        (height or default_size(base)) // factor,
        (width or default_size(base)) // factor,
    )
    noise_BCHW = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return noise_BCHW.to(base.network.device, base.network.dtype)


def _decode(base: Base, pipeline: Any, latent_BCHW: Tensor, seed: int) -> Image.Image:
    """One picture at a time: memory stays that of one, and neighbours cannot change its bits."""
    latent_BCHW = latent_BCHW.to(base.vae.dtype) / base.vae.config.scaling_factor
    pixels_BCHW = base.vae.decode(latent_BCHW, return_dict=False)[0]
    if not torch.isfinite(pixels_BCHW).all():
        raise TrainerError(
            ReasonCode.NON_FINITE_LOSS,
            f"the picture of seed {seed} has values that are NaN or infinite",
        )
    picture: Image.Image = pipeline.image_processor.postprocess(pixels_BCHW, output_type="pil")[0]
    return picture


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
