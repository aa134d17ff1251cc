"""A job's adaptors as inputs: where the weights lie, and which base model they belong to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef


def weights_folder(folder: Path) -> Path:
    """The product of a training job holds its weights in `adaptor/`; that folder alone does as well."""
    return folder / "adaptor" if (folder / "adaptor").is_dir() else folder


def base_check(adaptor: InputRef, metadata: Mapping[str, str], model: InputRef) -> None:
    """What the file says; JobSpec has compared what the record says."""
    trained_on = metadata.get("base_sha256")
    if trained_on and trained_on != model.sha256:
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR,
            f"adaptor {adaptor.name} was trained on the base model {trained_on[:12]}, "
            f"but this job's base model {model.name} is {model.sha256[:12]}",
        )


ALIGNMENT = 64
"""Bytes. Readers map the file; a matrix that begins elsewhere is multiplied otherwise, which changes last bits."""


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The library itself writes metadata in a random order, and scalars between the matrices."""
    plain = save(dict(tensors))
    size = int.from_bytes(plain[:8], "little")
    entries: dict[str, Any] = json.loads(plain[8 : 8 + size])
    body = memoryview(plain)[8 + size :]
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks: list[memoryview] = []
    end = 0
    for name in sorted(entries, key=lambda name: (_is_odd(entries[name]), name)):
        first, last = entries[name]["data_offsets"]
        header[name] = {**entries[name], "data_offsets": [end, end + last - first]}
        chunks.append(body[first:last])
        end += last - first
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def _is_odd(entry: Mapping[str, Any]) -> bool:
    """Would push what follows off the alignment: it goes to the end."""
    first, last = entry["data_offsets"]
    return bool((last - first) % ALIGNMENT)
