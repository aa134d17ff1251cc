"""The header of a safetensors file: 8 bytes little-endian length, JSON, then data. Every number is checked."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from foundation.strict_json import JsonError, json_object_read

MAX_HEADER_BYTES = 100 << 20
"""The limit of the safetensors library itself."""
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}
OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive (as torch.save writes pickled weights)"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version ", "a Git LFS pointer (the file itself was not downloaded)"),
)
"""First bytes of other formats; as a safetensors header length they are out of range."""
NOT_WHOLE = "The file is cut short or damaged; copy or download it again."


class HeaderError(ValueError):
    """The file is not valid safetensors. The message names the file; `code` and `hint` go into API responses."""

    def __init__(self, message: str, *, code: str = "invalid", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset in the file, in bytes."""
    length: int


Tensors = dict[str, Tensor]


class Header(NamedTuple):
    tensors: Tensors
    metadata: dict[str, str]


def header_read(file: Path, name: str) -> Header:
    """The header, checked against the file's size. Raises HeaderError; its message begins with `name`."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            _other_format_check(start, name)
            raise HeaderError(
                f"{name}: the header says it has {length} bytes, the whole file has {size}", hint=NOT_WHOLE
            )
        raw = _json(opened.read(length), name)
    entries = {title: entry for title, entry in raw.items() if title != "__metadata__"}
    tensors = {title: _tensor(name, title, entry, 8 + length) for title, entry in entries.items()}
    end = sum(tensor.length for tensor in tensors.values())
    if end != size - 8 - length:
        raise HeaderError(f"{name}: its tensors need {end} bytes, the file holds {size - 8 - length}", hint=NOT_WHOLE)
    _order_check(name, tensors, 8 + length)
    return Header(tensors, _metadata(raw.get("__metadata__")))


def _other_format_check(start: bytes, name: str) -> None:
    """Recognises other formats by content, whatever the file's name."""
    if not start:
        raise HeaderError(f"{name} has zero bytes; expected safetensors", hint="Upload the file again, it came empty.")
    kind = next((kind for magic, kind in OTHER_FORMATS if start.startswith(magic)), "")
    if kind:
        renamed = " by another name" if name.endswith(".safetensors") else ""
        raise HeaderError(
            f"{name} is {kind}{renamed}; expected safetensors",
            code="pickle_refused" if "pickle" in kind else "invalid",
            hint="Save the model with safe_serialization=True, then upload again.",
        )


def _json(raw: bytes, name: str) -> dict[str, Any]:
    try:
        return json_object_read(raw, f"{name}: the header")
    except JsonError as error:
        raise HeaderError(str(error)[:500]) from None


def _tensor(name: str, title: str, entry: Any, data_start: int) -> Tensor:
    try:
        dtype, (first, last) = str(entry["dtype"]), entry["data_offsets"]
        shape = tuple(_count(side) for side in entry["shape"])
        expected = math.prod(shape) * DTYPE_BITS[dtype] // 8
        first, last = _count(first), _count(last)
    except (KeyError, TypeError, ValueError):
        raise HeaderError(f"{name}: the header's entry of tensor {title[:100]!r} cannot be read") from None
    if last - first != expected:
        message = f"{name}: tensor {title[:100]!r} of shape {list(shape)} needs {expected} bytes, got {last - first}"
        raise HeaderError(message[:500])
    return Tensor(dtype, shape, data_start + first, expected)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(value)
    return value


def _order_check(name: str, tensors: Tensors, at: int) -> None:
    """Raises HeaderError unless the tensors are contiguous: no overlap, no gap."""
    for title, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].length)):
        if tensor.start != at:
            raise HeaderError(f"{name}: tensor {title[:100]!r} starts at byte {tensor.start}, expected {at}")
        at += tensor.length


def _metadata(raw: Any) -> dict[str, str]:
    """Text entries; all others are dropped."""
    entries = raw.items() if isinstance(raw, dict) else ()
    return {key: value for key, value in entries if isinstance(value, str)}
