"""Stable Diffusion 3 and 3.5: a transformer trained by flow matching; two CLIP encoders and optionally T5."""

# B batch, L tokens, D text width, P pooled width, C channels, H height, W width

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPTextModelWithProjection, T5EncoderModel

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
    model_index,
    part_config,
    part_load,
    parts_check,
    vae_load,
)
from trainers.image.models.text_encoders import (
    Text,
    clip_ids,
    clip_penultimate,
    clip_tokenizer,
    t5_ids,
    t5_states,
    t5_tokenizer,
)

NAME = "sd3"
T5_TOKENS = 256
ATTENTION = tuple(
    f".{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
)
FEED_FORWARD = (".ff.net.0.proj", ".ff.net.2", ".ff_context.net.0.proj", ".ff_context.net.2")


def load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base:
    has_t5 = _has_t5(folder)
    family = FAMILIES[NAME]
    parts_check(folder, tuple(family.parts) if has_t5 else family.needed)
    _check_architecture(folder, has_t5)
    scheduler_config = flow_scheduler(folder)
    t5 = (part_load(T5EncoderModel, folder, "text_encoder_3", dtype).to(device),) if has_t5 else ()
    return Base(
        family=NAME,
        network=part_load(SD3Transformer2DModel, folder, "transformer", dtype).to(device),
        vae=vae_load(folder, dtype).to(device),
        text_encoders=(
            part_load(CLIPTextModelWithProjection, folder, "text_encoder", dtype).to(device),
            part_load(CLIPTextModelWithProjection, folder, "text_encoder_2", dtype).to(device),
            *t5,
        ),
        tokenizers=(
            clip_tokenizer(folder),
            clip_tokenizer(folder, "tokenizer_2"),
            *((t5_tokenizer(folder, "tokenizer_3"),) if has_t5 else ()),
        ),
        scheduler_config=scheduler_config,
    )


def caption_tokenizer(folder: Path) -> Any:
    """The last tokenizer, whose length limits captions."""
    return t5_tokenizer(folder, "tokenizer_3") if _has_t5(folder) else clip_tokenizer(folder, "tokenizer_2")


def tokenize(base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
    """CLIP reads 77 tokens of a text, T5 max_sequence_length of them."""
    length = settings.max_sequence_length or T5_TOKENS

    def ids(text: str) -> Text:
        first, second, *t5 = base.tokenizers
        clip = {"ids/0": clip_ids(first, text, max_chunks=1), "ids/1": clip_ids(second, text, max_chunks=1)}
        return clip | ({"ids/2": t5_ids(t5[0], text, length)} if t5 else {})

    return [ids(text) for text in texts]


def embed(base: Base, ids: Text, settings: TextSettings) -> Text:
    """ "prompt" (B, 77 + L, D): CLIP's states side by side and as wide as T5's, then T5's or zeros; "pooled" (B, P)."""
    first_BLD, first_BP = clip_penultimate(base.text_encoders[0], ids["ids/0"], settings.clip_skip)
    second_BLD, second_BP = clip_penultimate(base.text_encoders[1], ids["ids/1"], settings.clip_skip)
    clip_BLD = torch.cat([first_BLD, second_BLD], dim=-1)
    width = int(base.network.config.joint_attention_dim)
    if "ids/2" in ids:
        t5_BLD = t5_states(base.text_encoders[2], ids["ids/2"])
    else:
        t5_BLD = clip_BLD.new_zeros(clip_BLD.shape[0], settings.max_sequence_length or T5_TOKENS, width)
    padded_BLD = pad(clip_BLD, (0, width - clip_BLD.shape[-1]))
    return {"prompt": torch.cat([padded_BLD, t5_BLD], dim=1), "pooled": torch.cat([first_BP, second_BP], dim=-1)}


def predict(
    base: Base, noisy_BCHW: Tensor, times_B: Tensor, text: Text, _sizes_B6: Tensor | None, _guidance: float
) -> Tensor:
    velocity_BCHW: Tensor = base.network(
        hidden_states=noisy_BCHW,
        timestep=times_B * 1000,
        encoder_hidden_states=text["prompt"],
        pooled_projections=text["pooled"],
        return_dict=False,
    )[0]
    return velocity_BCHW


def targets(network: nn.Module, kind: TargetKind, conv: bool) -> list[str]:
    if conv:
        no_convolutions(FAMILIES[NAME].title)
    return named_targets(network, kind, ATTENTION, FEED_FORWARD)


def text_targets(encoder: nn.Module) -> list[str]:
    """Of the CLIP encoders; T5 is not trained."""
    return clip_targets(encoder) if isinstance(encoder, CLIPTextModelWithProjection) else []


def _has_t5(folder: Path) -> bool:
    """A base without T5 has null in its index, or no entry."""
    entry = model_index(folder).get("text_encoder_3")
    return bool(entry and entry[0])


def _check_architecture(folder: Path, has_t5: bool) -> None:
    transformer, vae = part_config(folder, "transformer"), part_config(folder, "vae")
    clips = [part_config(folder, part) for part in ("text_encoder", "text_encoder_2")]
    pooled = sum(clip.get("projection_dim", 0) for clip in clips)
    checks = [
        (("the vae", "latent_channels", vae.get("latent_channels")), "in_channels"),
        (("the CLIP text encoders together", "projection_dim", pooled), "pooled_projection_dim"),
    ]
    if has_t5:
        t5 = part_config(folder, "text_encoder_3")
        checks.append((("text_encoder_3", "d_model", t5.get("d_model")), "joint_attention_dim"))
    for actual, name in checks:
        equal(actual, ("the transformer", name, transformer.get(name)))


SD3 = Family(
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
