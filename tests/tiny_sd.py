"""A real Stable Diffusion pipeline with random weights, 5 MB, made on disk in about a second. No downloads."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 32
"""Hidden size of the text encoder, and so the UNet's cross_attention_dim."""
PIPELINE: Any = StableDiffusionPipeline  # diffusers' types are of no use to mypy
UNET: Any = UNet2DConditionModel
VAE: Any = AutoencoderKL
SCHEDULER: Any = DDIMScheduler
TOKENIZER: Any = CLIPTokenizer
MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("p", "h"), ("o", "t"), ("o", "f</w>")]


def build_tiny_sd(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    seed: int = 0,
    rescale_betas_zero_snr: bool = False,
    cross_attention_dim: int = WIDTH,
) -> Path:
    """Saves the pipeline in `folder` (images of 64 px) and returns it. The global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = PIPELINE(
            unet=_unet(cross_attention_dim),
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(cross_attention_dim)),
            tokenizer=tiny_tokenizer(),
            scheduler=_scheduler(prediction_type, rescale_betas_zero_snr),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_tokenizer() -> Any:
    """CLIP's byte-level pieces and a handful of merges: any text works, most words take several pieces."""
    letters = _byte_letters()
    words = [*letters, *(f"{c}</w>" for c in letters), *(a + b for a, b in MERGES), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return TOKENIZER(vocab=vocabulary, merges=MERGES, model_max_length=77, pad_token="<|endoftext|>")


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in CLIP's (GPT-2's) vocabulary, in vocabulary order."""
    stored = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in stored] + [chr(256 + i) for i in range(256 - len(stored))]


def _unet(cross_attention_dim: int) -> Any:
    return UNET(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,
    )


def _vae() -> Any:
    return VAE(
        block_out_channels=(16, 32, 32, 32),
        norm_num_groups=8,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
    )


def _text_config(width: int) -> CLIPTextConfig:
    size = len(tiny_tokenizer())
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )


def _scheduler(prediction_type: str, rescale_betas_zero_snr: bool) -> Any:
    return SCHEDULER(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=rescale_betas_zero_snr,
        timestep_spacing="trailing" if rescale_betas_zero_snr else "leading",
    )
