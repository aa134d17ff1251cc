"""In which dtype a base model's own files hold its network."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored_dtype(folder: Path) -> torch.dtype:
    """Of the unet's or transformer's first weight; fp32 where it cannot be told, so that nothing is rounded."""
    for path in sorted([*folder.glob("unet/*.safetensors"), *folder.glob("transformer/*.safetensors")]):
        try:
            with safe_open(path, framework="pt") as file:
                for key in sorted(file.keys()):
                    return DTYPES.get(file.get_slice(key).get_dtype(), torch.float32)
        except SafetensorError:
            break
    return torch.float32
