"""Parameters of `masked_text`. Only what the trainer implements today is listed."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from formats.datasets.splits import split_chosen
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.base import SPLIT, AcceleratorChoice, Params, Product, SecretNames

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs, Resources

CART = re.compile(r"^cart\[geo_p:(0?\.\d+)\]$")
DREAM_CART = "cart[geo_p:0.3]"
EOS_PADDING = r"^(block:[1-9]\d{0,3}|supervised|masked|single|cap:[1-9]\d{0,3})$"
CAUSAL = ("llama", "qwen2", "qwen3")
FAMILIES = {"bert": ("bert", "modernbert"), "llada": ("llada", *CAUSAL), "dream": ("dream", *CAUSAL)}
"""Families of base models by training_method."""
OF_LORA = (
    "load_in_4bit",
    "fuse",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "train_mask_embedding",
)
MAX_CUT = 0.2
"""Both cutoffs together above this ratio cut so much that a person should know."""


class MaskedTextParams(Params):
    """Fine-tunes a masked diffusion language model on prompts and responses, on chats, or on plain text."""

    method: ClassVar[str] = "masked_text"
    summary: ClassVar[str] = "Fine-tune a text-diffusion model (BERT, LLaDA, Dream, or a causal one) on rows of text."
    entry: ClassVar[str] = "trainers.methods.masked_text:train"
    product: ClassVar[Product] = "adaptor"
    requires: ClassVar[tuple[str, ...]] = ("dataset", "model")
    dataset_kind: ClassVar[Literal["images", "text"] | None] = "text"
    model_families: ClassVar[tuple[str, ...]] = ("bert", "modernbert", "llada", "dream", "llama", "qwen2", "qwen3")
    device_fields: ClassVar[tuple[str, ...]] = ("train_device", "gpu_ids")

    adaptor_name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the adaptor or fused model that the job makes; a second job of the same name makes its next version."""
    training_method: Literal["bert", "dream", "llada"] = "bert"
    """Recipe: bert for BERT and ModernBERT, llada for LLaDA, dream for Dream (right shift, CART weights, cutoffs). A
    causal base model takes llada or dream."""

    train_device: Literal["auto", "cuda", "cpu", "tpu"] = "auto"
    """Where it trains; auto = an accelerator where the worker has one. tpu needs torch_xla and is untested."""
    gpu_ids: str = Field("auto", pattern=r"^(auto|\d{1,3}(,\d{1,3}){0,63})$")
    """auto = the claiming worker's free accelerators; "0,1,2" = exactly these."""
    batch_size: int = Field(4, ge=1, le=1024)
    """Documents per device and micro-batch."""
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024)
    """Micro-batches per optimizer step; the gradient is that of one large batch."""
    num_train_epochs: int = Field(0, ge=0, le=1000)
    """How often every row is seen; 0 = train_steps decides."""
    train_steps: int = Field(1000, ge=1, le=10_000_000)
    """Optimizer steps, where num_train_epochs is 0."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of every random draw of the job."""

    learning_rate: float | None = Field(None, ge=1e-6, le=1.0)
    """Rate after the warm-up; none = 2e-5 for a full fine-tune, 1e-4 for LoRA."""
    learning_rate_schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "cosine"
    """How the rate goes on after the warm-up: linear and cosine fall to 0 at the last step; constant has no warm-up."""
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    """Share of all steps in which the rate rises from 0; the schedule constant has no warm-up."""
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """adamw8bit keeps its state in 8 bits; it needs bitsandbytes on the worker. muon orthogonalizes the updates of
    linear layers and leaves embeddings, head, norms and biases to AdamW; it needs lora=false."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay; muon decays matrices only, never an embedding, a norm or a bias."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""

    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Of the computation, of frozen weights, and of a fused model's file. Weights that are trained and the optimizer's
    state are fp32 always; float16 scales the loss."""
    load_in_4bit: bool = False
    """Keep the frozen weights in 4 bits (nf4); needs lora and bitsandbytes."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in the backward pass; auto = where the model has more than 500 million weights."""
    model_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the model's own layers, whatever its config says."""

    lora: bool = False
    """Train a LoRA adaptor; otherwise all weights, which makes a fused model."""
    lora_r: int = Field(32, ge=4, le=64, multiple_of=4)
    """Inner width of the LoRA pair."""
    lora_alpha: int = Field(64, ge=4, le=128, multiple_of=4)
    """The update is scaled by lora_alpha / lora_r."""
    lora_dropout: float = Field(0.05, ge=0, le=0.9)
    """Share of the LoRA pair's inputs set to 0 in training."""
    target_modules: str = Field("all-linear", pattern=r"^(all-linear|[\w.]+(,[\w.]+)*)$")
    """Layers that get a LoRA pair: all-linear (never the head), or names such as "q_proj,v_proj"."""
    train_mask_embedding: Literal["auto", "on", "off"] = "auto"
    """With LoRA, also train the mask token's input row, saved with the adaptor; auto = where the base was causal."""
    fuse: bool = False
    """With LoRA, also publish the base with the adaptor merged into it, as a base model."""

    max_length: int | None = Field(None, ge=8, le=131_072)
    """Tokens of a document at most; none = 1024, or the model's positions where these are fewer."""
    truncation: Literal["filter", "right"] = "right"
    """Rows above max_length: filter drops them; right cuts their end. A row that would lose its response is dropped."""
    packing: bool = True
    """Lay documents end to end instead of padding them: each is attended alone, the result is the same."""
    split: str = Field("train", pattern=SPLIT)
    """Split of the dataset that is trained on, of those that its files are named by: train, validation, test, ...
    A dataset whose files name none is read as a whole."""
    num_proc: int = Field(4, ge=1, le=64)
    """Threads that tokenize."""
    validation_split: float = Field(0.1, ge=0, le=0.5)
    """Share of the rows held out for validation; below 10 rows none is."""
    max_validation_rows: int = Field(256, ge=1, le=1_000_000)
    """Rows held out at most: each is seen at every time of the grid at every evaluation, the first before step 1."""
    input_template: str = Field("", max_length=20_000)
    """Jinja template of the prompt over the row's columns, e.g. "Translate: {{ english }}"; needs output_template."""
    output_template: str = Field("", max_length=20_000)
    """Jinja template of the response; needs input_template."""

    mask_prompt_loss: bool = True
    """Never noise or score the prompt; false treats it as the response."""
    supervise_turns: Literal["last", "all"] = "last"
    """Which of a chat's answers are noised and scored."""
    eos_padding: str = Field("block:32", pattern=EOS_PADDING)
    """How a response goes on after its end. block:n = scored end tokens up to a multiple of n; single = one; masked =
    none; cap:n = up to the batch's longest, n at most; supervised = up to the batch's longest (packing must be off)."""
    noise_schedule: Literal["linear", "cosine"] = "linear"
    """Share of tokens masked at time t: t, or cos(pi/2 (1 - t))."""
    time_epsilon: float = Field(1e-3, gt=0, lt=0.5)
    """Smallest time drawn."""
    antithetic_t: bool = True
    """Spread the times of a batch evenly over (0, 1] instead of drawing each alone."""
    loss_weight_type: str | None = Field(None, max_length=40)
    """Weight of a masked token: scheduler (of the time), uniform (1), or cart[geo_p:P] (of its unmasked neighbours;
    dream only). None = cart[geo_p:0.3] for dream, scheduler otherwise."""
    loss_norm_type: Literal["token", "sequence", "batch"] = "token"
    """The sum is divided by maskable tokens; per document, then by documents; or by documents alone."""
    suppress_mask_logit: bool = False
    """Take the mask token out of the softmax."""
    perbatch_cutoff: bool | None = None
    """Dream: cut every response to a length drawn from its batch. None = true for dream."""
    resp_cutoff_ratio: float | None = Field(None, ge=0, le=1)
    """Dream: share of batches whose end is cut off by a random number of tokens. None = 0."""

    logging_steps: float = Field(10, gt=0)
    """Steps between two reports; below 1 a share of all steps."""
    eval_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When to validate and to sample eval_prompts."""
    eval_steps: float = Field(0.25, gt=0)
    """Steps between two evaluations; below 1 a share of all steps."""
    eval_prompts: tuple[str, ...] = Field((), max_length=16)
    """Prompts that are answered at each evaluation, shown with their denoising."""
    save_steps: float = Field(0.25, gt=0)
    """Steps between two checkpoints; below 1 a share of all steps."""
    keep_checkpoints: int = Field(3, ge=1, le=100)
    """How many of the latest checkpoints are kept."""
    log_to_tensorboard: bool = True
    """Write TensorBoard files beside the product."""
    log_to_wandb: bool = False
    """Report to Weights & Biases, with the project's key; without one the run is kept beside the product."""
    wandb_project: str = Field("", max_length=128, pattern=r"^[^/\\#?%:]*$")
    """Project there; empty = WANDB_PROJECT of the worker, or anneal."""
    secrets: SecretNames = ()
    """Project secrets that the job is given; one of kind wandb holds the key for log_to_wandb."""

    @field_validator("gpu_ids", mode="before")
    @classmethod
    def _without_blanks(cls, value: Any) -> Any:
        return value.replace(" ", "") if isinstance(value, str) else value

    @field_validator("logging_steps", "eval_steps", "save_steps")
    @classmethod
    def _whole_or_share(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError(f"must be below 1 (a share of all steps) or a whole number of steps, got {value}")
        return value

    @field_validator("loss_weight_type")
    @classmethod
    def _known_weight(cls, value: str | None) -> str | None:
        cart = CART.match(value or "")
        if value not in (None, "scheduler", "uniform") and not (cart and float(cart[1])):
            raise ValueError(f"must be scheduler, uniform or cart[geo_p:P] with P above 0 and below 1, got {value!r}")
        return value

    @field_validator("eval_prompts")
    @classmethod
    def _prompts_say_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(prompt.strip() for prompt in value):
            raise ValueError("each of eval_prompts must have text; one is empty")
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - `load_in_4bit`, `fuse`, `train_mask_embedding`, `target_modules` and all of `lora_*` need `lora`;
          `optimizer` muon needs it off.
        - `perbatch_cutoff`, `resp_cutoff_ratio` and cart weights need `training_method` dream.
        - `eos_padding` supervised needs `packing` false.
        - `input_template` and `output_template` go together.
        - `gpu_ids` needs `train_device` auto or cuda, `train_steps` needs `num_train_epochs` 0.
        - `wandb_project` and `secrets` need `log_to_wandb`.
        - `warmup_ratio` needs a schedule with a warm-up, `eval_steps` needs `eval_strategy` steps.
        - `eval_prompts` and `validation_split` need `eval_strategy` steps or epoch, `max_validation_rows` a split.
        """
        for message in (self._lora_faults(), self._dream_faults(), self._idle_faults(), self._other_faults()):
            if message:
                raise ValueError(message)
        return self

    def _lora_faults(self) -> str:
        if not self.lora and (value := self.changed(*OF_LORA)):
            return f"{value} needs lora=true, got lora=false, which trains all weights; set lora, or leave it out"
        if self.lora and self.optimizer == "muon":
            return "optimizer='muon' needs lora=false: it orthogonalizes whole matrices, not LoRA pairs; choose adamw"
        return ""

    def _idle_faults(self) -> str:
        if self.learning_rate_schedule == "constant" and (idle := self.changed("warmup_ratio")):
            return f"{idle} does nothing with learning_rate_schedule='constant'; choose constant_with_warmup"
        if self.eval_strategy != "steps" and (idle := self.changed("eval_steps")):
            return f"{idle} does nothing with eval_strategy={self.eval_strategy!r}; choose steps, or leave it out"
        unseen = ("eval_prompts", "validation_split") if self.validation_split else ("eval_prompts",)
        if self.eval_strategy == "no" and (idle := self.changed(*unseen)):
            return f"{idle} does nothing with eval_strategy='no'; choose steps or epoch, or leave it out"
        if not self.validation_split and (idle := self.changed("max_validation_rows")):
            return f"{idle} does nothing with validation_split=0.0; leave one of them out"
        return ""

    def _dream_faults(self) -> str:
        cart = bool(self.loss_weight_type and CART.match(self.loss_weight_type))
        for name, value in (
            ("perbatch_cutoff", self.perbatch_cutoff is not None),
            ("resp_cutoff_ratio", self.resp_cutoff_ratio is not None),
            ("loss_weight_type", cart),
        ):
            if value and self.training_method != "dream":
                return (
                    f"{name}={getattr(self, name)!r} is for training_method='dream', got "
                    f"training_method={self.training_method!r}; leave {name} out"
                )
        return ""

    def _other_faults(self) -> str:
        if self.eos_padding == "supervised" and self.packing:
            return "eos_padding='supervised' pads to the batch's longest, but packing=true pads nothing; choose one"
        if bool(self.input_template) != bool(self.output_template):
            return "input_template and output_template go together, but only one has text; write both or none"
        if not self.log_to_wandb and (self.wandb_project or self.secrets):
            return "wandb_project and secrets do nothing with log_to_wandb=false; set it, or leave them out"
        if self.num_train_epochs and (idle := self.changed("train_steps")):
            return f"{idle} does nothing with num_train_epochs={self.num_train_epochs}; leave one of them out"
        if self.gpu_ids != "auto" and self.train_device in ("cpu", "tpu"):
            return f"gpu_ids={self.gpu_ids!r} names accelerators, but train_device={self.train_device!r} uses none"
        if self.gpu_ids != "auto" and len(set(self.gpu_ids.split(","))) != len(self.gpu_ids.split(",")):
            return f"gpu_ids={self.gpu_ids!r} names an accelerator twice"
        return ""

    @property
    def product_name(self) -> str:
        return self.adaptor_name

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
        """Learning rate after the warm-up."""
        return self.learning_rate or (1e-4 if self.lora else 2e-5)

    @property
    def weighting(self) -> str:
        """loss_weight_type with its default filled in."""
        return self.loss_weight_type or (DREAM_CART if self.training_method == "dream" else "scheduler")

    @property
    def geo_p(self) -> float | None:
        """P of cart[geo_p:P]; None for another weighting."""
        messages = CART.match(self.weighting)
        return float(messages[1]) if messages else None

    @property
    def cuts_per_batch(self) -> bool:
        return self.training_method == "dream" if self.perbatch_cutoff is None else self.perbatch_cutoff

    @property
    def cut_ratio(self) -> float:
        return self.resp_cutoff_ratio or 0.0

    def steps_of(self, value: float, total_steps: int) -> int:
        """A number of steps from `logging_steps`, `eval_steps` or `save_steps`: below 1 a share, at least one step."""
        return max(1, round(value * total_steps)) if value < 1 else int(value)

    def family_problem(self, family: str) -> str:
        trains = FAMILIES[self.training_method]
        if family in trains:
            return ""
        fitting = " or ".join(method for method, families in FAMILIES.items() if family in families)
        return (
            f"training_method={self.training_method!r} trains {', '.join(trains)}, but the base model is of the family "
            f"{family}; choose {fitting}"
        )

    @property
    def evaluates(self) -> bool:
        return self.eval_strategy != "no"

    def libraries(self) -> tuple[str, ...]:
        requested = {
            "bitsandbytes": self.optimizer == "adamw8bit" or self.load_in_4bit,
            "torch_xla": self.train_device == "tpu",
            "wandb": self.log_to_wandb,
        }
        return tuple(name for name, is_requested in requested.items() if is_requested)

    def connects(self) -> bool:
        return self.log_to_wandb

    def check_inputs(self, inputs: "Inputs") -> None:
        positions = inputs.model.details.get("max_positions") if inputs.model else None
        if inputs.model and positions and self.max_length and self.max_length > positions:
            raise ValueError(
                f"max_length={self.max_length} is more than the {positions} positions of {inputs.model.name}; lower it"
            )

    def accelerators(self) -> AcceleratorChoice | None:
        if self.gpu_ids != "auto":
            indices = tuple(int(index) for index in self.gpu_ids.split(","))
            return AcceleratorChoice("gpu_ids", len(indices), indices)
        if self.train_device == "auto":
            return None
        return AcceleratorChoice(f"train_device={self.train_device!r}", 1 if self.train_device == "cuda" else 0)

    def resources_check(self, resources: "Resources") -> None:
        """Raises TrainerError where `train_device` or `gpu_ids` and `resources.accelerators` contradict each other."""
        accelerators = resources.accelerators
        if self.train_device == "cuda" and not resources.num_accelerators:
            raise TrainerError(
                ReasonCode.NO_ACCELERATOR,
                f"train_device='cuda' needs accelerators, but resources.accelerators={accelerators}",
            )
        if self.train_device in ("cpu", "tpu") and resources.num_accelerators:
            raise TrainerError(
                ReasonCode.BAD_PARAMETERS,
                f"train_device={self.train_device!r} uses no accelerators, "
                f"but resources.accelerators={accelerators}; ask for 0",
            )
        if self.gpu_ids == "auto":
            return
        if accelerators != tuple(int(index) for index in self.gpu_ids.split(",")):
            raise TrainerError(
                ReasonCode.BAD_PARAMETERS,
                f"gpu_ids={self.gpu_ids!r} wants exactly these accelerators, but resources.accelerators={accelerators}",
            )

    def shows(self) -> bool:
        return self.evaluates and bool(self.eval_prompts or self.validation_split)

    def products(self) -> tuple[Product, ...]:
        if not self.lora:
            return ("model",)
        return ("adaptor", "model") if self.fuse else ("adaptor",)

    def warnings(self) -> list[str]:
        messages = []
        if self.cuts_per_batch and self.cut_ratio > MAX_CUT:
            messages.append(
                f"perbatch_cutoff and resp_cutoff_ratio={self.cut_ratio} both cut responses; "
                f"above {MAX_CUT} together few whole ones are seen"
            )
        if self.dtype == "float16" and self.train_device == "cpu":
            messages.append("dtype=float16 is slow on a CPU; bfloat16 or float32 suits it better")
        return messages
