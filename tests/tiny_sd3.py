"""A tiny Stable Diffusion 3, or 3.5 with its normed queries and dual attention; with or without T5."""

from pathlib import Path
from typing import Any

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from tests.tiny_parts import FLOW_SCHEDULER, clip, clip_tokenizer, saved, t5, t5_tokenizer, vae

TRANSFORMER: Any = SD3Transformer2DModel
FIRST, SECOND, WIDTH = 16, 32, 64
"""Projection widths of the CLIP encoders, and width of T5."""


def build_tiny_sd3(folder: Path, *, version: str = "3", has_t5: bool = True) -> Path:
    def parts() -> dict[str, Any]:
        return {
            "transformer": _transformer(version),
            "vae": vae(channels=16, scaling_factor=1.5305, shift_factor=0.0609),
            "text_encoder": clip(16, layers=3, projection=FIRST, eos=2),
            "text_encoder_2": clip(32, layers=3, projection=SECOND, act="gelu", eos=2),
            "text_encoder_3": t5(WIDTH) if has_t5 else None,
            "tokenizer": clip_tokenizer(),
            "tokenizer_2": clip_tokenizer("!"),
            "tokenizer_3": t5_tokenizer() if has_t5 else None,
            "scheduler": FLOW_SCHEDULER(shift=3.0),
        }

    return saved(folder, StableDiffusion3Pipeline, parts)


def _transformer(version: str) -> Any:
    later = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if version == "3.5" else {}
    return TRANSFORMER(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=FIRST + SECOND,
        pos_embed_max_size=24,
        **later,
    )
