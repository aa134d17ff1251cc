"""A tiny Stable Diffusion 2.1: text width 1024, linear projections, v-prediction, a tokenizer that pads with "!"."""

from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from tests.tiny_parts import clip, clip_tokenizer, saved, vae

UNET: Any = UNet2DConditionModel
SCHEDULER: Any = DDIMScheduler


def build_tiny_sd2(folder: Path, **scheduler: Any) -> Path:
    """`scheduler`: changes to its config, as prediction_type="epsilon" of the 512 px base."""

    def parts() -> dict[str, Any]:
        return {
            "unet": _unet(),
            "vae": vae(channels=4, scaling_factor=0.18215),
            "text_encoder": clip(1024, act="gelu"),
            "tokenizer": clip_tokenizer("!"),
            "scheduler": _scheduler(**scheduler),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    return saved(folder, StableDiffusionPipeline, parts)


def _unet() -> Any:
    return UNET(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=1024,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
    )


def _scheduler(**changes: Any) -> Any:
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction",
    }
    return SCHEDULER(**config | changes)
