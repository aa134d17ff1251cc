"""LoRA on a text model, in PEFT's own folder: adapter_config.json and adapter_model.safetensors.

Stock PEFT opens the folder on the stock model with equal logits; its mathematics is peft's here too.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from foundation.atomic import bytes_write, json_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef
from trainers.core.adaptor_inputs import base_check, weights_folder
from trainers.core.lora import TRAINED, inject, lora_layers, pair_init
from trainers.core.safetensors_file import file_bytes
from trainers.text.adaptors.file import CONFIG, PREFIX, ROW_SUFFIX, WEIGHTS, text_adaptor_read
from trainers.text.models.base import (
    TextBase,
    body,
    input_embedding,
    mask_row_attach,
    mask_row_load,
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
    """Puts a fresh pair on every target and returns the trainable parameters, fp32, in a fixed order.

    `targets`: all-linear (never the head), or the last parts of module names, "q_proj,v_proj". A is drawn from `seed`
    and the layer's name alone, B is zero, so the network starts unchanged; it is left in train mode. With
    `train_mask_embedding` the mask token's input row comes last. TrainerError(BAD_PARAMETERS): an unknown target.
    """
    names = targets_of(base, targets)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)  # type: ignore[arg-type]
    inject(base.model, config, TRAINED, None)
    layers = lora_layers(base.model, TRAINED)
    for name, layer in layers:
        pair_init(layer, name, seed)
    base.model.train()
    halves = [half for _, layer in layers for half in (layer.lora_A[TRAINED], layer.lora_B[TRAINED])]
    pairs = [parameter for half in halves for parameter in half.parameters()]
    return [*pairs, mask_row_attach(base).row] if train_mask_embedding else pairs


def targets_of(base: TextBase, targets: str) -> list[str]:
    """Full names of the linear layers that get a pair. The head has none: its matrix is huge, and it stays frozen."""
    network = body(base)
    prefix = next(name for name, module in base.model.named_modules() if module is network)
    linear = [
        f"{prefix}.{name}"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and ".base_layer" not in name and ".lora_" not in name
    ]
    if targets == ALL_LINEAR:
        return linear
    wanted = targets.split(",")
    for ending in wanted:
        if not any(f".{name}".endswith(f".{ending}") for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise TrainerError(
                ReasonCode.BAD_PARAMETERS, f"target_modules: {ending} is no linear layer of this model; it has {known}"
            )
    return [name for name in linear if any(f".{name}".endswith(f".{ending}") for ending in wanted)]


def text_lora_state(base: TextBase) -> dict[str, Tensor]:
    """What is in training, by PEFT's names below the model, fp32 on the CPU; the mask token's row as (1, D)."""
    state = get_peft_model_state_dict(base.model, adapter_name=TRAINED, save_embedding_layers=False)
    if (row := mask_row_of(base)) is not None:
        state[f"{_embedding_name(base)}.{ROW_SUFFIX}"] = row.row[None]
    return {key: state[key].detach().float().cpu().contiguous() for key in sorted(state)}


def text_lora_load_state(base: TextBase, state: dict[str, Tensor]) -> None:
    """Puts back what `text_lora_state` gave; the names and shapes must be the same."""
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
    """Writes the PEFT folder; equal weights and metadata give equal bytes. `metadata` joins the weights' header."""
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
    """Adds the adaptor of `folder` under `name`, active beside those already there; the metadata of its file.

    At scale 0 the base speaks as before, the mask token's row included. Raises TrainerError(BAD_ADAPTOR) that names
    the key, shape or setting that does not fit.
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


def lora_remove(base: TextBase) -> None:
    """Takes every adaptor off `base`, which then speaks as before they came."""
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
    """Puts every adaptor on `base`, active at its scale; a causal base shifts its logits as they were trained.

    Raises TrainerError(BAD_ADAPTOR) for one that was trained on another base model, that does not fit, or that was
    trained with another shift than its neighbours.
    """
    recipes: list[tuple[str, bool]] = []
    begins: set[bool] = set()
    for index, (adaptor, folder, scale) in enumerate(zip(adaptors, folders, scales, strict=True)):
        metadata = text_adaptor_load(base, weights_folder(folder), f"adaptor_{index}", scale)
        base_check(adaptor, metadata, model)
        if recipe := metadata.get("training_method"):
            recipes.append((adaptor.name, recipe == "dream"))
            begins.add(metadata.get("bos_first") == "true")
    if len({shifted for _, shifted in recipes}) > 1:
        dream = ", ".join(name for name, shifted in recipes if shifted)
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR, f"only {dream} of the adaptors were trained with training_method dream"
        )
    if len(begins) > 1:
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR,
            "some of the adaptors were trained with mask_prompt_loss=false, which puts a BOS first",
        )
    if recipes:
        base.shift = recipes[0][1]
        base.bos_first = begins.pop()
