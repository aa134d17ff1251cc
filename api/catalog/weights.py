"""The header of a safetensors file: 8 bytes little-endian length, JSON, then data. Read without trusting any number."""

import json
import math
from typing import Any

from storage import Storage

MAX_HEADER_BYTES = 100 << 20
"""The limit of the safetensors library itself."""
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}


def safetensors_check(storage: Storage, key: str, name: str, size: int) -> int:
    """How many tensors the file of `size` bytes holds. Raises ValueError that names the file and what is wrong."""
    start = b"".join(storage.open_range(key, 0, 8))
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"{name}: the header says it has {length} bytes, the whole file has {size}")
    try:
        header = json.loads(b"".join(storage.open_range(key, 8, length)))
    except (ValueError, RecursionError):
        raise ValueError(f"{name}: the header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError(f"{name}: the header is not a JSON object")
    tensors = {title: entry for title, entry in header.items() if title != "__metadata__"}
    end = sum(_tensor_bytes(name, title, entry) for title, entry in tensors.items())
    if end != size - 8 - length:
        raise ValueError(f"{name}: its tensors need {end} bytes, the file holds {size - 8 - length}")
    return len(tensors)


def _tensor_bytes(name: str, title: str, entry: Any) -> int:
    try:
        bits, shape, (first, last) = DTYPE_BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        wanted = math.prod(int(side) for side in shape) * bits // 8
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name}: the header's entry of tensor {title[:100]!r} cannot be read") from None
    if last - first != wanted or first < 0:
        raise ValueError(f"{name}: tensor {title[:100]!r} of shape {shape} needs {wanted} bytes, got {last - first}")
    return wanted
