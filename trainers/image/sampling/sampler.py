"""Images from text, from an image, or inside a mask, with the live weights of a base model."""

# B batch, C channels, H height, W width

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional

from formats.datasets.images import IMAGE_ENDINGS
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.sample_image import MAX_SIDE, SampleImageParams
from trainers.image.data.image_rows import decode_with, to_rgb
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import encode_image
from trainers.image.sampling.denoise import (
    InitLatents,
    Prompts,
    denoise,
    guided_denoiser,
    is_guided,
    prompts_encode,
    vae_factor,
)

FLUX_SIDE = 128
"""Latents along one side of the images that Flux was trained on; its config does not name it."""


@dataclass(frozen=True)
class InitImage:
    """An image to start from, of the size that is drawn."""

    image: Image.Image
    """8-bit RGB."""
    strength: float
    """How far it is noised first, in (0, 1]."""
    mask: Image.Image | None = None
    """8-bit grey: 128 and above is repainted, the rest stays as it is to the pixel."""


@dataclass(frozen=True)
class Previews:
    every_steps: int
    """Denoising steps between two previews; the last step has none."""
    show: Callable[[int, list[Image.Image]], None]
    """Called with the number of steps done and an estimate of each image at that step."""


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
    init: InitImage | None = None,
    encoded: Prompts | None = None,
    previews: Previews | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Image.Image]:
    """Image i shows `prompts[i]` from `seeds[i]`, all denoised as one batch; width and height in pixels.

    An image depends on its own seed, not on its neighbours (up to the kernels' rounding). `encoded`: the result of
    `prompts_encode` for the same texts, for a base whose text encoders are unloaded. `on_progress(done, total)` is
    called after each denoising step; if `should_stop()` is then true, returns an empty list. Weights, train mode and
    the global random state are unchanged. Raises TrainerError(NON_FINITE_LOSS).
    """
    assert prompts and len(prompts) == len(seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def watch(done: int, total: int, estimate: Callable[[], Tensor]) -> bool:
        if on_progress:
            on_progress(done, total)
        if should_stop and should_stop():
            return False
        if previews and done % previews.every_steps == 0 and done < total:
            previews.show(done, _images(base, estimate(), seeds, init))
        return True

    with _eval_mode(base), torch.no_grad():
        guided = is_guided(base, guidance_scale)
        text = encoded or prompts_encode(base, prompts, negative_prompt, settings, guided=guided)
        init_latents = (
            _init_latents(base, init, generators) if init else None
        )  # draws from the generators before the noise
        latents_BCHW = denoise(
            base,
            guided_denoiser(base, text, guidance_scale=guidance_scale, guidance_rescale=guidance_rescale),
            noise_BCHW=_noise(base, generators, width, height),
            generators=generators,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
            init=init_latents,
            watch=watch,
        )
        return [] if latents_BCHW is None else _images(base, latents_BCHW, seeds, init)


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
    return _normal(generators, shape).to(base.network.device)


def _normal(generators: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _init_latents(base: Base, init: InitImage, generators: list[torch.Generator]) -> InitLatents:
    """The init image in latents; each drawn image has its own sample from the VAE's posterior."""
    pixels_BHWC = torch.from_numpy(np.array(init.image, dtype=np.float32)[None] / 255)
    mean_BCHW, logvar_BCHW = encode_image(base, pixels_BHWC.permute(0, 3, 1, 2) * 2 - 1)
    noise_BCHW = _normal(generators, tuple(mean_BCHW.shape[1:])).to(mean_BCHW.device)
    latents_BCHW = mean_BCHW + (0.5 * logvar_BCHW).exp() * noise_BCHW
    scaled_BCHW = (latents_BCHW - _shift(base)) * base.vae.config.scaling_factor
    mask_11HW = None
    if init.mask:
        mask_HW = torch.from_numpy(_repainted(init.mask)).float()
        mask_11HW = functional.interpolate(mask_HW[None, None], size=tuple(scaled_BCHW.shape[2:]))
        mask_11HW = mask_11HW.to(base.network.device)
    return InitLatents(scaled_BCHW.to(base.network.device), init.strength, mask_11HW)


def _repainted(mask: Image.Image) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    """True where the mask repaints, (H, W)."""
    repainted: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = np.asarray(mask.convert("L")) >= 128
    return repainted


def _shift(base: Base) -> float:
    return float(getattr(base.vae.config, "shift_factor", None) or 0.0)


def _images(base: Base, latents_BCHW: Tensor, seeds: list[int], init: InitImage | None) -> list[Image.Image]:
    images = [_decode(base, latents_BCHW[i : i + 1], seed) for i, seed in enumerate(seeds)]
    if init is None or init.mask is None:
        return images
    mask = Image.fromarray(_repainted(init.mask).astype(np.uint8) * 255)
    return [Image.composite(image, init.image, mask) for image in images]


def _decode(base: Base, latents_BCHW: Tensor, seed: int) -> Image.Image:
    """Decodes one image at a time: this bounds memory, and neighbours cannot change its bits."""
    unscaled_BCHW = latents_BCHW / base.vae.config.scaling_factor + _shift(base)
    pixels_BCHW = base.vae.decode(unscaled_BCHW.to(base.vae.device, base.vae.dtype), return_dict=False)[0]
    if not torch.isfinite(pixels_BCHW).all():
        raise TrainerError(
            ReasonCode.NON_FINITE_LOSS,
            f"the image of seed {seed} has values that are NaN or infinite",
        )
    scaled_HWC = (pixels_BCHW[0].float() * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0) * 255
    return Image.fromarray(scaled_HWC.round().to(torch.uint8).cpu().numpy())


@contextmanager
def _eval_mode(base: Base) -> Iterator[None]:
    """Turns off dropout in the network and in the text encoders; restores their modes at the end."""
    with ExitStack() as modes:
        for module in (base.network, *base.text_encoders):
            modes.enter_context(_module_eval_mode(module))
        yield


@contextmanager
def _module_eval_mode(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


MAX_NAMES = 5
"""Files of the dataset that an error lists."""


class Size(NamedTuple):
    width: int
    height: int


def init_image_read(dataset: Path, params: SampleImageParams, multiple: int) -> InitImage | None:
    """`input_image` and `mask_image`, center-cropped and resized to the size that is drawn; None without an image.

    Raises TrainerError that names the file if it is missing or unreadable, or if the two differ in size.
    """
    if params.input_image is None:
        return None
    image = _open(dataset, "input_image", params.input_image)
    width, height = (_default_side(side, image, multiple) for side in image.size)
    size = Size(params.width or width, params.height or height)
    mask = None
    if params.mask_image is not None:
        mask = _open(dataset, "mask_image", params.mask_image).convert("L")
        if mask.size != image.size:
            raise TrainerError(
                ReasonCode.BAD_DATASET,
                f"mask_image {params.mask_image} has {mask.width} x {mask.height} pixels, "
                f"but input_image {params.input_image} has {image.width} x {image.height}; they must be equal",
            )
        mask = _fit(mask, size)
    return InitImage(_fit(image, size), params.start_strength, mask)


def _default_side(side: int, image: Image.Image, multiple: int) -> int:
    """The image's own side, scaled down to what can be drawn."""
    shrunk = side * min(1.0, MAX_SIDE / max(image.size))
    return max(multiple, int(shrunk) // multiple * multiple)


def _fit(image: Image.Image, size: Size) -> Image.Image:
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _open(dataset: Path, parameter: str, name: str) -> Image.Image:
    """8-bit RGB, upright; transparency becomes white."""
    parts = PurePosixPath(name).parts
    path = dataset.joinpath(*parts)
    if name.startswith("/") or ".." in parts or not path.is_file():
        names = sorted(str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        listed = ", ".join(names[:MAX_NAMES]) or "no images"
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"{parameter}={name!r} is not a file of the dataset; it has {listed}{more}",
        )
    return decode_with(to_rgb, path, f"{parameter} {name}")
