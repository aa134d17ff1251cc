"""Writes a text model: in our class's names, which stock transformers opens, or in its authors' own."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from formats.text_configs import MARK
from foundation.atomic import folder_write, json_write
from trainers.text.models.base import TextBase, mask_row_of
from trainers.text.models.families import FAMILIES

SHARD = "4GB"


def save_text(base: TextBase, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """`folder` opens by `load_text` and by the stock class that its config names; `dtype` of the file: None = as is.

    The config says `is_causal: false`, and under "diffusion" what the class does not know.
    """
    config = base.model.config.to_dict()
    mark = dict(config.get(MARK) or {})
    config |= {
        "architectures": [type(base.model).__name__],
        "is_causal": False,
        "mask_token_id": base.mask_id,
        MARK: mark
        | {
            "family": base.family,
            "mask_id": base.mask_id,
            "eos_id": base.eos_id,
            "pad_id": base.pad_id,
            "bos_id": base.bos_id,
            "shift": base.shift,
            "bos_first": base.bos_first,
            "was_causal": False,
        },
    }
    _write(base, folder, config, _tensors(base, dtype))


def export_original(base: TextBase, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """In the format that the base's authors ship: LLaDA's or Dream's `model_type`, tensor names and settings.

    Settings of the checkpoint that it was loaded from are kept; a folder with our mark kept them too.
    """
    family = FAMILIES[base.family]
    native = base.model.config
    native.mask_token_id = base.mask_id
    first = dict((getattr(native, MARK, None) or {}).get("original_config") or {})
    made = family.original_config(native)
    sizes: dict[str, Any] = {key: native.vocab_size for key in ("vocab_size", "embedding_size") if key in made}
    tensors = {family.original_name(name): tensor for name, tensor in _tensors(base, dtype).items()}
    _write(base, folder, {**made, **first, **sizes, "mask_token_id": base.mask_id}, tensors)


def _tensors(base: TextBase, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Every weight once, on the CPU. Adaptors must have been merged before."""
    assert not getattr(base.model, "peft_config", None) and mask_row_of(base) is None
    tied = set(base.model.all_tied_weights_keys) if base.model.config.tie_word_embeddings else set()
    state = {name: value for name, value in base.model.state_dict().items() if name not in tied}
    return {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }


def _write(base: TextBase, folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    weights = next(value.dtype for value in tensors.values() if value.is_floating_point())
    plain = {key: value for key, value in config.items() if key not in ("torch_dtype", "_name_or_path")}

    def write(draft: Path) -> None:
        base.tokenizer.save_pretrained(draft)
        json_write(draft / "config.json", plain | {"dtype": str(weights).removeprefix("torch.")})
        _shards_write(draft, tensors)

    folder_write(folder, write)


def _shards_write(folder: Path, tensors: dict[str, Tensor]) -> None:
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        json_write(folder / "model.safetensors.index.json", index)
