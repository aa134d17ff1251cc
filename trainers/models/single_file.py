"""Parts of a single-file checkpoint under the names of diffusers and transformers, by diffusers' own converters."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import single_file_utils
from torch import Tensor

from formats.single_file import Checkpoint
from trainers.errors import ReasonCode, TrainerError

CONVERTERS: Any = single_file_utils  # its functions have no types
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BUFFERS = ("embeddings.position_ids",)
"""Ends of names that old files hold and that networks compute."""
OPEN_CLIP = {"sd2": "text_encoder", "sdxl": "text_encoder_2"}
"""Text encoders under the names of OpenCLIP, whose query, key and value are one matrix."""


def part_tensors(
    state: dict[str, Tensor], checkpoint: Checkpoint, part: str, config: dict[str, Any]
) -> dict[str, Tensor]:
    """The tensors of `part`, each with storage of its own; `config` is that of the part in a base of the same family.

    Raises TrainerError(BAD_BASE_MODEL) where the file is no whole part of that family.
    """
    prefix = checkpoint.parts[part]
    inside = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    _dtypes_check(inside)
    try:
        converted = _converted(inside, checkpoint.family, part, prefix, config)
    except (KeyError, IndexError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"the file's {part} is not that of a {checkpoint.title} like the base: {error!r}"
        ) from error
    return {
        name: tensor.detach().clone().contiguous() for name, tensor in converted.items() if not name.endswith(BUFFERS)
    }


def _converted(
    inside: dict[str, Tensor], family: str, part: str, prefix: str, config: dict[str, Any]
) -> dict[str, Tensor]:
    plain = {name.removeprefix(prefix): tensor for name, tensor in inside.items()}
    converted: dict[str, Tensor]
    if part == "unet":
        converted = CONVERTERS.convert_ldm_unet_checkpoint(inside, config)
    elif part == "vae":
        converted = CONVERTERS.convert_ldm_vae_checkpoint(inside, config)
    elif part == "transformer":
        name = f"convert_{family}_transformer_checkpoint_to_diffusers"
        converted = getattr(CONVERTERS, name)(plain)
    elif OPEN_CLIP.get(family) == part:
        encoder = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        converted = CONVERTERS.convert_open_clip_checkpoint(encoder, inside, prefix=prefix)
    elif family == "sd3" and part == "text_encoder":  # the file leaves out a projection that changes nothing
        converted = {"text_projection.weight": torch.eye(config["hidden_size"]), **plain}
    else:
        converted = plain
    return converted


def _dtypes_check(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in DTYPES:
            raise TrainerError(
                ReasonCode.BAD_BASE_MODEL, f"{name} is {tensor.dtype}; expected weights in float32, float16 or bfloat16"
            )
