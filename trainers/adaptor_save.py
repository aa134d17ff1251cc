"""Writes a trained adaptor as files that diffusers and other tools read."""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn

from trainers.adaptor_file import WEIGHTS
from trainers.atomic import bytes_write
from trainers.lora import TARGETS, TRAINED, lora_state


def adaptor_save(unet: nn.Module, folder: Path, *, metadata: dict[str, str]) -> Path:
    """Writes `folder/pytorch_lora_weights.safetensors`; diffusers' `load_lora_weights` reads it with the same alpha.

    `metadata` joins the file's header. Equal weights and metadata give equal bytes.
    """
    config: LoraConfig = unet.peft_config[TRAINED]  # type: ignore[index, assignment]
    header = {
        **metadata,
        "format": "pt",
        "lora_adapter_metadata": json.dumps(
            {"unet.r": config.r, "unet.lora_alpha": config.lora_alpha, "unet.target_modules": TARGETS}, sort_keys=True
        ),
    }
    tensors = {f"unet.{key}": value for key, value in lora_state(unet).items()}
    bytes_write(folder / WEIGHTS, file_bytes(tensors, header))
    return folder / WEIGHTS


def file_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file; the library itself writes metadata in a random order, which would change the digest."""
    plain = save(tensors)
    size = int.from_bytes(plain[:8], "little")
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items())), **json.loads(plain[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + plain[8 + size :]
