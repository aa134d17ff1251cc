"""Parameters of `sample_image`."""

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from formats.models.image_families import FAMILIES, FLOW_FAMILIES
from trainers.contract.params.base import ImageSampling, Params, Product, scales_check

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs

Family = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]
MAX_SIDE = 2048
DEFAULT_GUIDANCE, DEFAULT_FLUX_GUIDANCE = 7.5, 3.5
DEFAULT_STRENGTH, DEFAULT_INPAINT_STRENGTH = 0.8, 1.0
FLOW_SCHEDULERS = ("default", "euler")
FLOW_MULTIPLE = 16
"""Sides of images of flow families; the others' are multiples of 8."""


class SampleImageParams(Params):
    """Makes images from text, from another image, or inside a mask, with any number of adaptors."""

    method: ClassVar[str] = "sample_image"
    summary: ClassVar[str] = "Make images from text or from another image, with any number of adaptors."
    entry: ClassVar[str] = "trainers.methods.sample_image:sample"
    product: ClassVar[Product] = "samples"
    requires: ClassVar[tuple[str, ...]] = ("model",)
    accepts: ClassVar[tuple[str, ...]] = ("adaptors", "dataset")
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "images"
    model_families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)
    dataset_files: ClassVar[tuple[str, ...]] = ("input_image", "mask_image")
    chooses_sampler: ClassVar[bool] = True
    prompt_field: ClassVar[str] = "prompt"
    resident_fields: ClassVar[tuple[str, ...]] = ("mixed_precision",)

    prompt: str = Field(min_length=1, max_length=2000)
    """What the image shall show; past 75 tokens in chunks of 75, up to 225."""
    negative_prompt: str = Field("", max_length=2000)
    """What it shall not show; Flux knows none."""
    adaptor_scales: tuple[float, ...] = ()
    """Strength of each adaptor in the order of the job's adaptors; empty = 1.0 each."""
    num_inference_steps: int = Field(30, ge=1, le=1000)
    """Denoising steps; with an input image only strength x so many: whole ones, SD3 and Flux one for the rest too."""
    guidance_scale: float | None = Field(None, ge=1, le=50)
    """How strongly the prompt is followed; 1 = classifier-free guidance off; none = 7.5, Flux 3.5 (its embedding)."""
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    """Takes back the contrast that guidance adds; 0.7 suits bases with zero-terminal SNR."""
    clip_skip: int | None = Field(None, ge=0, le=11)
    """Layers of CLIP left out at its end; none = as the first adaptor that says it was trained, or else 0."""
    max_sequence_length: int | None = Field(None, ge=1, le=512)
    """Tokens for T5; none = SD3 256, Flux 512."""
    width: int | None = Field(None, ge=64, le=MAX_SIDE, multiple_of=8)
    """Pixels, for SD3 and Flux a multiple of 16; none = the input image's, or else the base model's own size."""
    height: int | None = Field(None, ge=64, le=MAX_SIDE, multiple_of=8)
    """Pixels, for SD3 and Flux a multiple of 16; none = the input image's, or else the base model's own size."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Image i is drawn from seed + i, as diffusers does, so that each can be made again alone."""
    num_images: int = Field(1, ge=1, le=8)
    """Images to make, as one batch."""
    scheduler: Literal["default", "euler", "euler_a", "lms", "dpm++_2m", "ddim", "unipc"] = "default"
    """Sampler; default = the base model's own; SD3 and Flux: default or euler. Prediction type and betas are kept."""
    input_image: str | None = Field(None, min_length=1, max_length=300)
    """File of the job's dataset that the image starts from (image to image); none = from noise."""
    mask_image: str | None = Field(None, min_length=1, max_length=300)
    """File of the job's dataset that says where the input image is painted anew: white = repaint, black = keep."""
    strength: float | None = Field(None, gt=0, le=1)
    """How far the input image is dissolved in noise first; none = 0.8, with a mask 1.0."""
    intermediate_every: int | None = Field(None, ge=1, le=1000)
    """Shows what is denoised after every so many steps; none = only the end."""
    compare: bool = False
    """Render base, adaptor, and adaptor + trigger word with the same seeds side by side; needs an adaptor."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Compute dtype of the pipeline."""

    def check_inputs(self, inputs: "Inputs") -> None:
        scales_check("adaptor_scales", self.adaptor_scales, inputs)
        if self.compare and not inputs.adaptors:
            raise ValueError("compare=true shows what an adaptor changes, but inputs.adaptors is empty; give one")
        if self.input_image and not inputs.dataset:
            raise ValueError(
                f"input_image={self.input_image!r} names a file of the job's dataset, but it has none; give one"
            )
        if inputs.dataset and not self.input_image:
            raise ValueError("there is a dataset, but input_image is empty; name the image to start from")

    @property
    def random_seed(self) -> int:
        return self.seed

    def image_sampling(self) -> ImageSampling:
        seeds = tuple(self.seed + index for index in range(self.num_images))
        return ImageSampling(self.prompt, self.negative_prompt, seeds, self.compare, self.adaptor_scales)

    @property
    def start_strength(self) -> float:
        return self.strength or (DEFAULT_INPAINT_STRENGTH if self.mask_image else DEFAULT_STRENGTH)

    def num_denoising_steps(self, *, is_flow: bool) -> int:
        """Steps that are made."""
        strength = self.start_strength if self.input_image else 1.0
        return strength_steps(self.num_inference_steps, strength, is_flow=is_flow)

    def guidance(self, family: str) -> float:
        return self.guidance_scale or (DEFAULT_FLUX_GUIDANCE if family == "flux" else DEFAULT_GUIDANCE)

    def family_problem(self, family: str) -> str:
        flow = family in FLOW_FAMILIES
        for name, side in (("width", self.width), ("height", self.height)):
            if flow and side and side % FLOW_MULTIPLE:
                return f"{name}={side} must be a multiple of {FLOW_MULTIPLE} for a base model of the family {family}"
        if flow and self.scheduler not in FLOW_SCHEDULERS:
            return f"scheduler={self.scheduler} is none of the family {family}; choose {' or '.join(FLOW_SCHEDULERS)}"
        if problem := self._steps_problem(is_flow=flow):
            return problem
        if not flow and self.max_sequence_length:
            return f"max_sequence_length is for T5, which the family {family} has not; leave it out"
        if family != "flux":
            return ""
        idle = ("negative_prompt", "guidance_rescale", "clip_skip")
        named = [f"{name}={value!r}" for name in idle if (value := getattr(self, name))]
        return f"{named[0]} does nothing for Flux, which has no classifier-free guidance; leave it out" if named else ""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if not self.input_image:
            for name in ("mask_image", "strength"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}={getattr(self, name)!r} needs input_image, which is empty")
        if problem := self._steps_problem(is_flow=True):  # the kind that makes more steps, for as long as none is known
            raise ValueError(problem)
        if self.guidance_scale == 1 and (idle := self.negative_prompt or self.guidance_rescale):
            name = "negative_prompt" if self.negative_prompt else "guidance_rescale"
            raise ValueError(f"{name}={idle!r} does nothing with guidance_scale=1, which turns guidance off")
        return self

    def _steps_problem(self, *, is_flow: bool) -> str:
        steps, every = self.num_denoising_steps(is_flow=is_flow), self.intermediate_every
        if steps < 1:
            product = f"strength={self.start_strength} of num_inference_steps={self.num_inference_steps}"
            return f"{product} is less than one step; raise one of them"
        if every and every >= steps:
            return f"intermediate_every={every} shows nothing in {steps} denoising steps; lower it"
        return ""


def strength_steps(num_inference_steps: int, strength: float, *, is_flow: bool) -> int:
    """Whole steps, counted so that 0.29 of 100 is 29; flow models round up, others down, as in diffusers."""
    steps = round(num_inference_steps * strength, 6)
    return math.ceil(steps) if is_flow else math.floor(steps)
