"""Flux.1: a transformer over packed latents, trained by flow matching; T5 encodes the prompt, CLIP is only pooled."""

# B batch, L tokens, D text width, P pooled width, C channels, H height, W width (of latents), N patches of 2 x 2

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel, T5EncoderModel

from formats.models.image_families import FAMILIES
from trainers.image.models.base import (
    Base,
    TargetKind,
    TextSettings,
    clip_targets,
    flow_scheduler,
    named_targets,
    no_convolutions,
)
from trainers.image.models.families import (
    Family,
    equal,
    part_config,
    part_load,
    parts_check,
    vae_load,
)
from trainers.image.models.sd3 import ATTENTION
from trainers.image.models.sd3 import FEED_FORWARD as DOUBLE_FEED_FORWARD
from trainers.image.models.text_encoders import (
    Text,
    clip_ids,
    clip_tokenizer,
    t5_ids,
    t5_states,
    t5_tokenizer,
)

NAME = "flux"
T5_TOKENS = 512
FEED_FORWARD = (*DOUBLE_FEED_FORWARD, ".proj_mlp", ".proj_out")
"""Of blocks with two streams, and of those with one."""


def load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base:
    parts_check(folder, FAMILIES[NAME].needed)
    _check_architecture(folder)
    scheduler_config = flow_scheduler(folder)
    return Base(
        family=NAME,
        network=part_load(FluxTransformer2DModel, folder, "transformer", dtype).to(device),
        vae=vae_load(folder, dtype).to(device),
        text_encoders=(
            part_load(CLIPTextModel, folder, "text_encoder", dtype).to(device),
            part_load(T5EncoderModel, folder, "text_encoder_2", dtype).to(device),
        ),
        tokenizers=(clip_tokenizer(folder), t5_tokenizer(folder, "tokenizer_2")),
        scheduler_config=scheduler_config,
    )


def caption_tokenizer(folder: Path) -> Any:
    """The last tokenizer, whose length limits captions."""
    return t5_tokenizer(folder, "tokenizer_2")


def tokenize(base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
    """CLIP reads 77 tokens of a text, T5 max_sequence_length of them."""
    clip, t5 = base.tokenizers
    length = settings.max_sequence_length or T5_TOKENS
    return [{"ids/0": clip_ids(clip, text, max_chunks=1), "ids/1": t5_ids(t5, text, length)} for text in texts]


def embed(base: Base, ids: Text, _settings: TextSettings) -> Text:
    """ "prompt" (B, L, D) of T5, "pooled" (B, P) of CLIP."""
    clip, t5 = base.text_encoders
    pooled_BP = clip(ids["ids/0"].flatten(0, 1).to(clip.device)).pooler_output
    return {"prompt": t5_states(t5, ids["ids/1"]), "pooled": pooled_BP}


def predict(
    base: Base, noisy_BCHW: Tensor, times_B: Tensor, text: Text, _sizes_B6: Tensor | None, guidance: float
) -> Tensor:
    _, _, height, width = noisy_BCHW.shape
    velocity_BNC: Tensor = base.network(
        hidden_states=packed(noisy_BCHW),
        timestep=times_B,
        guidance=torch.full_like(times_B, guidance) if base.network.config.guidance_embeds else None,
        encoder_hidden_states=text["prompt"],
        pooled_projections=text["pooled"],
        img_ids=patch_places(height, width, noisy_BCHW.device),
        txt_ids=torch.zeros(text["prompt"].shape[1], 3, device=noisy_BCHW.device),
        return_dict=False,
    )[0]
    return unpacked(velocity_BNC, height, width)


def targets(network: nn.Module, kind: TargetKind, conv: bool) -> list[str]:
    if conv:
        no_convolutions(FAMILIES[NAME].title)
    return named_targets(network, kind, ATTENTION, FEED_FORWARD)


def text_targets(encoder: nn.Module) -> list[str]:
    """Of CLIP; T5 is not trained."""
    return clip_targets(encoder) if isinstance(encoder, CLIPTextModel) else []


def packed(latents_BCHW: Tensor) -> Tensor:
    """Patches of 2 x 2, row by row: (B, H/2 W/2, 4 C)."""
    batch, channels, height, width = latents_BCHW.shape
    patches = latents_BCHW.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpacked(patches_BNC: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`: (B, C, H, W)."""
    batch, _, channels = patches_BNC.shape
    patches = patches_BNC.reshape(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels // 4, height, width)


def patch_places(height: int, width: int, device: torch.device) -> Tensor:
    """(N, 3) on `device`: zero, row and column of each patch of a latent of `height` x `width`."""
    sides = (torch.arange(side // 2, device=device) for side in (height, width))
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def _check_architecture(folder: Path) -> None:
    transformer, vae = part_config(folder, "transformer"), part_config(folder, "vae")
    clip, t5 = part_config(folder, "text_encoder"), part_config(folder, "text_encoder_2")
    for actual, name in (
        (("the vae packed", "latent_channels times 4", 4 * vae.get("latent_channels", 0)), "in_channels"),
        (("text_encoder", "hidden_size", clip.get("hidden_size")), "pooled_projection_dim"),
        (("text_encoder_2", "d_model", t5.get("d_model")), "joint_attention_dim"),
    ):
        equal(actual, ("the transformer", name, transformer.get(name)))


FLUX = Family(
    name=NAME,
    pixel_multiple=16,
    load=load,
    caption_tokenizer=caption_tokenizer,
    tokenize=tokenize,
    embed=embed,
    predict=predict,
    targets=targets,
    text_targets=text_targets,
    t5_tokens=T5_TOKENS,
)
