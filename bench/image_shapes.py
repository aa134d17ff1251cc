"""Shapes of image networks from their public configs, and tiny ones for tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel

from trainers.image.models.base import Base

UNET: Any = UNet2DConditionModel  # diffusers has no types that mypy can use
FLUX: Any = FluxTransformer2DModel
DDPM = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@dataclass(frozen=True)
class Shape:
    """A network with the shapes of its inputs."""

    family: str
    network: Callable[[], Any]
    pixels: int
    batches: tuple[int, ...]
    text: dict[str, tuple[int, ...]]
    """Shapes of one sample's embeddings."""
    tflop_per_image: float
    """Operations of a trained image: forward, and backward to the LoRA pairs."""
    target: float = 0.0
    """Target at the largest batch, as a share of a matrix product's speed; 0: none."""
    latent_channels: int = 4
    checkpointing: bool = False


def network_make(shape: Shape, device: torch.device) -> Any:
    """Random weights of a small spread in bf16, made on the device; frozen."""
    with torch.device("meta"):
        network = shape.network().to(torch.bfloat16)
    network.to_empty(device=device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02)
        for name, buffer in network.named_buffers():
            raise_if_not_rebuilt(name, buffer)
    return network.requires_grad_(False)


def raise_if_not_rebuilt(name: str, buffer: torch.Tensor) -> None:
    """Computes the buffers, which a network built on `meta` does not have."""
    raise ValueError(f"expected a network without buffers, found {name} of shape {tuple(buffer.shape)}")


def base_of(shape: Shape, network: Any) -> Base:
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler"} if shape.family == "flux" else DDPM
    return Base(shape.family, network, None, (), (), scheduler, None)


def _sd15() -> Any:
    return UNET(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def _sdxl() -> Any:
    return UNET(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _flux() -> Any:
    return FLUX(guidance_embeds=True)


def _tiny_unet() -> Any:
    return UNET(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
    )


def _tiny_flux() -> Any:
    return FLUX(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )


SHAPES = {
    "sd15": Shape("sd1", _sd15, 512, (1, 8, 16), {"prompt": (77, 768)}, 1.73, target=0.35),
    "sdxl": Shape("sdxl", _sdxl, 1024, (1, 4, 8), {"prompt": (77, 2048), "pooled": (1280,)}, 14.2, target=0.45),
    "flux": Shape(
        "flux",
        _flux,
        1024,
        (1, 4),
        {"prompt": (512, 4096), "pooled": (768,)},
        164.0,
        target=0.50,
        latent_channels=16,
        checkpointing=True,
    ),
}
TINY_SHAPES = {
    "tiny sd": Shape("sd1", _tiny_unet, 64, (1, 2), {"prompt": (77, 32)}, 1e-4),
    "tiny flux": Shape(
        "flux",
        _tiny_flux,
        64,
        (2,),
        {"prompt": (16, 32), "pooled": (32,)},
        1e-4,
        latent_channels=16,
        checkpointing=True,
    ),
}
