"""A base model in memory, whatever its family."""

from dataclasses import dataclass, field
from typing import Any, Literal

import diffusers
from torch import nn

from formats.models.image_families import FAMILIES
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.schedulers import scheduler_of


@dataclass(frozen=True)
class TextSettings:
    """How texts become embeddings."""

    clip_skip: int = 0
    """Layers of CLIP left out at its end, as diffusers counts them: 0 = as the family was trained."""
    max_sequence_length: int | None = None
    """Tokens for T5; None = the family's own."""
    min_chunks: int = 1
    """A text fills at least so many chunks of 75 tokens, so that texts of unequal length become equally long."""


@dataclass
class Base:
    """The live parts of one base model, frozen and in eval mode; whoever holds a Base shares its weights."""

    family: str
    """Name of the module in `trainers.image.models` that knows this architecture: "sd1"."""
    network: Any  # diffusers and transformers have no types that mypy can use
    """The denoiser that LoRA pairs sit on: a UNet or a transformer."""
    vae: Any
    text_encoders: tuple[Any, ...]
    """In the order of the pipeline's text_encoder, text_encoder_2, ...; one that the base came without is left out."""
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any]
    """The base's own scheduler_config.json, with `_class_name`."""
    pipeline_config: dict[str, Any] = field(default_factory=dict)
    """What the pipeline is built with beside its parts: SDXL's force_zeros_for_empty_prompt."""

    @property
    def network_part(self) -> str:
        """Folder of the network in the diffusers layout, and the prefix of its keys in adaptor files."""
        return FAMILIES[self.family].network

    @property
    def pipeline_class(self) -> str:
        """The class of diffusers for text to image, by name: importing it takes seconds, and only saving needs it."""
        return FAMILIES[self.family].pipeline

    def parts(self) -> dict[str, Any]:
        """The pipeline's parts by name, without the scheduler; None for what the base came without."""
        parts = {self.network_part: self.network, "vae": self.vae}
        for kind, modules in (("text_encoder", self.text_encoders), ("tokenizer", self.tokenizers)):
            parts |= {part_name(kind, index): module for index, module in enumerate(modules)}
        return dict.fromkeys(FAMILIES[self.family].optional) | parts

    def pipeline(self) -> Any:
        """A new diffusers pipeline around these very components: nothing is copied or read again."""
        pipeline = getattr(diffusers, self.pipeline_class)
        return pipeline(**self.parts(), scheduler=scheduler_of(self.scheduler_config), **self.pipeline_config)


def part_name(kind: str, index: int) -> str:
    """text_encoder, text_encoder_2, ... of `index` 0, 1, ..."""
    return f"{kind}_{index + 1}" if index else kind


TargetKind = Literal["attention", "attention+ff", "all-linear"]
CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def named_targets(
    network: nn.Module, kind: TargetKind, attention: tuple[str, ...], feed_forward: tuple[str, ...]
) -> list[str]:
    """Full names of linear modules, sorted: those that end as `attention` says, also as `feed_forward` says, or all."""
    endings = {"attention": attention, "attention+ff": attention + feed_forward, "all-linear": ("",)}[kind]
    return sorted(n for n, module in network.named_modules() if isinstance(module, nn.Linear) and n.endswith(endings))


def convolutions(network: nn.Module) -> list[str]:
    """Every convolution but the first and the last of the network, sorted."""
    outer = ("conv_in", "conv_out")
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and name not in outer]
    return sorted(names)


def no_convolutions(title: str) -> None:
    raise TrainerError(
        ReasonCode.BAD_PARAMETERS, f"conv_rank has nothing to act on: {title} has no convolutions; set conv_rank=0"
    )


def clip_targets(encoder: nn.Module) -> list[str]:
    """The four projections of each of CLIP's attention layers."""
    return sorted(
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and ".self_attn." in name and name.endswith(CLIP_ATTENTION)
    )
