"""What must be put back for an exact resume, as tensors and plain values: no pickle."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


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
    """Entries of one parameter; bitsandbytes lays those in 8 bits into a table of their own, and loads them without."""
    for name, value in named.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file of tensors holds no two names of one memory, as bitsandbytes' tables are."""
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
