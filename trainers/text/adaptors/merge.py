"""Adds adaptors to the weights of a text model, once and for all."""

from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.context import JobContext, Outcome
from trainers.text.adaptors.lora import lora_remove, text_adaptors_apply
from trainers.text.models.base import TextBase, mask_row_merge
from trainers.text.models.families import config_read
from trainers.text.models.load import load_text
from trainers.text.models.save import export_original, save_text

ORIGINAL = "original"
"""Folder inside a fused model: the same weights under their authors' names."""
RENAMED = ("llada", "dream")
"""Families whose original format is not the native class's own."""


def merge_text(job: JobContext) -> Outcome:
    """The job `merge` on a text model: out/model is the base with every adaptor at its scale merged into it."""
    inputs = job.spec.inputs
    assert inputs.model is not None
    dtype = stored_dtype(job.model)
    base = load_text(job.model, dtype)
    folders = [job.adaptor(index) for index in range(len(inputs.adaptors))]
    scales = getattr(job.spec.params, "scales", ()) or (1.0,) * len(folders)
    text_adaptors_apply(base, inputs.model, inputs.adaptors, folders, scales)
    lora_merge(base)
    model_write(base, job.out / "model")
    job.facts.update(family=base.family, was_causal=False, shift=base.shift, dtype=str(dtype).removeprefix("torch."))
    return "succeeded"


def model_write(base: TextBase, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """A fused model: our names, and in `original/` the authors' names where these differ."""
    save_text(base, folder, dtype=dtype)
    if base.family in RENAMED:
        export_original(base, folder / ORIGINAL, dtype=dtype)


@torch.no_grad()
def lora_merge(base: TextBase) -> None:
    """Adds every active pair to its matrix, W + scaling B A in fp32, and takes the pairs off. Not for 4-bit weights."""
    for name, layer in list(base.model.named_modules()):
        if isinstance(layer, LoraLayer):
            _merge_layer(name, layer, layer.get_base_layer())
    mask_row_merge(base)
    lora_remove(base)


def stored_dtype(folder: Path) -> torch.dtype:
    """What the checkpoint's config says its weights are; fp32 where it says nothing."""
    raw = config_read(folder)
    named = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype") or "float32"), None)
    return named if isinstance(named, torch.dtype) and named.is_floating_point else torch.float32


def _merge_layer(name: str, layer: Any, linear: Any) -> None:
    if not linear.weight.is_floating_point():
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS, f"{name} has 4-bit weights; load the base without quantization to merge"
        )
    weight = linear.weight.float()
    for adaptor in layer.active_adapters:
        pair = layer.lora_B[adaptor].weight.float() @ layer.lora_A[adaptor].weight.float()
        weight += layer.scaling[adaptor] * pair
    linear.weight.copy_(weight)
