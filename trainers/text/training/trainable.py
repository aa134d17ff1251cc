"""The base model of a `masked_text` job set up for training: LoRA or full weights, optimizer, checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.choices import choices_make
from trainers.core.context import JobContext
from trainers.core.global_batch import GlobalBatch
from trainers.core.muon import Muon, iteration_dtype, routes, routes_table
from trainers.core.noise import Purpose, integer
from trainers.core.optim import Group, optimizer_of
from trainers.core.resume import Resumable
from trainers.text.adaptors.lora import attach_text_lora, text_lora_load_state, text_lora_state
from trainers.text.data.recipe import family_check, recipe_base
from trainers.text.models.base import TextBase, dropout_set
from trainers.text.models.load import load_text

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CHECKPOINTED_WEIGHTS = 500_000_000
"""gradient_checkpointing=auto is on above this number of parameters."""


@dataclass(frozen=True)
class TrainableBase:
    """A base model in training."""

    base: TextBase
    parameters: Sequence[nn.Parameter]
    """fp32, in a fixed order."""
    lora: bool
    params: MaskedTextParams
    """With every `auto` resolved."""

    def state(self) -> dict[str, Tensor]:
        """The trained weights for a checkpoint."""
        return text_lora_state(self.base) if self.lora else dict(self._named())

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self.lora:
            text_lora_load_state(self.base, state)
            return
        with torch.no_grad():
            for name, parameter in self._named().items():
                parameter.copy_(state[name])

    def _named(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.base.model.named_parameters() if parameter.requires_grad}


def trainable_load(job: JobContext[MaskedTextParams]) -> TrainableBase:
    """Loads the base on this rank's device in train mode; trained weights in fp32, frozen ones in `dtype`."""
    params = job.params
    base = load_text(
        job.model,
        DTYPES[params.dtype] if params.lora else torch.float32,
        job.processes.device,
        quantization="nf4" if params.load_in_4bit else "none",
    )
    family_check(params, base)
    base = recipe_base(base, params)
    params = choices_make(job, params, auto_values(base))
    dropout_set(base, params.model_dropout)
    parameters = _lora_attach(base, params) if params.lora else list(base.model.requires_grad_(True).parameters())
    base.model.train()
    if params.gradient_checkpointing == "on":
        base.model.activation_checkpointing_enable({"use_reentrant": False})
    return TrainableBase(base, parameters, params.lora, params)


def auto_values(base: TextBase) -> dict[str, str]:
    """Values of `auto` parameters for a loaded base that has no adaptor yet."""
    large = sum(int(parameter.numel()) for parameter in base.model.parameters()) > CHECKPOINTED_WEIGHTS
    return {
        "gradient_checkpointing": "on" if large else "off",
        "train_mask_embedding": "on" if base.was_causal else "off",
    }


def resumable_of(job: JobContext[MaskedTextParams], trained: TrainableBase) -> Resumable:
    params = job.params
    return Resumable(
        job=job,
        weights=trained.state,
        load_weights=trained.load_state,
        optimizer=_optimizer(job, trained),
        scaler=torch.amp.GradScaler(job.processes.device.type, enabled=params.dtype == "float16"),
        keep=params.keep_checkpoints,
        params=trained.params,
        batch=GlobalBatch(params.batch_size, params.gradient_accumulation_steps, job.processes.world_size),
    )


def _optimizer(job: JobContext[MaskedTextParams], trained: TrainableBase) -> torch.optim.Optimizer:
    params, betas, epsilon = job.params, (0.9, 0.999), 1e-8
    if params.optimizer == "muon":
        table = routes(trained.base.model)
        if job.processes.rank == 0:
            print(routes_table(table), flush=True)
        return Muon(
            table,
            learning_rate=params.rate,
            betas=betas,
            weight_decay=params.weight_decay,
            epsilon=epsilon,
            dtype=iteration_dtype(job.processes.device),
        )
    groups = [Group("weights", trained.parameters, params.rate)]
    return optimizer_of(params.optimizer, groups, betas=betas, weight_decay=params.weight_decay, epsilon=epsilon)


def _lora_attach(base: TextBase, params: MaskedTextParams) -> list[nn.Parameter]:
    return attach_text_lora(
        base,
        r=params.lora_r,
        alpha=params.lora_alpha,
        dropout=params.lora_dropout,
        targets=params.target_modules,
        seed=integer(2**63 - 1, params.seed, Purpose.LORA_INIT),
        train_mask_embedding=params.train_mask_embedding == "on",
    )
