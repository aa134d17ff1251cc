"""A base model in memory, whatever its family."""

from dataclasses import dataclass
from typing import Any

from trainers.models.schedulers import scheduler_of


@dataclass
class Base:
    """The live parts of one base model, frozen and in eval mode; whoever holds a Base shares its weights."""

    family: str
    """Name of the module in `trainers.models` that knows this architecture: "sd1"."""
    network: Any  # diffusers and transformers have no types that mypy can use
    """The denoiser that LoRA pairs sit on: a UNet or a transformer."""
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any]
    """The base's own scheduler_config.json, with `_class_name`."""
    pipeline_class: Any

    def pipeline(self) -> Any:
        """A new diffusers pipeline around these very components: nothing is copied or read again."""
        return self.pipeline_class(
            unet=self.network,
            vae=self.vae,
            text_encoder=self.text_encoders[0],
            tokenizer=self.tokenizers[0],
            scheduler=scheduler_of(self.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
