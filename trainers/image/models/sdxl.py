"""Stable Diffusion XL: two CLIP encoders side by side, a pooled embedding, and the image's sizes as a condition."""

# B batch, L tokens, D text width, P pooled width, C channels, H height, W width

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from formats.models.image_families import FAMILIES
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import Base, TextSettings, diffusion_scheduler
from trainers.image.models.families import (
    Family,
    equal,
    model_index,
    part_config,
    part_load,
    parts_check,
    vae_load,
)
from trainers.image.models.stable_diffusion import targets, text_targets
from trainers.image.models.text_encoders import Text, clip_ids, clip_penultimate, clip_tokenizer

NAME = "sdxl"
NUM_SIZES = 6


def load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base:
    parts_check(folder, FAMILIES[NAME].needed)
    _check_architecture(folder)
    scheduler_config = diffusion_scheduler(folder)
    zeros = model_index(folder).get("force_zeros_for_empty_prompt", True)
    return Base(
        family=NAME,
        network=part_load(UNet2DConditionModel, folder, "unet", dtype).to(device),
        vae=vae_load(folder, dtype).to(device),
        text_encoders=(
            part_load(CLIPTextModel, folder, "text_encoder", dtype).to(device),
            part_load(CLIPTextModelWithProjection, folder, "text_encoder_2", dtype).to(device),
        ),
        tokenizers=(clip_tokenizer(folder), clip_tokenizer(folder, "tokenizer_2")),
        scheduler_config=scheduler_config,
        pipeline_config={"force_zeros_for_empty_prompt": zeros, "add_watermarker": False},
    )


def caption_tokenizer(folder: Path) -> Any:
    """The last tokenizer, whose length limits captions."""
    return clip_tokenizer(folder, "tokenizer_2")


def tokenize(base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
    first, second = base.tokenizers
    chunks = settings.min_chunks
    return [
        {"ids/0": clip_ids(first, text, min_chunks=chunks), "ids/1": clip_ids(second, text, min_chunks=chunks)}
        for text in texts
    ]


def embed(base: Base, ids: Text, settings: TextSettings) -> Text:
    """ "prompt" (B, L, D1 + D2): the states before the last layer of both; "pooled" (B, P): of the second."""
    first_BLD, _ = clip_penultimate(base.text_encoders[0], ids["ids/0"], settings.clip_skip)
    second_BLD, pooled_BP = clip_penultimate(base.text_encoders[1], ids["ids/1"], settings.clip_skip)
    masked = {"mask": ids["mask"]} if "mask" in ids else {}
    return {"prompt": torch.cat([first_BLD, second_BLD], dim=-1), "pooled": pooled_BP} | masked


def predict(
    base: Base, noisy_BCHW: Tensor, times_B: Tensor, text: Text, sizes_B6: Tensor | None, _guidance: float
) -> Tensor:
    assert sizes_B6 is not None
    predicted_BCHW: Tensor = base.network(
        noisy_BCHW,
        times_B,
        encoder_hidden_states=text["prompt"],
        encoder_attention_mask=text.get("mask"),
        added_cond_kwargs={"text_embeds": text["pooled"], "time_ids": sizes_B6},
        return_dict=False,
    )[0]
    return predicted_BCHW


def _check_architecture(folder: Path) -> None:
    unet, vae = part_config(folder, "unet"), part_config(folder, "vae")
    first, second = part_config(folder, "text_encoder"), part_config(folder, "text_encoder_2")
    width = first.get("hidden_size", 0) + second.get("hidden_size", 0)
    condition = NUM_SIZES * (unet.get("addition_time_embed_dim") or 0) + second.get("projection_dim", 0)
    for actual, name in (
        (("the text encoders together", "hidden_size", width), "cross_attention_dim"),
        (("text_encoder_2 with six sizes", "width", condition), "projection_class_embeddings_input_dim"),
        (("the vae", "latent_channels", vae.get("latent_channels")), "in_channels"),
    ):
        equal(actual, ("the unet", name, unet.get(name)))
    if vae.get("latents_mean") is not None:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, "expected a vae with a scaling_factor alone, found latents_mean in its config"
        )


SDXL = Family(
    name=NAME,
    pixel_multiple=8,
    load=load,
    caption_tokenizer=caption_tokenizer,
    tokenize=tokenize,
    embed=embed,
    predict=predict,
    targets=targets,
    text_targets=text_targets,
)
