"""The families of image models: their pipeline class in diffusers, and the parts that a folder of each has."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from formats.scheduler_configs import DIFFUSION, FLOW

Parts = Mapping[str, tuple[str, ...]]
"""Classes that each part may have; the first is what we write."""
VAE = ("AutoencoderKL",)
CLIP, CLIP_PROJECTED, T5 = ("CLIPTextModel",), ("CLIPTextModelWithProjection",), ("T5EncoderModel",)
CLIP_TOKENS, T5_TOKENS = ("CLIPTokenizer", "CLIPTokenizerFast"), ("T5Tokenizer", "T5TokenizerFast")
UNET = ("UNet2DConditionModel",)
SD_PARTS: Parts = {"unet": UNET, "vae": VAE, "text_encoder": CLIP, "tokenizer": CLIP_TOKENS, "scheduler": DIFFUSION}
SD2_TEXT_WIDTH = 1024
"""Of OpenCLIP-H. By it 2.x is told from 1.x, whose pipeline class is the same and whose text is 768 wide."""
WITHOUT_WEIGHTS = ("tokenizer", "scheduler")
"""Beginnings of the names of parts that have no weights."""


class ImageFamily(NamedTuple):
    title: str
    pipeline: str
    """`_class_name` in model_index.json."""
    parts: Parts
    optional: tuple[str, ...] = ()
    """Parts that model_index.json may say are not there."""
    is_flow: bool = False
    """Trained by flow matching, which has no prediction type."""

    @property
    def needed(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if part not in self.optional)

    @property
    def network(self) -> str:
        return "unet" if "unet" in self.parts else "transformer"


FAMILIES = {
    "sd1": ImageFamily("Stable Diffusion 1.x", "StableDiffusionPipeline", SD_PARTS),
    "sd2": ImageFamily("Stable Diffusion 2.x", "StableDiffusionPipeline", SD_PARTS),
    "sdxl": ImageFamily(
        "Stable Diffusion XL",
        "StableDiffusionXLPipeline",
        {
            "unet": UNET,
            "vae": VAE,
            "text_encoder": CLIP,
            "text_encoder_2": CLIP_PROJECTED,
            "tokenizer": CLIP_TOKENS,
            "tokenizer_2": CLIP_TOKENS,
            "scheduler": DIFFUSION,
        },
    ),
    "sd3": ImageFamily(
        "Stable Diffusion 3",
        "StableDiffusion3Pipeline",
        {
            "transformer": ("SD3Transformer2DModel",),
            "vae": VAE,
            "text_encoder": CLIP_PROJECTED,
            "text_encoder_2": CLIP_PROJECTED,
            "tokenizer": CLIP_TOKENS,
            "tokenizer_2": CLIP_TOKENS,
            "scheduler": (FLOW,),
            "text_encoder_3": T5,
            "tokenizer_3": T5_TOKENS,
        },
        optional=("text_encoder_3", "tokenizer_3"),
        is_flow=True,
    ),
    "flux": ImageFamily(
        "Flux.1",
        "FluxPipeline",
        {
            "transformer": ("FluxTransformer2DModel",),
            "vae": VAE,
            "text_encoder": CLIP,
            "text_encoder_2": T5,
            "tokenizer": CLIP_TOKENS,
            "tokenizer_2": T5_TOKENS,
            "scheduler": (FLOW,),
        },
        is_flow=True,
    ),
}
PIPELINES = tuple(dict.fromkeys(family.pipeline for family in FAMILIES.values()))
FLOW_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.is_flow)


def family_of(pipeline: Any, text_width: Any = None) -> str | None:
    """By `_class_name` of model_index.json and, of Stable Diffusion, `hidden_size` of the text encoder; None where the
    class is of no family."""
    names = [name for name, family in FAMILIES.items() if family.pipeline == pipeline]
    if "sd2" in names and text_width == SD2_TEXT_WIDTH:
        return "sd2"
    return names[0] if names else None
