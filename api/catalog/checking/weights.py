"""A safetensors file of an upload: its header as `formats` reads it, and values that are finite."""

import math
from pathlib import Path

from api.catalog.checking.finite import nonfinite_count
from api.catalog.checking.report import HINT, Refused
from formats.safetensors_header import HeaderError, Tensors, header_read


def tensors_read(file: Path, name: str) -> Tensors:
    """What the header says, checked against the file's size. Raises Refused."""
    try:
        return header_read(file, name).tensors
    except HeaderError as error:
        raise Refused(str(error), code=error.code, hint=error.hint or HINT) from None


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
