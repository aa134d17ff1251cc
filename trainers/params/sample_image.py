"""Parameters of `sample_image`."""

from typing import ClassVar, Literal

from pydantic import Field

from trainers.params.base import Params


class SampleImageParams(Params):
    """Makes pictures from text with a base model and any number of adaptors."""

    method: ClassVar[str] = "sample_image"
    summary: ClassVar[str] = "Make pictures from text with a base model and any number of adaptors."
    entry: ClassVar[str] = "trainers.methods.sample_image:sample"
    product: ClassVar[Literal["adaptor", "samples"]] = "samples"
    requires: ClassVar[tuple[str, ...]] = ("model",)
    accepts: ClassVar[tuple[str, ...]] = ("adaptors",)

    prompt: str = Field(min_length=1, max_length=2000)
    """What the picture shall show."""
    negative_prompt: str = Field("", max_length=2000)
    """What it shall not show."""
    adaptor_scales: tuple[float, ...] = ()
    """Strength of each adaptor in the order of the job's adaptors; empty = 1.0 each."""
    num_inference_steps: int = Field(30, ge=1, le=1000)
    """Denoising steps."""
    guidance_scale: float = Field(7.5, ge=1, le=50)
    """Classifier-free guidance; 1 = off."""
    width: int | None = Field(None, ge=64, le=2048, multiple_of=8)
    """Pixels; none = the base model's own size."""
    height: int | None = Field(None, ge=64, le=2048, multiple_of=8)
    """Pixels; none = the base model's own size."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Picture i is drawn from seed + i, so that each can be made again alone."""
    num_images: int = Field(1, ge=1, le=8)
    """Pictures to make."""
    scheduler: Literal["default", "ddim", "euler", "dpm++_2m"] = "default"
    """Sampler; default = the base model's own. The base's prediction type and betas are kept."""
    compare: bool = False
    """Render base, adaptor, and adaptor + trigger word with the same seeds side by side; needs an adaptor."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Compute dtype of the pipeline."""
