"""Checkpoints: folders `step-00000100/` that are complete, verified, and free of pickle.

Tensors lie in one safetensors file per part (weights, optimizer, rng), everything else in `state.json`;
`manifest.json` holds the SHA-256 of each file. The folder is renamed into place, so an interrupted write leaves none.
"""

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundation.atomic import folder_write, json_write, sync
from foundation.digests import file_list, sha256_of
from trainers.contract.errors import ReasonCode, TrainerError

Parts = Mapping[str, Mapping[str, Tensor]]


class Loaded(NamedTuple):
    step: int
    tensors: dict[str, dict[str, Tensor]]
    """By part, then by name, on the CPU."""
    state: dict[str, Any]


def checkpoint_save(root: Path, *, step: int, tensors: Parts, state: Mapping[str, Any], keep: int) -> Path:
    """Writes `root/step-<step>` and removes all but the latest `keep`. Returns the folder."""

    def write(draft: Path) -> None:
        for part, named in tensors.items():
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()},
                draft / f"{part}.safetensors",
            )
        json_write(draft / "state.json", {"step": step, **state})
        for path in draft.iterdir():
            sync(path)
        json_write(draft / "manifest.json", {"step": step, "files": file_list(draft)})

    folder = root / f"step-{step:08d}"
    folder_write(folder, write)
    for old in sorted(root.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return folder


def checkpoint_load(folder: Path) -> Loaded:
    """Reads a checkpoint after checking every digest. TrainerError CHECKPOINT_DAMAGED names the damaged file."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        files = {str(entry["path"]): str(entry["sha256"]) for entry in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad(f"{folder.name}/manifest.json cannot be read: {error}") from error
    for name, digest in files.items():
        path = folder / name
        received = sha256_of(path) if path.is_file() else "no file"
        if received != digest:
            raise _bad(f"expected SHA-256 {digest[:12]} of {folder.name}/{name}, got {received[:12]}")
    if "state.json" not in files:
        raise _bad(f"{folder.name} has no state.json")
    tensors = {Path(name).stem: load_file(folder / name) for name in files if name.endswith(".safetensors")}
    return Loaded(int(manifest["step"]), tensors, json.loads((folder / "state.json").read_bytes()))


def newest_checkpoint(*candidates: Path | None) -> Path | None:
    """The complete checkpoint with the most steps; a candidate is a checkpoint, a folder of checkpoints, or None."""
    folders = [path for root in candidates if root is not None for path in (root, *root.glob("step-*"))]
    complete = [path for path in folders if (path / "manifest.json").is_file()]
    return max(complete, key=_step_of, default=None)


def _step_of(folder: Path) -> int:
    try:
        return int(json.loads((folder / "manifest.json").read_bytes())["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise _bad(f"{folder.name}/manifest.json cannot be read: {error}") from error


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.CHECKPOINT_DAMAGED, message)


class State(NamedTuple):
    tensors: dict[str, Tensor]
    values: Any
    """What JSON can hold."""


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Tensors as `<parameter index>.<name>`; values: {"groups": [...], "others": {<index>.<name>: number}}."""
    full = optimizer.state_dict()
    flat = {f"{index}.{name}": value for index, named in full["state"].items() for name, value in _flat(named)}
    tensors = {name: value.detach().cpu() for name, value in flat.items() if isinstance(value, Tensor)}
    others = {name: value for name, value in flat.items() if not isinstance(value, Tensor)}
    return State(_unshared(tensors), {"groups": full["param_groups"], "others": others})


def optimizer_load_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    named: dict[int, dict[str, Any]] = {}
    for name, value in {**state.tensors, **state.values["others"]}.items():
        index, _, key = name.partition(".")
        named.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": named, "param_groups": state.values["groups"]})


def _flat(named: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Entries of one parameter. bitsandbytes nests those in 8 bits in a table, but loads them from a flat one."""
    for name, value in named.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Clones tensors that share memory, as bitsandbytes' tables do: safetensors refuses two names for one memory."""
    visited: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        unshared[name] = tensor.clone() if tensor.data_ptr() in visited else tensor
        visited.add(tensor.data_ptr())
    return unshared


def rng_state() -> State:
    """The global generators of this process: python, numpy, torch, and the accelerator where it is used."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        tensors["cuda"] = torch.cuda.get_rng_state()
    numpy_state = [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)]
    return State(tensors, {"python": [version, list(words), gauss], "numpy": numpy_state})


def rng_load_state(state: State) -> None:
    version, words, gauss = state.values["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state.values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state.tensors["torch"])
    if "cuda" in state.tensors and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # as above
        torch.cuda.set_rng_state(state.tensors["cuda"])
