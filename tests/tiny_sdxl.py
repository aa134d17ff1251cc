"""A tiny Stable Diffusion XL: two text encoders, sizes as a condition, Euler, a VAE that overflows in fp16."""

from pathlib import Path
from typing import Any

from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from tests.tiny_parts import clip, clip_tokenizer, saved, vae

UNET: Any = UNet2DConditionModel
SCHEDULER: Any = EulerDiscreteScheduler
FIRST, SECOND, PROJECTION, SIZE_WIDTH = 32, 64, 48, 8


def build_tiny_sdxl(folder: Path) -> Path:
    def parts() -> dict[str, Any]:
        return {
            "unet": _unet(),
            "vae": vae(channels=4, scaling_factor=0.13025),
            "text_encoder": clip(FIRST, layers=3, eos=2),
            "text_encoder_2": clip(SECOND, layers=3, projection=PROJECTION, act="gelu", eos=2),
            "tokenizer": clip_tokenizer(),
            "tokenizer_2": clip_tokenizer("!"),
            "scheduler": SCHEDULER(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                timestep_spacing="leading",
            ),
            "force_zeros_for_empty_prompt": True,
            "add_watermarker": False,
        }

    return saved(folder, StableDiffusionXLPipeline, parts)


def _unet() -> Any:
    return UNET(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=FIRST + SECOND,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_WIDTH,
        projection_class_embeddings_input_dim=PROJECTION + 6 * SIZE_WIDTH,
    )
