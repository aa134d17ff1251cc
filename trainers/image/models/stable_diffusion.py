"""Stable Diffusion 1.x and 2.x: one UNet, one CLIP text encoder, one VAE."""

# B batch, L tokens, D text width, C channels, H height, W width

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from formats.models.image_families import FAMILIES
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import (
    Base,
    TargetKind,
    TextSettings,
    clip_targets,
    convolutions,
    diffusion_scheduler,
    named_targets,
)
from trainers.image.models.families import (
    Family,
    equal,
    part_config,
    part_load,
    parts_check,
)
from trainers.image.models.text_encoders import Text, clip_ids, clip_last, clip_tokenizer

UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
FEED_FORWARD = (".ff.net.0.proj", ".ff.net.2")


def load(family: str, folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base:
    parts_check(folder, FAMILIES[family].needed)
    _check_widths(part_config(folder, "unet"), part_config(folder, "text_encoder"))
    latents_check(part_config(folder, "unet"), part_config(folder, "vae"))
    scheduler_config = diffusion_scheduler(folder)
    return Base(
        family=family,
        network=part_load(UNet2DConditionModel, folder, "unet", dtype).to(device),
        vae=part_load(AutoencoderKL, folder, "vae", dtype).to(device),
        text_encoders=(part_load(CLIPTextModel, folder, "text_encoder", dtype).to(device),),
        tokenizers=(clip_tokenizer(folder),),
        scheduler_config=scheduler_config,
        pipeline_config=UNCHECKED,
    )


def caption_tokenizer(folder: Path) -> Any:
    """The last tokenizer, whose length limits captions."""
    return clip_tokenizer(folder)


def tokenize(base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
    return [{"ids/0": clip_ids(base.tokenizers[0], text, min_chunks=settings.min_chunks)} for text in texts]


def embed(base: Base, ids: Text, settings: TextSettings) -> Text:
    """ "prompt" (B, L, D); L is 77 for each chunk of the longest text."""
    masked = {"mask": ids["mask"]} if "mask" in ids else {}
    return {"prompt": clip_last(base.text_encoders[0], ids["ids/0"], settings.clip_skip)} | masked


def predict(
    base: Base, noisy_BCHW: Tensor, times_B: Tensor, text: Text, _sizes_B6: Tensor | None, _guidance: float
) -> Tensor:
    predicted_BCHW: Tensor = base.network(
        noisy_BCHW,
        times_B,
        encoder_hidden_states=text["prompt"],
        encoder_attention_mask=text.get("mask"),
        return_dict=False,
    )[0]
    return predicted_BCHW


def targets(network: nn.Module, kind: TargetKind, conv: bool) -> list[str]:
    linear = named_targets(network, kind, ATTENTION, FEED_FORWARD)
    return sorted(linear + convolutions(network)) if conv else linear


def text_targets(encoder: nn.Module) -> list[str]:
    return clip_targets(encoder)


def latents_check(unet: dict[str, Any], vae: dict[str, Any]) -> None:
    channels, latents = unet.get("in_channels"), vae.get("latent_channels")
    if channels != latents:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the unet takes {channels} channels but the vae gives {latents}; inpainting bases are not supported yet",
        )


def _check_widths(unet: dict[str, Any], text: dict[str, Any]) -> None:
    equal(
        ("text_encoder", "hidden_size", text.get("hidden_size")),
        ("the unet", "cross_attention_dim", unet.get("cross_attention_dim")),
    )


SD1 = Family(
    name="sd1",
    pixel_multiple=8,
    load=partial(load, "sd1"),
    caption_tokenizer=caption_tokenizer,
    tokenize=tokenize,
    embed=embed,
    predict=predict,
    targets=targets,
    text_targets=text_targets,
)
SD2 = replace(SD1, name="sd2", load=partial(load, "sd2"))
"""With the lower 23 layers of OpenCLIP-H as text encoder; its config omits the last layer. Often v-prediction."""
