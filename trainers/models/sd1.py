"""Stable Diffusion 1.x: one UNet, one CLIP text encoder, one VAE. A family module: load, encode_text, encode_image."""

# B batch, L tokens, D text width, C channels, H height, W width

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from trainers.errors import ReasonCode, TrainerError
from trainers.models.base import Base
from trainers.models.parts import part_config, part_load, parts_check
from trainers.models.schedulers import SCHEDULERS

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SD2_TEXT_WIDTH = 1024
PREDICTIONS = ("epsilon", "v_prediction")


def load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base:
    parts_check(folder, PARTS)
    _check_architecture(part_config(folder, "unet"), part_config(folder, "vae"), part_config(folder, "text_encoder"))
    return Base(
        family="sd1",
        network=part_load(UNet2DConditionModel, folder, "unet", dtype).to(device),
        vae=part_load(AutoencoderKL, folder, "vae", dtype).to(device),
        text_encoders=(part_load(CLIPTextModel, folder, "text_encoder", dtype).to(device),),
        tokenizers=(_tokenizer(folder),),
        scheduler_config=_scheduler_config(part_config(folder, "scheduler", "scheduler_config.json")),
        pipeline_class=StableDiffusionPipeline,
    )


@torch.no_grad()
def encode_text(base: Base, captions: list[str]) -> Tensor:
    """Last hidden state of CLIP, (B, 77, D); what is past 77 tokens is cut."""
    tokens = base.tokenizers[0](
        captions,
        padding="max_length",
        max_length=base.tokenizers[0].model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    hidden_BLD: Tensor = base.text_encoders[0](tokens.input_ids.to(base.text_encoders[0].device))[0]
    return hidden_BLD


@torch.no_grad()
def encode_image(base: Base, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the VAE's posterior, fp32 (B, 4, H/8, W/8), unscaled; pixels in [-1, 1]."""
    posterior = base.vae.encode(pixels_BCHW.to(base.vae.device, base.vae.dtype)).latent_dist
    return posterior.mean.float(), posterior.logvar.float()


def _check_architecture(unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> None:
    width, cross, channels = text.get("hidden_size"), unet.get("cross_attention_dim"), unet.get("in_channels")
    latents = vae.get("latent_channels")
    if width == SD2_TEXT_WIDTH:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"expected Stable Diffusion 1.x, found Stable Diffusion 2.x (text encoder of width {width}), "
            "which is not supported yet",
        )
    if width != cross:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"text_encoder has hidden_size {width} but the unet has cross_attention_dim {cross}; they must be equal",
        )
    if channels != latents:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the unet takes {channels} channels but the vae gives {latents}; inpainting bases are not supported yet",
        )


def _tokenizer(folder: Path) -> CLIPTokenizer:
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"tokenizer cannot be read: {error}") from error
    return tokenizer


def _scheduler_config(config: dict[str, Any]) -> dict[str, Any]:
    name, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    if name not in SCHEDULERS:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected a scheduler of {', '.join(sorted(SCHEDULERS))}, found {name}"
        )
    if prediction not in PREDICTIONS:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected prediction_type {' or '.join(PREDICTIONS)}, found {prediction}"
        )
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in SCHEDULERS[name]().config:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the scheduler config says rescale_betas_zero_snr, which {name} would ignore; use DDIMScheduler",
        )
    return config
