"""Tensors computed once per host and content: one safetensors file each, safe to delete, safe to share."""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainers.atomic import file_write
from trainers.control import Control
from trainers.distributed import Processes
from trainers.events import Progress
from trainers.spec import canonical_json
from trainers.tracking import Reporter

TELL_EVERY_SECONDS = 1.0
Makers = Mapping[str, Callable[[], Tensor]]


def tensors_cached(
    folder: Path, makers: Makers, *, stage: str, processes: Processes, control: Control, reporter: Reporter
) -> dict[str, Tensor] | None:
    """The tensor of each key, on the CPU: from `folder`, else made, one at a time, and stored.

    Ranks make their shares, then read the rest. None: a stop was wanted in between.
    """
    keys = list(makers)
    found: dict[str, Tensor] = {}
    told = 0.0
    for start in range(0, len(keys), processes.world_size):
        if control.agree_to_stop():
            return None
        for key in keys[start : start + processes.world_size][processes.rank :][:1]:
            found[key] = _read_or_make(folder / f"{key}.safetensors", makers[key])
        done = min(start + processes.world_size, len(keys))
        if done == len(keys) or time.monotonic() - told > TELL_EVERY_SECONDS:
            told = time.monotonic()
            reporter.say(Progress(stage=stage, done=done, total=len(keys)))
    processes.barrier()
    return {
        key: found[key] if key in found else _read_or_make(folder / f"{key}.safetensors", makers[key]) for key in keys
    }


def cache_key(**content: Any) -> str:
    """Key of an entry from all that its bits depend on."""
    return hashlib.sha256(canonical_json(content)).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights in their dtype."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of keys and contents: another one on resume means that the cache was rebuilt to other bits."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(_bytes(tensors[key]))
    return digest.hexdigest()


def _read_or_make(path: Path, make: Callable[[], Tensor]) -> Tensor:
    if path.exists():
        try:
            return load_file(path)["value"]
        except (SafetensorError, KeyError):
            path.unlink(missing_ok=True)
    value = make().detach().cpu().contiguous()
    file_write(path, lambda draft: save_file({"value": value}, draft))
    return value


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
