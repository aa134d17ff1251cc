"""Parts of tiny base models: the real classes and the quirks of the real configs, with few weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.tiny_sd import tiny_tokenizer

T5_PIECES = ["▁", "▁a", "▁cat", "▁dog", "▁photo", "▁of", ",", *"abcdefghijklmnopqrstuvwxyz0123456789.'!-"]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of the attention of a UNet, as targets of a LoRA."""
AUTOENCODER: Any = AutoencoderKL  # diffusers' types are of no use to mypy
FLOW_SCHEDULER: Any = FlowMatchEulerDiscreteScheduler


def saved(folder: Path, pipeline_class: Any, parts: Callable[[], dict[str, Any]], seed: int = 0) -> Path:
    """Saves the pipeline of `parts()`, whose weights are drawn from `seed`; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = pipeline_class(**parts())
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """CLIP's own pads with its end token; the second encoders of SDXL and SD3, and SD 2, pad with "!" (id 0)."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = pad_token
    return tokenizer


def t5_tokenizer() -> Any:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(piece, -float(index)) for index, piece in enumerate(T5_PIECES, start=1)]
    tokenizer: Any = T5Tokenizer
    return tokenizer(vocab=special + pieces, extra_ids=0, model_max_length=512)


def clip(width: int, *, layers: int = 2, projection: int = 0, act: str = "quick_gelu", eos: int | None = None) -> Any:
    """`projection` > 0: the class with a projection of that width. `eos` 2 stands in old configs."""
    size = len(tiny_tokenizer())
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=projection or width,
        hidden_act=act,
        bos_token_id=size - 2,
        eos_token_id=size - 1 if eos is None else eos,
        pad_token_id=size - 1,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def t5(width: int) -> Any:
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def vae(*, channels: int, scaling_factor: float, shift_factor: float | None = None, sample_size: int = 64) -> Any:
    """16 channels come without the 1 x 1 convolutions around the latent, as SD3's and Flux's."""
    return AUTOENCODER(
        block_out_channels=(16, 32, 32, 32),
        norm_num_groups=8,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=sample_size,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=channels == 4,
        use_post_quant_conv=channels == 4,
        force_upcast=True,
    )
