"""The parts of a single-file checkpoint, with their tensors renamed as in diffusers and transformers.

diffusers' own converters do it, except for Flux.1: theirs splits `linear1` at 3072, the width of the published models.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from torch import Tensor

from formats.models.adaptors import FLUX_DOUBLE, FLUX_OUTER, FLUX_SINGLE
from formats.models.image_families import CLIP, FAMILIES
from formats.models.single_file import Checkpoint
from formats.models.single_file_configs import OPEN_CLIP
from trainers.contract.errors import ReasonCode, TrainerError

CONVERTERS: Any = single_file_utils  # its functions have no types
BUFFERS = ("embeddings.position_ids",)
"""Ends of the names of buffers that old files contain and that networks compute."""
PROJECTION = "text_projection.weight"
Tensors = dict[str, Tensor]
MODULATION = "final_layer.adaLN_modulation.1"
OUTER = {name: layers[0] for name, layers in FLUX_OUTER.items() if name != MODULATION}
BLOCK_LAYERS = {
    "double": FLUX_DOUBLE
    | {
        "img_attn.norm.query_norm": ("attn.norm_q",),
        "img_attn.norm.key_norm": ("attn.norm_k",),
        "txt_attn.norm.query_norm": ("attn.norm_added_q",),
        "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    },
    "single": FLUX_SINGLE | {"norm.query_norm": ("attn.norm_q",), "norm.key_norm": ("attn.norm_k",)},
}
"""By kind of block. diffusers splits matrices of several layers; the last part of `linear1` is the rest after three of
the model's width."""
BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)")


def part_tensors(path: Path, checkpoint: Checkpoint, part: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of `part`, each with its own storage; `config` of the part is from `models.single_file_configs`.

    Raises TrainerError(BAD_BASE_MODEL) if the part is incomplete or not of that family.
    """
    prefix = checkpoint.parts[part]
    others = tuple(other for other in checkpoint.parts.values() if other and other != prefix)
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix) and not name.startswith(others)]  # noqa: SIM118
        inside = {name: file.get_tensor(name) for name in names}
    converted = part_convert(inside, checkpoint, part, config)
    return {name: _with_storage(tensor) for name, tensor in converted.items()}


def part_convert(
    tensors: dict[str, Tensor], checkpoint: Checkpoint, part: str, config: dict[str, Any]
) -> dict[str, Tensor]:
    """`tensors`, whose names begin with the part's prefix, under diffusers' names; some share their storage."""
    try:
        converted = _converted(tensors, checkpoint.family, part, checkpoint.parts[part], config)
    except (KeyError, IndexError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"the file's {part} is not that of a {checkpoint.title}: {error!r:.200}"
        ) from error
    return {name: tensor for name, tensor in converted.items() if not name.endswith(BUFFERS)}


def _with_storage(tensor: Tensor) -> Tensor:
    """A copy if it is a slice of a larger one."""
    is_slice = tensor.untyped_storage().nbytes() != tensor.nbytes
    return tensor.clone(memory_format=torch.contiguous_format) if is_slice else tensor.contiguous()


def _converted(
    inside: dict[str, Tensor], family: str, part: str, prefix: str, config: dict[str, Any]
) -> dict[str, Tensor]:
    plain = {name.removeprefix(prefix): tensor for name, tensor in inside.items()}
    converted: dict[str, Tensor]
    if part == "unet":
        converted = CONVERTERS.convert_ldm_unet_checkpoint(inside, config)
        _rest_check(len(inside) - len(converted))
    elif part == "vae":
        converted = CONVERTERS.convert_ldm_vae_checkpoint(inside, config)
    elif part == "transformer" and family == "flux":
        converted = flux_convert(plain)
    elif part == "transformer":
        converted = CONVERTERS.convert_sd3_transformer_checkpoint_to_diffusers(plain)
        _rest_check(len(plain))  # the converter removes what it has converted
    elif OPEN_CLIP.get(family) == part:
        encoder = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        converted = CONVERTERS.convert_open_clip_checkpoint(encoder, inside, prefix=prefix)
    elif family == "sd3" and part == "text_encoder":  # most files omit the projection, an identity
        dtype = next(iter(plain.values())).dtype
        converted = {PROJECTION: torch.eye(config["hidden_size"], dtype=dtype), **plain}
    elif FAMILIES[family].parts[part] == CLIP:
        converted = {name: tensor for name, tensor in plain.items() if name != PROJECTION}
    else:
        converted = plain
    return converted


def _rest_check(count: int) -> None:
    if count:
        raise ValueError(f"{count} of its tensors do not belong to that network")


def flux_convert(tensors: Tensors) -> Tensors:
    """Renames Flux.1's tensors, without prefix, for any width. Raises KeyError for an unexpected name."""
    width = tensors["img_in.weight"].shape[0]
    converted: Tensors = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module == MODULATION:
            shift, scale = tensor.chunk(2)
            converted[f"norm_out.linear.{kind}"] = torch.cat([scale, shift])
        elif block := BLOCK.fullmatch(module):
            converted |= _block(tensor, block[1], int(block[2]), block[3], kind, width)
        else:
            converted[f"{OUTER[module]}.{kind}"] = tensor
    return converted


def _block(tensor: Tensor, stream: str, index: int, module: str, kind: str, width: int) -> Tensors:
    start = f"transformer_blocks.{index}." if stream == "double" else f"single_transformer_blocks.{index}."
    names = BLOCK_LAYERS[stream][module]
    if len(names) == 1:
        return {f"{start}{names[0]}.{'weight' if kind == 'scale' else kind}": tensor}
    rest = tensor.shape[0] - width * (len(names) - 1)
    parts = torch.split(tensor, [width] * (len(names) - 1) + [rest])
    return {f"{start}{name}.{kind}": part for name, part in zip(names, parts, strict=True)}
