"""Parameters of `image_lora`. Only what the trainer implements is listed; rules between fields: image_lora_rules.py."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from formats.datasets.splits import split_chosen
from formats.models.image_families import FAMILIES
from foundation.plain_text import PlainLine
from trainers.contract.params.base import SPLIT, Params, Product, SecretNames
from trainers.contract.params.image_lora_rules import (
    family_problem,
    fields_agree,
    probably_not_meant,
    without_form_warmup,
)
from trainers.contract.params.sample_image import DEFAULT_FLUX_GUIDANCE, DEFAULT_GUIDANCE

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs

OptimizerName = Literal["adamw", "adamw8bit", "prodigy", "adafactor", "lion"]
DEFAULT_RATES: dict[OptimizerName, float] = {
    "adamw": 1e-4,
    "adamw8bit": 1e-4,
    "prodigy": 1.0,
    "adafactor": 1e-4,
    "lion": 3e-5,
}


class ImageLoraParams(Params):
    """Trains a LoRA adaptor of an image diffusion model on images with captions."""

    method: ClassVar[str] = "image_lora"
    summary: ClassVar[str] = (
        "Train a LoRA adaptor of a Stable Diffusion 1.x, 2.x, XL, 3 or Flux model on images with captions."
    )
    entry: ClassVar[str] = "trainers.methods.image_lora:train"
    product: ClassVar[Product] = "adaptor"
    requires: ClassVar[tuple[str, ...]] = ("dataset", "model")
    accepts: ClassVar[tuple[str, ...]] = ("adaptors", "further_datasets", "class_dataset")
    max_adaptors: ClassVar[int | None] = 1
    dataset_kind: ClassVar[Literal["images", "text"] | None] = "images"
    model_families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)

    foreign_names: ClassVar[dict[str, str]] = {"eval_steps": "eval_every_epochs"}

    adaptor_name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the adaptor that the job makes; a second job of the same name makes its next version."""
    trigger_word: PlainLine = Field("", max_length=100)
    """Put before every caption as "{trigger}, {caption}"; kept when the caption is dropped."""

    num_train_epochs: int = Field(100, ge=1, le=1000)
    """How often every image is seen; max_train_steps wins over it."""
    max_train_steps: int | None = Field(None, ge=1, le=1_000_000)
    """Optimizer steps in all; none = as many as num_train_epochs needs."""
    train_batch_size: int = Field(1, ge=1, le=1024)
    """Images per process and micro-batch."""
    gradient_accumulation_steps: int = Field(1, ge=1, le=32)
    """Micro-batches per optimizer step; the gradient is that of one large batch."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of every random draw of the job."""
    checkpoint_every_steps: int = Field(500, ge=1)
    """Optimizer steps between two checkpoints; a checkpoint is also written when the job is stopped."""
    keep_checkpoints: int = Field(3, ge=1, le=100)
    """How many of the latest checkpoints are kept."""

    optimizer: OptimizerName = "adamw"
    """adamw8bit keeps its state in 8 bits; prodigy finds the rate itself; adafactor needs the least memory."""
    learning_rate: float | None = Field(None, ge=1e-7, le=1.0)
    """Rate after the warm-up; none = 1e-4, prodigy 1.0 (it scales what it finds), lion 3e-5."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment; of lion's step."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment; of lion's momentum, where 0.99 is usual."""
    adam_weight_decay: float = Field(0.01, ge=0, le=1)
    """Decoupled weight decay."""
    adam_epsilon: float = Field(1e-8, gt=0, le=1)
    """Term added to the denominator of AdamW and prodigy."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""
    lr_scheduler: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "constant"
    """How the learning rate goes on after the warm-up: linear and cosine fall to 0 at the last step."""
    lr_warmup_steps: int | None = Field(None, ge=0)
    """Steps in which the rate rises from 0; none = 50 where the schedule warms up (all but constant)."""

    resolution: int = Field(512, ge=64, le=1024, multiple_of=8)
    """Side of the square that an image is cropped to, in pixels; a multiple of 16 for SD3 and Flux."""
    center_crop: bool = False
    """Crop the middle; otherwise one of 4 places per image is drawn anew each time."""
    random_flip: bool = False
    """Mirror half of the images, drawn anew each time."""
    image_interpolation_mode: Literal["lanczos", "bilinear", "bicubic", "nearest"] = "lanczos"
    """Filter of the resize that brings the shorter side to the resolution."""
    aspect_ratio_buckets: bool = False
    """Sort images into shapes of about resolution x resolution pixels in all, instead of cropping squares."""
    color_jitter: bool = False
    """Change brightness, contrast, saturation and hue of each image a little, drawn anew each time."""
    color_jitter_brightness: float = Field(0.1, ge=0, le=1)
    """Brightness is multiplied by 1 +- this."""
    color_jitter_contrast: float = Field(0.1, ge=0, le=1)
    """Contrast is multiplied by 1 +- this."""
    color_jitter_saturation: float = Field(0.1, ge=0, le=1)
    """Saturation is multiplied by 1 +- this."""
    color_jitter_hue: float = Field(0.05, ge=0, le=0.5)
    """Hue is turned by +- this share of the circle."""
    random_rotation: bool = False
    """Turn some images by a small angle, drawn anew each time."""
    rotation_degrees: float = Field(5.0, ge=1, le=45)
    """The angle is drawn from +- this."""
    rotation_prob: float = Field(0.3, ge=0, le=1)
    """Share of the images that are turned."""

    split: str = Field("train", pattern=SPLIT)
    """Split of each dataset that is trained on, of those that its folders are named by: train, validation, test, ...
    A dataset whose folders name none is read as a whole."""
    image_column: str = Field("image", min_length=1)
    """Column of the metadata that holds the image; `image` also matches the usual file_name."""
    caption_column: str = Field("text", min_length=1)
    """Column of the metadata that holds the caption."""
    caption_dropout_rate: float = Field(0.0, ge=0, le=1)
    """Share of captions replaced by nothing (or by the trigger word alone)."""
    caption_shuffle: bool = False
    """Put the comma-separated parts of a caption into one of 8 orders, drawn anew each time."""
    keep_tokens: int = Field(0, ge=0, le=100)
    """So many parts at the front of a caption stay where they are in caption_shuffle; the trigger word always does."""
    repeats: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = ()
    """How often an epoch sees each dataset: the job's dataset first, then its further ones; empty = once each."""
    masked_loss: Literal["none", "alpha", "mask_column"] = "none"
    """Learn little where a mask is dark: the image's own alpha channel, or an image that a column names."""
    mask_column: str = Field("mask", min_length=1)
    """Column of the metadata that names the mask."""
    unmasked_weight: float = Field(0.1, ge=0, le=1)
    """Weight of the loss where the mask is black; where it is white the weight is 1."""

    lora_r: int = Field(8, ge=4, le=128)
    """Inner width of the LoRA pair; 8 to 16 suit one subject or style."""
    lora_alpha: int = Field(16, ge=4, le=128)
    """The update is scaled by lora_alpha / lora_r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the LoRA pair."""
    lora_targets: Literal["attention", "attention+ff", "all-linear"] = "attention"
    """Which linear layers of the network get a pair."""
    conv_rank: int = Field(0, ge=0, le=128)
    """Inner width of pairs on the convolutions of a UNet, scaled as the others are; 0 = none."""
    use_dora: bool = False
    """Learn the length of each weight vector apart from its direction (DoRA)."""
    train_text_encoder: bool = False
    """Pairs on the attention of the CLIP text encoders too; T5 is never trained."""
    text_encoder_learning_rate: float | None = Field(None, ge=1e-8, le=1.0)
    """Rate of the text encoders' pairs; none = a tenth of the other rate; with prodigy the same."""

    clip_skip: int = Field(0, ge=0, le=11)
    """So many of the last layers of the CLIP text encoders are left out."""
    max_sequence_length: int | None = Field(None, ge=1, le=512)
    """Tokens of a caption that T5 reads; none = 256 for SD3, 512 for Flux."""
    flux_guidance: float = Field(1.0, ge=0, le=100)
    """Guidance that Flux is told in training."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What the network predicts; none = what the base model's scheduler says."""
    loss_type: Literal["l2", "huber"] = "l2"
    """huber grows like l2 near 0 and like l1 far away, so outliers weigh less."""
    huber_c: float = Field(0.1, gt=0, le=10)
    """Where huber turns from l2 to l1."""
    snr_gamma: float | None = Field(None, gt=0, le=100)
    """min-SNR loss weighting (5 is usual); none = every timestep weighs the same."""
    noise_offset: float = Field(0.0, ge=0, le=1)
    """Adds c x N(0, 1) per image and channel to the noise, for darker darks and brighter lights."""
    prior_preservation: bool = False
    """Train on images of the class as well, so that the base model does not forget what it knew of it."""
    class_prompt: str = Field("", max_length=2000)
    """Caption of the class images, as "a photo of a dog"."""
    num_class_images: int = Field(100, ge=1, le=10_000)
    """Class images used; those that no class dataset gives are made by the base model before the training."""
    prior_weight: float = Field(1.0, gt=0, le=100)
    """Weight of the class images' mean loss beside that of the others."""
    timestep_sampling: Literal["uniform", "logit_normal", "mode", "cosmap"] = "logit_normal"
    """How SD3 and Flux draw the time of a sample."""
    timestep_shift: float | None = Field(None, ge=0.1, le=20)
    """Moves the times of SD3 and Flux towards noise; none = 3 for SD3, by the image's size for Flux; 1 = no shift."""

    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """Compute dtype of the frozen base; LoRA weights and optimizer state stay fp32. auto = bf16 where the accelerator
    has it, else no: chosen at the first start and kept on resume. no = fp32, with TF32 matrix products on an
    accelerator that has them."""
    base_quantization: Literal["none", "int8", "nf4"] = "none"
    """Keep the linear layers of the frozen network in 8 or 4 bits, for small cards."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more work."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """Implementation of attention; xformers must be installed on the worker."""
    use_ema: bool = False
    """Keep a moving average of the LoRA weights; samples, validation and the adaptor are made with it."""
    ema_decay: float = Field(0.9999, ge=0.9, le=0.9999)
    """Share of the average that stays at each step; smaller in the first steps, (1 + n) / (10 + n)."""
    cache_latents: bool = True
    """Encode every image once, before the training; off = at every step, which is slower."""
    cache_text_embeddings: bool = True
    """Encode every caption once, before the training; off = at every step, which is slower."""
    compile: bool = False
    """Compile the network, on an accelerator: the first step of each shape takes minutes, the others are faster."""

    eval_prompt: str = Field("", max_length=10_000)
    """Prompts of the sample images, one a line; empty = no samples."""
    eval_negative_prompt: str = Field("", max_length=2000)
    """What the sample images shall not show."""
    eval_every_epochs: int = Field(1, ge=1)
    """Epochs between two evaluations; eval_every_steps wins over it."""
    eval_every_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two evaluations."""
    eval_num_inference_steps: int = Field(50, ge=1, le=100)
    """Denoising steps of a sample image."""
    eval_guidance_scale: float | None = Field(None, ge=1, le=20)
    """Classifier-free guidance of the sample images; 1 = off; none = 7.5, for Flux, which is told it, 3.5."""
    eval_seed: int = Field(42, ge=0, lt=2**32)
    """Seed of the sample images, the same at each evaluation, so that they compare."""
    validation_split: float = Field(0.0, ge=0, le=0.5)
    """Share of the images held out for a validation loss with fixed noise and timesteps."""

    no_metadata: bool = False
    """Leave what was trained, how and on what out of the header of the kohya file."""
    log_to_tensorboard: bool = True
    """Write TensorBoard files beside the adaptor."""
    log_to_wandb: bool = False
    """Send metrics and images to Weights & Biases; without a key the run is kept in files beside the adaptor."""
    wandb_project: str = Field("", max_length=128, pattern=r"^[^/\\#?%:]*$")
    """Project there; empty = WANDB_PROJECT of the worker, or anneal."""
    secrets: SecretNames = ()
    """Project secrets that the job is given; one of kind wandb holds the key for log_to_wandb."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - `lr_warmup_steps` is refused with `lr_scheduler` constant, which has no warm-up.
        - `num_train_epochs` is refused with `max_train_steps`, which wins over it.
        - `lr_warmup_steps` may not be more than `max_train_steps`.
        - `color_jitter_*` need `color_jitter`, `rotation_*` need `random_rotation`.
        - `keep_tokens` needs `caption_shuffle`.
        - `mask_column` needs `masked_loss` mask_column, `unmasked_weight` needs any `masked_loss`.
        - `text_encoder_learning_rate` needs `train_text_encoder`, `huber_c` needs `loss_type` huber.
        - `class_prompt`, `num_class_images` and `prior_weight` need `prior_preservation`, which needs `class_prompt`.
        - `text_encoder_learning_rate` is `learning_rate` with prodigy, which finds one rate for all.
        - `eval_negative_prompt`, `eval_num_inference_steps`, `eval_guidance_scale` and `eval_seed` need `eval_prompt`.
        - `eval_every_steps` and `eval_every_epochs` need `eval_prompt` or `validation_split`; only one of them counts.
        - `ema_decay` needs `use_ema`; `wandb_project` and `secrets` need `log_to_wandb`.
        - `adam_beta1` and `adam_beta2` are refused with adafactor, `adam_epsilon` with adafactor and lion.
        - `snr_gamma`, `noise_offset` and `prediction_type` are refused for SD3 and Flux, `timestep_*` for the others.
        """
        fields_agree(self)
        return self

    def check_inputs(self, inputs: "Inputs") -> None:
        count = 1 + len(inputs.further_datasets)
        if self.repeats and len(self.repeats) != count:
            raise ValueError(
                f"repeats has {len(self.repeats)} values for {count} datasets; give one each, inputs.dataset first"
            )
        if inputs.class_dataset and not self.prior_preservation:
            raise ValueError(
                "inputs.class_dataset does nothing with prior_preservation=false; "
                "set prior_preservation=true, or leave the class dataset out"
            )

    @classmethod
    def imported(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        return without_form_warmup(values)

    @property
    def product_name(self) -> str:
        return self.adaptor_name

    @property
    def product_trigger_word(self) -> str:
        return self.trigger_word

    @property
    def random_seed(self) -> int:
        return self.seed

    @property
    def max_checkpoints(self) -> int:
        return self.keep_checkpoints

    @property
    def secret_names(self) -> SecretNames:
        return self.secrets

    def split_of(self, splits: Sequence[str]) -> str:
        return split_chosen(splits, self.split)

    @property
    def rate(self) -> float:
        """Learning rate of the network's pairs."""
        return DEFAULT_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def text_encoder_rate(self) -> float:
        """Learning rate of the text encoders' pairs."""
        if self.text_encoder_learning_rate is not None:
            return self.text_encoder_learning_rate
        return self.rate if self.optimizer == "prodigy" else 0.1 * self.rate

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up that really happen."""
        if self.lr_scheduler == "constant":
            return 0
        return 50 if self.lr_warmup_steps is None else self.lr_warmup_steps

    @property
    def eval_prompts(self) -> list[str]:
        return [line.strip() for line in self.eval_prompt.splitlines() if line.strip()]

    def eval_guidance(self, family: str) -> float:
        """eval_guidance_scale with its default filled in."""
        return self.eval_guidance_scale or (DEFAULT_FLUX_GUIDANCE if family == "flux" else DEFAULT_GUIDANCE)

    def evaluation_forwards(self, family: str = "") -> int:
        """Forwards of the network, for one image each, that one round of sample images costs; Flux has no two."""
        guided = 2 if family != "flux" and self.eval_guidance(family) > 1 else 1
        return len(self.eval_prompts) * self.eval_num_inference_steps * guided

    def libraries(self) -> tuple[str, ...]:
        requested = {
            "bitsandbytes": self.optimizer == "adamw8bit" or self.base_quantization == "nf4",
            "torchao": self.base_quantization == "int8",
            "wandb": self.log_to_wandb,
            "xformers": self.attention == "xformers",
        }
        return tuple(name for name, is_requested in requested.items() if is_requested)

    def connects(self) -> bool:
        return self.log_to_wandb

    def shows(self) -> bool:
        return bool(self.eval_prompts or self.validation_split)

    def family_problem(self, family: str) -> str:
        return family_problem(self, family)

    def warnings(self) -> list[str]:
        return probably_not_meant(self)
