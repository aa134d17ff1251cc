"""The base model of a `masked_text` job in training: LoRA or full weights, optimizer, checkpoints, outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundation.atomic import bytes_write
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.context import JobContext, Outcome
from trainers.core.distributed import GlobalBatch
from trainers.core.loop import Progress
from trainers.core.manifest import base_name, card_table, manifest_body, parameters_table, quoted
from trainers.core.muon import Muon, iteration_dtype, routes, routes_table
from trainers.core.noise import Purpose, integer
from trainers.core.optim import Group, optimizer_of
from trainers.core.resume import Resumable, choices_make
from trainers.text.adaptors.lora import (
    attach_text_lora,
    lora_merge,
    text_adaptor_load,
    text_adaptor_save,
    text_lora_load_state,
    text_lora_state,
)
from trainers.text.data.batches import family_check, recipe_base
from trainers.text.data.dataset import TextDataset, max_length_of
from trainers.text.models.base import TextBase, dropout_set
from trainers.text.models.load import DTYPES, config_dtype, load_text
from trainers.text.models.weights import model_write

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


def outputs_write(
    job: JobContext[MaskedTextParams], trained: TrainableBase, progress: Progress, outcome: Outcome
) -> None:
    """Writes out/adaptor for LoRA, out/model for full fine-tuning, both with `fuse`."""
    params = job.params
    if not params.lora:
        model_write(trained.base, job.out / "model", dtype=DTYPES[params.dtype])
        return
    text_adaptor_save(
        trained.base, job.out / "adaptor", _adaptor_metadata(job, progress, bos_first=trained.base.bos_first)
    )
    text_card_write(job.out / "adaptor", manifest_body(job, outcome))
    if params.fuse:
        fused = load_text(job.model, config_dtype(job.model))
        text_adaptor_load(fused, job.out / "adaptor", "fuse", 1.0)
        lora_merge(fused)
        fused.shift, fused.bos_first = trained.base.shift, trained.base.bos_first
        model_write(fused, job.out / "model")


def manifest_facts(params: MaskedTextParams, base: TextBase, dataset: TextDataset) -> dict[str, Any]:
    """Facts for the manifest: resolved parameters, special tokens, counts of the dataset."""
    return {
        "family": base.family,
        "training_method": params.training_method,
        "perbatch_cutoff": params.cuts_per_batch,
        "resp_cutoff_ratio": params.cut_ratio,
        "loss_weight_type": params.weighting,
        "geo_p": params.geo_p,
        "loss_norm_type": params.loss_norm_type,
        "mask_prompt_loss": params.mask_prompt_loss,
        "eos_padding": params.eos_padding,
        "eos_token": base.tokenizer.convert_ids_to_tokens(base.eos_id),
        "pad_token": base.tokenizer.convert_ids_to_tokens(base.pad_id),
        "mask_token": base.tokenizer.convert_ids_to_tokens(base.mask_id),
        "max_length": max_length_of(params, base),
        "dataset": dataset.facts(),
        "equal_on_any_processes": not params.model_dropout and not (params.lora and params.lora_dropout),
    }


def _adaptor_metadata(job: JobContext[MaskedTextParams], progress: Progress, *, bos_first: bool) -> dict[str, str]:
    model = job.spec.inputs.model
    assert model is not None
    return {
        "base_sha256": model.sha256,
        "base_name": model.name,
        "base_model": model.name,
        "name": job.params.adaptor_name,
        "training_method": job.params.training_method,
        **({"bos_first": "true"} if bos_first else {}),
        "step": str(progress.step),
    }


def text_card_write(folder: Path, manifest: dict[str, Any]) -> Path:
    """Writes the model card to `folder/README.md` from the manifest's `params`, `inputs`, `outcome`, `validation`."""
    params = manifest["params"]
    base = base_name(manifest)
    head = ["---", f"base_model: {quoted(base)}", "library_name: peft", "pipeline_tag: text-generation"]
    sections = [
        "\n".join([*head, "tags:", "- lora", "- text-diffusion", "---"]),
        f"# {params['adaptor_name']}\n\nA LoRA adaptor of {base} for text by denoising, trained with Anneal.",
        "**The training was stopped before its end; this is what it had reached.**"
        if manifest.get("outcome") == "stopped"
        else "",
        "## Files\n\n- `adapter_model.safetensors`, `adapter_config.json`: for peft, and for `anneal generate`.",
        "## Use\n\n```python\nfrom peft import PeftModel\n\n"
        f'model = PeftModel.from_pretrained(base, "path/to/this/folder")  # base: the model {base}\n```',
        parameters_table(params),
        card_table("Result", [(name, str(value)) for name, value in (manifest.get("validation") or {}).items()]),
    ]
    bytes_write(folder / "README.md", ("\n\n".join(section for section in sections if section) + "\n").encode())
    return folder / "README.md"
