"""Fills a network from a folder of safetensors, strictly: nothing missing, nothing left over, every shape right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from formats.base_model import MAX_INDEX_BYTES, json_file_read
from formats.image_configs import shard_files
from formats.safetensors_header import PICKLE_ENDINGS
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.folder_views import bad_files

SHOWN = 3
"""Names in one error."""


def weights_fill(model: Any, folder: Path, native_name: Callable[[str], str | None]) -> None:
    """Copies every tensor of `folder` to the parameter of its native name, in the parameter's dtype and device.

    Raises TrainerError(BAD_BASE_MODEL) that names the tensors that are missing, unexpected or of another shape.
    """
    model.tie_weights()
    targets = {**dict(model.named_parameters(remove_duplicate=False)), **_saved_buffers(model)}
    places = {name: path for path in weight_files(folder) for name in _names(path)}
    native = {name: new for name in places if (new := native_name(name)) is not None}
    _check_names(targets, native)
    for path in sorted(set(places.values())):
        _copy(path, {name: targets[new] for name, new in native.items() if places[name] == path})


def weight_files(folder: Path) -> list[Path]:
    """The shards that the index names, or the one file. Pickle is never loaded."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if len(found) == 1:
            return found
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_ENDINGS)
        what = f"{pickles[0]}, which is pickle and never loaded" if pickles and not found else f"{len(found)} of them"
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
