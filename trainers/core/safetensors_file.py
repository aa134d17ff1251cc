"""The bytes of a safetensors file, the same for the same tensors and metadata."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save
from torch import Tensor

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
