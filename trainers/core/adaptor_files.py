"""Adaptors as files, of any modality: their folder, their base model, and the bytes of a weights file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef


def weights_folder(folder: Path) -> Path:
    """The folder with the weights: `adaptor/` in the product of a training job, or `folder` itself."""
    return folder / "adaptor" if (folder / "adaptor").is_dir() else folder


def base_check(adaptor: InputRef, metadata: Mapping[str, str], model: InputRef) -> None:
    """Compares the base model that the file names; JobSpec has compared the one of the record."""
    trained_on = metadata.get("base_sha256")
    if trained_on and trained_on != model.sha256:
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR,
            f"adaptor {adaptor.name} was trained on the base model {trained_on[:12]}, "
            f"but this job's base model {model.name} is {model.sha256[:12]}",
        )


ALIGNMENT = 64
"""Bytes. Readers map the file; the alignment of a matrix changes how it is multiplied, and thus the last bits."""


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, the same for the same tensors and metadata.

    The library itself writes metadata in a random order, and scalars between the matrices.
    """
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
    """Whether it would break the alignment of what follows; such entries go to the end."""
    first, last = entry["data_offsets"]
    return bool((last - first) % ALIGNMENT)
