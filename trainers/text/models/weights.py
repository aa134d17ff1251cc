"""Reads a text model's weights from safetensors, strictly, and writes model folders in our or the authors' format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from formats.models.configs import MAX_INDEX_BYTES, PICKLE_ENDINGS, json_file_read, shard_files
from formats.models.text_configs import MARK
from foundation.atomic import folder_write, json_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.model_files import bad_files
from trainers.text.models.base import TextBase, mask_row_of
from trainers.text.models.families import FAMILIES

SHOWN = 3
"""Maximum number of tensor names in an error message."""


ORIGINAL = "original"
"""Folder in a fused model with the same weights in the authors' format."""
RENAMED = ("llada", "dream")
"""Families whose original format differs from that of the transformers class."""


def weights_fill(model: Any, folder: Path, native_name: Callable[[str], str | None]) -> None:
    """Copies every tensor of `folder` to the parameter that `native_name` gives, in the parameter's dtype and device.

    Raises TrainerError(BAD_BASE_MODEL) that names missing or unexpected tensors and those of another shape.
    """
    model.tie_weights()
    targets = {**dict(model.named_parameters(remove_duplicate=False)), **_saved_buffers(model)}
    places = {name: path for path in weight_files(folder) for name in _names(path)}
    native = {name: new for name in places if (new := native_name(name)) is not None}
    _check_names(targets, native)
    for path in sorted(set(places.values())):
        _copy(path, {name: targets[new] for name, new in native.items() if places[name] == path})


def weight_files(folder: Path) -> list[Path]:
    """The shards in the index, or the only file. Never loads pickle."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if len(files) == 1:
            return files
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_ENDINGS)
        what = f"{pickles[0]}, which is pickle and never loaded" if pickles and not files else f"{len(files)} of them"
        raise _bad(f"expected one safetensors file or model.safetensors.index.json, found {what}")
    with bad_files():
        names = sorted(set(shard_files(json_file_read(index, index.name, most=MAX_INDEX_BYTES), index.name).values()))
    for name in names:
        if not (folder / name).is_file():
            raise _bad(f"{index.name} names the shard {name}, which is not there")
    return [folder / name for name in names]


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise _bad(f"{path.name} is not a safetensors file: {error}") from error


def _check_names(targets: dict[str, Any], native: dict[str, str]) -> None:
    if unexpected := sorted(name for name, new in native.items() if new not in targets):
        raise _bad(f"{_listed(unexpected)} fit no weight of the network")
    filled = {id(targets[new]) for new in native.values()}
    if missing := sorted(name for name, target in targets.items() if id(target) not in filled):
        raise _bad(f"the weights {_listed(missing)} are missing")


@torch.no_grad()
def _copy(path: Path, targets: dict[str, Any]) -> None:
    with safe_open(path, framework="pt") as file:
        for name, target in targets.items():
            tensor = file.get_tensor(name)
            if tensor.shape != target.shape:
                raise _bad(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}")
            target.copy_(tensor)


def _saved_buffers(model: Any) -> dict[str, Any]:
    names = set(model.state_dict())
    return {name: buffer for name, buffer in model.named_buffers() if name in names}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_BASE_MODEL, message)


SHARD = "4GB"


def model_write(base: TextBase, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes a fused model in our format, and in `original/` in the authors' format where it differs."""
    save_text(base, folder, dtype=dtype)
    if base.family in RENAMED:
        export_original(base, folder / ORIGINAL, dtype=dtype)


def save_text(base: TextBase, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes a folder for `load_text` and the transformers class. `dtype` of the file; None: that of the weights.

    The config has `is_causal: false`, and under "diffusion" the fields that the class lacks.
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
    _folder_write(base, folder, config, _tensors(base, dtype))


def export_original(base: TextBase, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes the authors' format: LLaDA's or Dream's `model_type`, tensor names and settings.

    Settings of the original checkpoint take precedence; our mark preserves them.
    """
    family = FAMILIES[base.family]
    native = base.model.config
    native.mask_token_id = base.mask_id
    original = dict((getattr(native, MARK, None) or {}).get("original_config") or {})
    config = family.original_config(native)
    sizes: dict[str, Any] = {key: native.vocab_size for key in ("vocab_size", "embedding_size") if key in config}
    tensors = {family.original_name(name): tensor for name, tensor in _tensors(base, dtype).items()}
    _folder_write(base, folder, {**config, **original, **sizes, "mask_token_id": base.mask_id}, tensors)


def _tensors(base: TextBase, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Every weight once, on the CPU. Adaptors must be merged before."""
    assert not getattr(base.model, "peft_config", None) and mask_row_of(base) is None
    tied = set(base.model.all_tied_weights_keys) if base.model.config.tie_word_embeddings else set()
    state = {name: value for name, value in base.model.state_dict().items() if name not in tied}
    return {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }


def _folder_write(base: TextBase, folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
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
