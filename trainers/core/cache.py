"""Tensors computed once per host and content: one safetensors file each, safe to delete, safe to share."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foundation.atomic import file_mark_used, file_write
from trainers.contract.events import Progress
from trainers.contract.spec import canonical_json
from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.reporting import Reporter

REPORT_SECONDS = 1.0
HELD_BYTES = 8 << 30
"""Memory that one store may take in a process; entries beyond it are read from disk at each access."""
Tensors = dict[str, Tensor]
Makers = Mapping[str, Callable[[], Tensors]]


class Store(Mapping[str, Tensors]):
    """The entries of a job, in memory up to `held_bytes`."""

    def __init__(self, folder: Path, makers: Makers, held_bytes: int) -> None:
        self._folder = folder
        self._makers = makers
        self._left = held_bytes
        self._held: dict[str, Tensors] = {}

    def __getitem__(self, key: str) -> Tensors:
        """From memory, from the folder, or computed now if the file was deleted."""
        if key in self._held:
            return self._held[key]
        tensors = _read_or_make(self._folder / f"{key}.safetensors", self._makers[key])
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size <= self._left:
            self._left -= size
            self._held[key] = tensors
        return tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def tensors_cached(
    folder: Path, makers: Makers, *, stage: str, processes: Processes, control: Control, reporter: Reporter
) -> Store | None:
    """The tensors of each key, on the CPU: from `folder`, else computed, one at a time, and stored.

    Each rank computes its share, then reads the rest. None: the job was stopped meanwhile.
    """
    keys = list(makers)
    store = Store(folder, makers, HELD_BYTES)
    reported_at = 0.0
    for start in range(0, len(keys), processes.world_size):
        if control.agree_to_stop():
            return None
        for key in keys[start : start + processes.world_size][processes.rank :][:1]:
            store[key]
        done = min(start + processes.world_size, len(keys))
        if done == len(keys) or time.monotonic() - reported_at > REPORT_SECONDS:
            reported_at = time.monotonic()
            reporter.emit(Progress(stage=stage, done=done, total=len(keys)))
    processes.barrier()
    return store


def cache_key(**content: Any) -> str:
    """Key of an entry from all that its bits depend on."""
    return hashlib.sha256(canonical_json(content)).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights in their dtype."""
    return _digest((f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor) for name, tensor in _weights(module))


def stores_digest(stores: Mapping[str, Mapping[str, Tensors]]) -> str:
    """SHA-256 of all entries: if it differs on resume, the cache was rebuilt with other bits."""
    return _digest(
        (f"{kind} {key} {name}", tensor)
        for kind, store in sorted(stores.items())
        for key in sorted(store)
        for name, tensor in sorted(store[key].items())
    )


def _digest(named: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _weights(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in sorted(module.state_dict().items()) if isinstance(value, Tensor)]


def _read_or_make(path: Path, make: Callable[[], Tensors]) -> Tensors:
    if path.exists():
        try:
            value = load_file(path)
            file_mark_used(path)
            return value
        except FileNotFoundError:
            pass  # deleted meanwhile, to bound the cache
        except SafetensorError:
            path.unlink(missing_ok=True)
    value = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
    file_write(path, lambda draft: save_file(value, draft))
    return value


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


class EncodingCache(NamedTuple):
    cache: Path
    """Folder of this host, shared by jobs and ranks."""
    processes: Processes
    control: Control
    reporter: Reporter

    def keep(self, name: str, stage: str, makers: Makers) -> Store | None:
        """The tensors of each key, computed where the cache lacks them; None: the job was stopped meanwhile."""
        return tensors_cached(
            self.cache / name,
            makers,
            stage=stage,
            processes=self.processes,
            control=self.control,
            reporter=self.reporter,
        )
