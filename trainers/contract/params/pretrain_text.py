"""Parameters of `pretrain_text`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from formats.datasets.splits import split_chosen
from trainers.contract.params.base import SPLIT, Params, Product

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs

NETWORK = (
    "architecture",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "rope_theta",
    "tie_word_embeddings",
)
"""Fields that describe a new network."""


class PretrainTextParams(Params):
    """Trains a text-diffusion model from scratch on a corpus, or goes on with the weights of a base model.

    The documents of the corpus are tokenized ahead of the step, joined with end-of-text tokens and cut into sequences
    of one length, without padding. A position in the corpus, kept in checkpoints, makes a resume exact.
    """

    method: ClassVar[str] = "pretrain_text"
    summary: ClassVar[str] = "Train a text-diffusion model from scratch on a corpus, with Muon or AdamW."
    entry: ClassVar[str] = "trainers.methods.pretrain_text:train"
    product: ClassVar[Product] = "model"
    requires: ClassVar[tuple[str, ...]] = ("dataset",)
    accepts: ClassVar[tuple[str, ...]] = ("model",)
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "text"
    model_families: ClassVar[tuple[str, ...]] = ("llada", "llama", "qwen2", "qwen3")

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the base model that the job makes; a second job of the same name makes its next version."""
    continue_training: bool = False
    """Start from the weights of the base model; otherwise it gives its tokenizer alone. Without a base model the
    tokenizer is bytes: one token for each of the 256 bytes of UTF-8, end of text, and mask."""

    architecture: Literal["qwen3", "qwen2", "llama"] = "qwen3"
    """Shape of a new network; its attention is bidirectional. qwen3 is qwen3_dllm of LMMs-Engine."""
    vocab_size: int | None = Field(None, ge=2, le=2_000_000)
    """Rows of embedding and head; none = all tokens and the mask, up to the next multiple of 64."""
    hidden_size: int = Field(1024, ge=8, le=16_384)
    """Width of the hidden states."""
    intermediate_size: int = Field(4096, ge=8, le=65_536)
    """Width inside a feed-forward layer."""
    num_layers: int = Field(24, ge=1, le=200)
    """Number of transformer blocks."""
    num_heads: int = Field(32, ge=1, le=256)
    """Attention heads."""
    num_kv_heads: int = Field(32, ge=1, le=256)
    """Heads of keys and values; num_heads is a multiple of it."""
    head_dim: int = Field(128, ge=4, le=512, multiple_of=2)
    """Width of a head."""
    rope_theta: float = Field(10_000.0, gt=1, le=1e9)
    """Base of the rotary position frequencies."""
    tie_word_embeddings: bool = False
    """Let the head use the embedding matrix."""

    split: str = Field("train", pattern=SPLIT)
    """Split of the dataset that is trained on, of those that its files are named by. A dataset whose files name none
    is read as a whole."""
    text_column: str = Field("text", min_length=1, max_length=200)
    """Column of a row that holds a document."""
    packing_length: int = Field(2048, ge=8, le=131_072)
    """Tokens of a sequence."""
    document_mask: bool = False
    """Let a token attend to its own document only; otherwise to all documents of its sequence."""
    shuffle_window: int = Field(1000, ge=1, le=1_000_000)
    """Documents of a file that are shuffled together, and tokenized together; 1 = the order of the file."""
    short_batches: float = Field(0.01, ge=0, le=1)
    """Share of steps whose sequences are cut to a random shorter length, so that the model learns short texts too."""
    validation_documents: int = Field(64, ge=0, le=100_000)
    """First documents of the corpus, held out for validation; 0 = no validation."""

    batch_size: int = Field(32, ge=1, le=65_536)
    """Sequences of a micro-batch over all processes, which share them."""
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024)
    """Micro-batches per optimizer step; the gradient is that of one large batch."""
    max_steps: int = Field(10_000, ge=1, le=10_000_000)
    """Optimizer steps; the corpus begins anew, in another order, where it ends before."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of every random draw of the job."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """muon orthogonalizes the updates of linear layers, with AdamW for embeddings, head, norms and biases."""
    learning_rate: float = Field(1e-3, ge=1e-7, le=1.0)
    """Rate after the warm-up, of both parts of muon alike."""
    learning_rate_schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "cosine"
    """How the rate goes on after the warm-up: linear and cosine fall to 0 at the last step; constant has no warm-up."""
    warmup_steps: int = Field(1000, ge=0, le=10_000_000)
    """Steps in which the rate rises from 0; the schedule constant has no warm-up."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    adam_epsilon: float = Field(1e-8, gt=0, le=1)
    """Term in AdamW's denominator."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """Decoupled weight decay of matrices; embeddings, norms and biases never decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""

    noise_schedule: Literal["linear", "cosine"] = "linear"
    """Share of tokens masked at time t: t, or cos(pi/2 (1 - t))."""
    time_epsilon: float = Field(1e-3, gt=0, lt=0.5)
    """Smallest time drawn."""
    antithetic_t: bool = True
    """Spread the times of a batch evenly over (0, 1] instead of drawing each alone."""
    loss_weight_type: Literal["scheduler", "uniform"] = "scheduler"
    """Weight of a masked token: of the time, or 1."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the computation and of the model's file; weights and optimizer state are fp32 always."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, which takes less memory."""

    logging_steps: int = Field(10, ge=1, le=10_000_000)
    """Steps between two reports."""
    eval_steps: int = Field(500, ge=1, le=10_000_000)
    """Steps between two validations."""
    save_steps: int = Field(500, ge=1, le=10_000_000)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(3, ge=1, le=100)
    """How many of the latest checkpoints are kept."""
    log_to_tensorboard: bool = True
    """Write TensorBoard files beside the product."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - `num_heads` is a multiple of `num_kv_heads`.
        - Fields that describe a network need `continue_training` off.
        - `warmup_steps` needs a schedule with a warm-up and fewer steps than `max_steps`.
        - `eval_steps` needs `validation_documents`.
        """
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
        if self.continue_training and (idle := self.changed(*NETWORK)):
            raise ValueError(f"{idle} does nothing with continue_training=true, whose network is the base model's")
        if self.learning_rate_schedule == "constant" and (idle := self.changed("warmup_steps")):
            raise ValueError(f"{idle} does nothing with learning_rate_schedule='constant'; choose constant_with_warmup")
        if not self.validation_documents and (idle := self.changed("eval_steps")):
            raise ValueError(f"{idle} does nothing with validation_documents=0; leave one of them out")
        return self

    @property
    def product_name(self) -> str:
        return self.name

    @property
    def random_seed(self) -> int:
        return self.seed

    @property
    def max_checkpoints(self) -> int:
        return self.keep_checkpoints

    def split_of(self, splits: Sequence[str]) -> str:
        return split_chosen(splits, self.split)

    def check_inputs(self, inputs: "Inputs") -> None:
        if self.continue_training and not inputs.model:
            raise ValueError("continue_training=true goes on with the weights of inputs.model, which is missing")

    def warnings(self) -> list[str]:
        if self.learning_rate_schedule != "constant" and self.warmup_steps >= self.max_steps:
            return [f"warmup_steps={self.warmup_steps} is not below max_steps={self.max_steps}: the rate never arrives"]
        return []

    def shows(self) -> bool:
        return bool(self.validation_documents)
