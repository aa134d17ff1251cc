"""LoRA on a text model: attaches, saves, loads, merges and removes adaptors in PEFT's format.

A folder holds adapter_config.json and adapter_model.safetensors; PEFT opens it on the stock model with equal logits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from foundation.atomic import bytes_write, json_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef
from trainers.core.lora import TRAINED, casts_attach, inject, lora_layers, pair_init
from trainers.core.model_files import base_check, file_bytes, weights_folder
from trainers.text.adaptors.file import CONFIG, PREFIX, ROW_SUFFIX, WEIGHTS, text_adaptor_read
from trainers.text.models.base import (
    TextBase,
    body,
    input_embedding,
    mask_row_attach,
    mask_row_load,
    mask_row_merge,
    mask_row_of,
    mask_row_remove,
)

ALL_LINEAR = "all-linear"


def attach_text_lora(
    base: TextBase,
    *,
    r: int,
    alpha: float,
    dropout: float,
    targets: str,
    seed: int,
    train_mask_embedding: bool,
) -> list[nn.Parameter]:
    """Adds a new LoRA pair to every target and returns the trainable parameters, fp32, in a fixed order.

    `targets`: all-linear (never the head), or last parts of module names such as "q_proj,v_proj". A depends only on
    `seed` and the layer's name, B is zero, so the outputs do not change. Puts the model into train mode. With
    `train_mask_embedding` the mask token's embedding is the last parameter. Raises TrainerError(BAD_PARAMETERS) for an
    unknown target.
    """
    names = targets_of(base, targets)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)  # type: ignore[arg-type]
    inject(base.model, config, TRAINED, None)
    layers = lora_layers(base.model, TRAINED)
    for name, layer in layers:
        pair_init(layer, name, seed)
    casts_attach(body(base), layers)
    base.model.train()
    halves = [half for _, layer in layers for half in (layer.lora_A[TRAINED], layer.lora_B[TRAINED])]
    pairs = [parameter for half in halves for parameter in half.parameters()]
    return [*pairs, mask_row_attach(base).row] if train_mask_embedding else pairs


def targets_of(base: TextBase, targets: str) -> list[str]:
    """Full names of the linear layers that get a pair; never the head, which is large and stays frozen."""
    network = body(base)
    prefix = next(name for name, module in base.model.named_modules() if module is network)
    linear = [
        f"{prefix}.{name}"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and ".base_layer" not in name and ".lora_" not in name
    ]
    if targets == ALL_LINEAR:
        return linear
    suffixes = targets.split(",")
    for suffix in suffixes:
        if not any(f".{name}".endswith(f".{suffix}") for name in linear):
            available = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise TrainerError(
                ReasonCode.BAD_PARAMETERS,
                f"target_modules: {suffix} is no linear layer of this model; it has {available}",
            )
    return [name for name in linear if any(f".{name}".endswith(f".{suffix}") for suffix in suffixes)]


def text_lora_state(base: TextBase) -> dict[str, Tensor]:
    """The trained tensors by PEFT's names relative to the model, fp32 on the CPU; the mask token's row as (1, D)."""
    state = get_peft_model_state_dict(base.model, adapter_name=TRAINED, save_embedding_layers=False)
    if (row := mask_row_of(base)) is not None:
        state[f"{_embedding_name(base)}.{ROW_SUFFIX}"] = row.row[None]
    return {key: state[key].detach().float().cpu().contiguous() for key in sorted(state)}


def text_lora_load_state(base: TextBase, state: dict[str, Tensor]) -> None:
    """Restores the result of `text_lora_state`. Raises ValueError if names or shapes differ."""
    expected = {key: value.shape for key, value in text_lora_state(base).items()}
    received = {key: value.shape for key, value in state.items()}
    if expected != received:
        key = min(k for k in expected.keys() | received.keys() if expected.get(k) != received.get(k))
        raise ValueError(f"expected {key} of shape {expected.get(key)}, got {received.get(key)}")
    pairs = {key: value for key, value in state.items() if not key.endswith(ROW_SUFFIX)}
    set_peft_model_state_dict(base.model, pairs, adapter_name=TRAINED)
    if (row := mask_row_of(base)) is not None:
        with torch.no_grad():
            row.row.copy_(state[f"{_embedding_name(base)}.{ROW_SUFFIX}"][0])


def text_adaptor_save(base: TextBase, folder: Path, metadata: dict[str, str]) -> None:
    """Writes the PEFT folder, with `metadata` in the header of the weights. Deterministic to the byte."""
    config: LoraConfig = base.model.peft_config[TRAINED]
    state = {f"{PREFIX}{key}": value for key, value in text_lora_state(base).items()}
    rows = [base.mask_id] if mask_row_of(base) is not None else None
    bytes_write(folder / WEIGHTS, file_bytes(state, {**metadata, "format": "pt"}))
    json_write(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": metadata.get("base_model", ""),
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
            "target_modules": sorted(str(name) for name in config.target_modules or ()),
            "trainable_token_indices": rows,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        },
    )


def text_adaptor_load(base: TextBase, folder: Path, name: str, scale: float) -> dict[str, str]:
    """Adds the adaptor of `folder` under `name` to those already active; returns the metadata of its file.

    Scale 0 leaves the outputs unchanged. Raises TrainerError(BAD_ADAPTOR) that names the key, shape or setting that
    does not fit.
    """
    file = text_adaptor_read(folder)
    file.check(dict(base.model.named_modules()), _embedding_name(base), base.mask_id)
    inject(base.model, file.config(), name, file.pairs)
    set_peft_model_state_dict(base.model, file.pairs, adapter_name=name)
    base.model.set_adapter(list(base.model.peft_config))
    for _, layer in lora_layers(base.model, name):
        layer.set_scale(name, scale)
    if file.row is not None:
        mask_row_load(base, file.row, scale)
    base.model.requires_grad_(False)
    return file.metadata


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


def lora_remove(base: TextBase) -> None:
    """Removes every adaptor from `base`, which restores its original outputs."""
    for name, layer in list(base.model.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(base.model.get_submodule(parent), leaf, layer.get_base_layer())
    base.model.__dict__.pop("peft_config", None)
    base.model._hf_peft_config_loaded = False
    mask_row_remove(base)
    base.model.requires_grad_(False).eval()


def _embedding_name(base: TextBase) -> str:
    embedding = input_embedding(base)
    names: list[str] = [name for name, module in base.model.named_modules() if module is embedding]
    return names[0]


def text_adaptors_apply(
    base: TextBase, model: InputRef, adaptors: Sequence[InputRef], folders: Sequence[Path], scales: Sequence[float]
) -> None:
    """Loads every adaptor onto `base` at its scale and sets the base's shift to that of their training.

    Raises TrainerError(BAD_ADAPTOR) if an adaptor was trained on another base model, does not fit, or was trained with
    another shift than the others.
    """
    shifts: list[tuple[str, bool]] = []
    bos_first: set[bool] = set()
    for index, (adaptor, folder, scale) in enumerate(zip(adaptors, folders, scales, strict=True)):
        metadata = text_adaptor_load(base, weights_folder(folder), f"adaptor_{index}", scale)
        base_check(adaptor, metadata, model)
        if training_method := metadata.get("training_method"):
            shifts.append((adaptor.name, training_method == "dream"))
            bos_first.add(metadata.get("bos_first") == "true")
    if len({shift for _, shift in shifts}) > 1:
        dream = ", ".join(name for name, shift in shifts if shift)
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR, f"only {dream} of the adaptors were trained with training_method dream"
        )
    if len(bos_first) > 1:
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR,
            "some of the adaptors were trained with mask_prompt_loss=false, which puts a BOS first",
        )
    if shifts:
        base.shift = shifts[0][1]
        base.bos_first = bos_first.pop()


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
