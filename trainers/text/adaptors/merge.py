"""Merges adaptors into the weights of a text model."""

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
from trainers.text.models.weights import export_original, save_text

ORIGINAL = "original"
"""Folder in a fused model with the same weights in the authors' format."""
RENAMED = ("llada", "dream")
"""Families whose original format differs from that of the transformers class."""


def merge_text(job: JobContext) -> Outcome:
    """The job `merge` on a text model: writes the base with every adaptor merged at its scale to out/model."""
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
    """Writes a fused model in our format, and in `original/` in the authors' format where it differs."""
    save_text(base, folder, dtype=dtype)
    if base.family in RENAMED:
        export_original(base, folder / ORIGINAL, dtype=dtype)


@torch.no_grad()
def lora_merge(base: TextBase) -> None:
    """Replaces W by W + scaling B A, computed in fp32, for every active pair and removes the pairs.

    Raises TrainerError(BAD_PARAMETERS) for 4-bit weights.
    """
    for name, layer in list(base.model.named_modules()):
        if isinstance(layer, LoraLayer):
            _merge_layer(name, layer, layer.get_base_layer())
    mask_row_merge(base)
    lora_remove(base)


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype in the checkpoint's config; fp32 if it has none."""
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
