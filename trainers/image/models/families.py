"""The families of image models: the interface of a family's module, and how a base model folder is opened.

The family is read from the folder's model_index.json, never from the user.
"""

# B batch, L tokens, D text width, P pooled width, C channels, H height, W width

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from formats.base_model import pipeline_keys_ignored
from formats.image_families import FAMILIES
from formats.image_families import family_of as pipeline_family
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.folder_views import bad_files, ignored_log
from trainers.core.special_tokens import special_tokens_check
from trainers.image.models.base import Base, TargetKind, TextSettings
from trainers.image.models.parts import model_index, part_config
from trainers.image.models.text_encoders import Text


class Family(Protocol):
    """A module of this package, named as the family."""

    NAME: str
    IS_FLOW: bool
    """Trained by flow matching, at times in (0, 1]; else by DDPM, at integer timesteps."""
    PIXEL_MULTIPLE: int
    """The sides of images must be divisible by this."""

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base: ...

    def caption_tokenizer(self, folder: Path) -> Any:
        """The last tokenizer, whose length limits captions."""
        ...

    def tokenize(self, base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
        """Token ids for each text, without a batch axis: "ids/0" for the first encoder, and so on."""
        ...

    def embed(self, base: Base, ids: Text, settings: TextSettings) -> Text:
        """A batch of token ids -> "prompt" (B, L, D) and, in some families, "pooled" (B, P); differentiable."""
        ...

    def encode_text(self, base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
        """Embeddings for each text, without a batch axis and without gradients, one text at a time."""
        ...

    def encode_image(self, base: Base, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the VAE's posterior, fp32, unscaled; pixels in [-1, 1]."""
        ...

    def predict(
        self,
        base: Base,
        noisy_BCHW: Tensor,
        times_B: Tensor,
        text: Text,
        sizes_B6: Tensor | None,
        guidance: float,
        /,
    ) -> Tensor:
        """The network's prediction for noisy latents, in their shape.

        times_B: timesteps (DDPM), or s in (0, 1] (flow). sizes_B6: original height and width, top and left of the crop,
        target height and width; only SDXL uses it. guidance: only for Flux with a guidance embedding.
        """
        ...

    def targets(self, network: nn.Module, kind: TargetKind, conv: bool) -> list[str]:
        """Full names of the modules that get LoRA pairs."""
        ...

    def text_targets(self, encoder: nn.Module) -> list[str]: ...

    def save(self, base: Base, folder: Path) -> None:
        """Writes a folder that `load` and stock diffusers open."""
        ...


@cache
def family_module(name: str) -> Family:
    """Imports one family only: each needs other classes of diffusers and transformers, which take seconds to import."""
    module: Any = importlib.import_module(f"trainers.image.models.{name}")
    family: Family = module
    return family


def load_base(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Base:
    """The base model of `folder` (diffusers layout, safetensors) in `dtype`, frozen, on `device`.

    Raises TrainerError(BAD_BASE_MODEL) that names the pipeline of the folder and the supported ones.
    """
    family = family_of(folder)
    with bad_files():
        ignored_log(pipeline_keys_ignored(folder))
    base = family.load(folder, dtype, device)
    for index, (tokenizer, encoder) in enumerate(zip(base.tokenizers, base.text_encoders, strict=True), start=1):
        special_tokens_check(tokenizer, int(encoder.config.vocab_size), f"tokenizer {index}")
    return base


def family_of(folder: Path) -> Family:
    """The family of the base model in `folder`: by its pipeline class, 1.x and 2.x by the width of the text encoder."""
    pipeline = model_index(folder).get("_class_name")
    name = pipeline_family(pipeline)
    if name is None:
        supported = ", ".join(f"{family.title} ({family.pipeline})" for family in FAMILIES.values())
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"expected {supported}, found {pipeline or 'no _class_name'} in {folder.name}/model_index.json",
        )
    if name == "sd1" and (folder / "text_encoder").is_dir():
        name = pipeline_family(pipeline, part_config(folder, "text_encoder").get("hidden_size"))
    return family_module(str(name))
