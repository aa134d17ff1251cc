"""A tiny Flux.1: dev with its guidance embedding and dynamic shift, or schnell without either."""

from pathlib import Path
from typing import Any

from diffusers import FluxPipeline, FluxTransformer2DModel

from tests.tiny_parts import FLOW_SCHEDULER, clip, clip_tokenizer, saved, t5, t5_tokenizer, vae

TRANSFORMER: Any = FluxTransformer2DModel
POOLED, WIDTH = 32, 48


def build_tiny_flux(folder: Path, *, schnell: bool = False, head_width: int = 16) -> Path:
    """`head_width` of 32 or more divides into the rotary axes as the published models' 128 does."""

    def parts() -> dict[str, Any]:
        return {
            "transformer": _transformer(not schnell, head_width),
            "vae": vae(channels=16, scaling_factor=0.3611, shift_factor=0.1159),
            "text_encoder": clip(POOLED, eos=2),
            "text_encoder_2": t5(WIDTH),
            "tokenizer": clip_tokenizer(),
            "tokenizer_2": t5_tokenizer(),
            "scheduler": FLOW_SCHEDULER(shift=1.0) if schnell else FLOW_SCHEDULER(**DEV_SCHEDULER),
        }

    return saved(folder, FluxPipeline, parts)


DEV_SCHEDULER = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def _transformer(guidance_embeds: bool, head_width: int) -> Any:
    side = head_width * 7 // 16
    return TRANSFORMER(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=head_width,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8) if head_width == 16 else (head_width - 2 * side, side, side),
    )
