"""The texts of a batch of images as embeddings, with their counterpart for classifier-free guidance."""

# B batch, L tokens, D width

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import family_module
from trainers.image.models.text import Text, text_stack

CHUNK = 77
"""States of one chunk of a prompt, its start and end included."""
DISTILLED = ("flux",)
"""Families that are told the guidance and answer with it, without a second, negative prompt."""


@dataclass(frozen=True)
class Prompts:
    """Embeddings of every image's text, batch axis first."""

    positive: Text
    negative: Text | None
    """None: classifier-free guidance is off."""


def is_guided(base: Base, guidance_scale: float) -> bool:
    """Whether the network is asked twice a step, with the prompt and with the negative prompt."""
    return guidance_scale > 1 and base.family not in DISTILLED


@torch.no_grad()
def prompts_encode(
    base: Base, prompts: Sequence[str], negative_prompt: str, settings: TextSettings, *, guided: bool
) -> Prompts:
    """Each text is encoded once and alone, so that neighbours cannot change its bits."""
    texts = list(dict.fromkeys([*prompts, *([negative_prompt] if guided else [])]))
    found = dict(zip(texts, _equally_long(base, texts, settings), strict=True))
    positive = text_stack([found[prompt] for prompt in prompts])
    if not guided:
        return Prompts(positive, None)
    negative = found[negative_prompt]
    if not negative_prompt and base.pipeline_config.get("force_zeros_for_empty_prompt"):
        negative = {key: torch.zeros_like(value) for key, value in negative.items()}
    return Prompts(positive, text_stack([negative] * len(prompts)))


def _equally_long(base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
    """Shorter ones get empty chunks, as the longest one's: the network takes all in one batch."""
    family = family_module(base.family)
    found = family.encode_text(base, texts, settings)
    lengths = {text["prompt"].shape[0] for text in found}
    if len(lengths) == 1:
        return found
    wanted = TextSettings(settings.clip_skip, settings.max_sequence_length, min_chunks=max(lengths) // CHUNK)
    return family.encode_text(base, texts, wanted)


def text_to(text: Text, device: torch.device, dtype: torch.dtype) -> Text:
    def moved(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else None)

    return {key: moved(value) for key, value in text.items()}
