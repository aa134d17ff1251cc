"""Parameters of `image_lora`. Only what the trainer implements today is listed."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainers.params.base import Params


class ImageLoraParams(Params):
    """Trains a LoRA adaptor of an image diffusion model on pictures with captions."""

    method: ClassVar[str] = "image_lora"
    summary: ClassVar[str] = "Train a LoRA adaptor of a Stable Diffusion 1.x model on pictures with captions."
    entry: ClassVar[str] = "trainers.methods.image_lora:train"
    product: ClassVar[Literal["adaptor", "samples"]] = "adaptor"
    requires: ClassVar[tuple[str, ...]] = ("dataset", "model")
    dataset_kind: ClassVar[Literal["pictures"]] = "pictures"

    adaptor_name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the adaptor that the job makes; a second job of the same name makes its next version."""
    trigger_word: str = Field("", max_length=100)
    """Put before every caption as "{trigger}, {caption}"; kept when the caption is dropped."""

    num_train_epochs: int = Field(100, ge=1, le=1000)
    """How often every picture is seen; max_train_steps wins over it."""
    max_train_steps: int | None = Field(None, ge=1, le=1_000_000)
    """Optimizer steps in all; none = as many as num_train_epochs needs."""
    train_batch_size: int = Field(1, ge=1, le=1024)
    """Pictures per process and micro-batch."""
    gradient_accumulation_steps: int = Field(1, ge=1, le=32)
    """Micro-batches per optimizer step; the gradient is that of one large batch."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of every random draw of the job."""
    checkpoint_every_steps: int = Field(500, ge=1)
    """Optimizer steps between two checkpoints; a checkpoint is also written when the job is stopped."""
    keep_checkpoints: int = Field(3, ge=1, le=100)
    """How many of the latest checkpoints are kept."""

    learning_rate: float = Field(1e-4, ge=1e-7, le=1.0)
    """Rate of AdamW after the warm-up."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = Field(0.01, ge=0, le=1)
    """Decoupled weight decay."""
    adam_epsilon: float = Field(1e-8, gt=0, le=1)
    """Term added to AdamW's denominator."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""
    lr_scheduler: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "constant"
    """How the learning rate goes on after the warm-up: linear and cosine fall to 0 at the last step."""
    lr_warmup_steps: int | None = Field(None, ge=0)
    """Steps in which the rate rises from 0; none = 50 where the schedule warms up (all but constant)."""

    resolution: int = Field(512, ge=64, le=1024, multiple_of=8)
    """Side of the square that a picture is cropped to, in pixels."""
    center_crop: bool = False
    """Crop the middle; otherwise one of 4 places per picture is drawn anew each time."""
    random_flip: bool = False
    """Mirror half of the pictures, drawn anew each time."""
    image_interpolation_mode: Literal["lanczos", "bilinear", "bicubic", "nearest"] = "lanczos"
    """Filter of the resize that brings the shorter side to the resolution."""

    image_column: str = Field("image", min_length=1)
    """Column of the metadata that holds the picture; `image` also matches the usual file_name."""
    caption_column: str = Field("text", min_length=1)
    """Column of the metadata that holds the caption."""
    caption_dropout_rate: float = Field(0.0, ge=0, le=1)
    """Share of captions replaced by nothing (or by the trigger word alone)."""

    lora_r: int = Field(8, ge=4, le=128)
    """Inner width of the LoRA pair; 8 to 16 suit one subject or style."""
    lora_alpha: int = Field(16, ge=4, le=128)
    """The update is scaled by lora_alpha / lora_r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the LoRA pair."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What the network predicts; none = what the base model's scheduler says."""
    snr_gamma: float | None = Field(None, gt=0, le=100)
    """min-SNR loss weighting (5 is usual); none = every timestep weighs the same."""
    noise_offset: float = Field(0.0, ge=0, le=1)
    """Adds c x N(0, 1) per picture and channel to the noise, for darker darks and brighter lights."""

    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Compute dtype of the frozen base; LoRA weights and optimizer state stay fp32."""

    eval_prompt: str = Field("", max_length=10_000)
    """Prompts of the sample pictures, one a line; empty = no samples."""
    eval_negative_prompt: str = Field("", max_length=2000)
    """What the sample pictures shall not show."""
    eval_every_epochs: int = Field(1, ge=1)
    """Epochs between two evaluations; eval_every_steps wins over it."""
    eval_every_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two evaluations."""
    eval_num_inference_steps: int = Field(50, ge=1, le=100)
    """Denoising steps of a sample picture."""
    eval_guidance_scale: float = Field(7.5, ge=1, le=20)
    """Classifier-free guidance of the sample pictures; 1 = off."""
    eval_seed: int = Field(42, ge=0, lt=2**63)
    """Seed of the sample pictures, the same at each evaluation, so that they compare."""
    validation_split: float = Field(0.0, ge=0, le=0.5)
    """Share of the pictures held out for a validation loss with fixed noise and timesteps."""

    log_to_tensorboard: bool = True
    """Write TensorBoard files beside the adaptor."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - `lr_warmup_steps` is refused with `lr_scheduler` constant, which has no warm-up.
        - `lr_warmup_steps` may not be more than `max_train_steps`.
        """
        if self.lr_scheduler == "constant" and self.lr_warmup_steps:
            raise ValueError(
                f"lr_warmup_steps={self.lr_warmup_steps} does nothing with lr_scheduler='constant'; "
                "choose lr_scheduler='constant_with_warmup', or leave lr_warmup_steps empty"
            )
        if self.max_train_steps and self.lr_warmup_steps and self.lr_warmup_steps > self.max_train_steps:
            raise ValueError(
                f"lr_warmup_steps={self.lr_warmup_steps} is more than max_train_steps={self.max_train_steps}; "
                "lower lr_warmup_steps"
            )
        return self

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up that really happen."""
        if self.lr_scheduler == "constant":
            return 0
        return 50 if self.lr_warmup_steps is None else self.lr_warmup_steps

    @property
    def eval_prompts(self) -> list[str]:
        return [line.strip() for line in self.eval_prompt.splitlines() if line.strip()]

    def warnings(self) -> list[str]:
        found = []
        if self.eval_prompts and self.eval_num_inference_steps < 10:
            found.append(f"eval_num_inference_steps={self.eval_num_inference_steps} is below 10: samples will be rough")
        if self.max_train_steps and self.warmup_steps >= self.max_train_steps:
            found.append(
                f"the warm-up of {self.warmup_steps} steps fills all {self.max_train_steps} steps, so learning_rate is "
                "hardly reached; lower lr_warmup_steps"
            )
        return found
