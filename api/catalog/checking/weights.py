"""A safetensors file: 8 bytes little-endian length, JSON, then data. Read without trusting any number."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from api.catalog.checking.finite import nonfinite_count
from api.catalog.checking.report import Refused
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
    (b"PK\x03\x04", "a zip archive, as torch.save writes pickled weights,"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version ", "a Git LFS pointer (the file itself was not downloaded)"),
)
"""First bytes of files whose length of a header, which these bytes are in safetensors, makes no sense."""


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int
    """In the file, in bytes."""
    length: int


Tensors = dict[str, Tensor]


def tensors_read(file: Path, name: str) -> Tensors:
    """What the header says, checked against the file's size. Raises Refused."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            _other_format_check(start, name)
            raise Refused(f"{name}: the header says it has {length} bytes, the whole file has {size}")
        header = _header(opened.read(length), name)
    tensors = {
        title: _tensor(name, title, entry, 8 + length) for title, entry in header.items() if title != "__metadata__"
    }
    end = sum(tensor.length for tensor in tensors.values())
    if end != size - 8 - length:
        raise Refused(f"{name}: its tensors need {end} bytes, the file holds {size - 8 - length}")
    _order_check(name, tensors, 8 + length)
    return tensors


def finite_check(file: Path, name: str, tensors: Tensors) -> None:
    """Raises Refused that names the tensors with NaN or infinity."""
    faults = []
    with file.open("rb") as opened:
        for title, tensor in tensors.items():
            if count := nonfinite_count(opened, tensor.start, tensor.length, tensor.dtype):
                total = math.prod(tensor.shape)
                faults.append(f"{name}: tensor {title[:200]!r} has {count} of {total} values that are not finite")
    if faults:
        raise Refused(*faults, code="nonfinite_weights", hint="Save the model before it diverged, then upload again.")


def _other_format_check(start: bytes, name: str) -> None:
    """Weights of other programs keep their bytes when somebody renames the file."""
    if not start:
        raise Refused(f"{name} has zero bytes; expected safetensors", hint="Upload the file again, it came empty.")
    kind = next((kind for magic, kind in OTHER_FORMATS if start.startswith(magic)), "")
    if kind:
        raise Refused(
            f"{name} is {kind} by another name; expected safetensors",
            code="pickle_refused" if "pickle" in kind else "invalid",
            hint="Save the model with safe_serialization=True, then upload again.",
        )


def _header(raw: bytes, name: str) -> dict[str, Any]:
    try:
        return json_object_read(raw, f"{name}: the header")
    except JsonError as error:
        raise Refused(str(error)[:500]) from None


def _tensor(name: str, title: str, entry: Any, data_start: int) -> Tensor:
    try:
        dtype, (first, last) = str(entry["dtype"]), entry["data_offsets"]
        shape = tuple(_whole(side) for side in entry["shape"])
        wanted = math.prod(shape) * DTYPE_BITS[dtype] // 8
        first, last = _whole(first), _whole(last)
    except (KeyError, TypeError, ValueError):
        raise Refused(f"{name}: the header's entry of tensor {title[:100]!r} cannot be read") from None
    if last - first != wanted:
        said = f"{name}: tensor {title[:100]!r} of shape {list(shape)} needs {wanted} bytes, got {last - first}"
        raise Refused(said[:500])
    return Tensor(dtype, shape, data_start + first, wanted)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(value)
    return value


def _order_check(name: str, tensors: Tensors, at: int) -> None:
    """Tensors follow each other without a gap: no byte is read twice, none is hidden."""
    for title, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].length)):
        if tensor.start != at:
            raise Refused(f"{name}: tensor {title[:100]!r} starts at byte {tensor.start}, expected {at}")
        at += tensor.length
