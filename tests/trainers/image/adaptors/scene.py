"""Adaptor files for a base: a trained one, and single pairs under the names of diffusers and of kohya."""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.trainers.core.test_lora import trained
from trainers.image.adaptors.file import WEIGHTS, adaptor_save
from trainers.image.models.base import Base

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
"""One attention projection of the tiny base, 32 -> 32; SD 1.x has it too, 320 -> 320."""
FLAT = LAYER.replace(".", "_")


def adaptor_make(base: Base, folder: Path) -> Path:
    """Folder of an adaptor with r=4 and alpha=12, whose update is not zero."""
    live = copy.deepcopy(base)
    trained(live.network, r=4, alpha=12)
    adaptor_save(live, folder, metadata={"trigger_word": "sks"}, config={"resolution": 64, "seed": 5})
    return folder


def pair(module: str, *, r: int = 4, inputs: int = 32, outputs: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        f"unet.{module}.lora_A.weight": torch.randn((r, inputs), generator=generator),
        f"unet.{module}.lora_B.weight": torch.randn((outputs, r), generator=generator),
    }


def write(folder: Path, tensors: dict[str, Tensor], alpha: dict[str, object] | None = None) -> None:
    metadata = {"lora_adapter_metadata": json.dumps(alpha)} if alpha else None
    save_file(tensors, folder / WEIGHTS, metadata=metadata)


def flat(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `pair` with kohya's names."""
    named = {key.replace(f"unet.{LAYER}", f"lora_unet_{FLAT}"): value for key, value in tensors.items()}
    names = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
    return {key.replace(old, new): v for key, v in named.items() for old, new in names.items() if old in key}
