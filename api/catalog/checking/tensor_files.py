"""All safetensors files of an upload: each whole and finite, and a model cut into several with none missing."""

import math
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from api.catalog.checking.configs import json_object
from api.catalog.checking.report import HINT, Notices, Refused
from api.catalog.checking.work import Work, ending
from formats.models.adaptors import DOWN, KOHYA_ALPHA, UP
from formats.models.configs import ConfigError, shard_files
from formats.models.safetensors_header import HeaderError, Tensors, header_read

INDEX = ".safetensors.index.json"
NAMED = 5
PIECE_BYTES = 4 << 20
KINDS = (*DOWN, *UP, KOHYA_ALPHA)


def tensor_files_read(work: Work) -> dict[str, Tensors]:
    """The tensors of each file by its path. Raises Refused that names the file or tensor at fault."""
    tensors_by_path: dict[str, Tensors] = {}
    for path in work.paths:
        if ending(path) == ".safetensors":
            tensors_by_path[path] = tensors_read(work.open(path), path)
            finite_check(work.open(path), path, tensors_by_path[path])
    for path in work.paths:
        if path.endswith(INDEX):
            _index_check(work, path, tensors_by_path)
    return tensors_by_path


def _index_check(work: Work, index: str, tensors_by_path: dict[str, Tensors]) -> None:
    """Each tensor that the index names lies in the file that it names."""
    try:
        places = shard_files(json_object(work, index), index)
    except ConfigError as error:
        raise Refused(*error.faults) from None
    folder = PurePosixPath(index).parent
    files = {name: str(folder / name) for name in places.values()}
    if missing := sorted(name for name, path in files.items() if path not in tensors_by_path):
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        message = f"{index} names {len(files)} files, but {', '.join(missing[:NAMED])[:500]}{more} did not come"
        raise Refused(message, code="shards_missing", hint="Upload every file that the index names.")
    for tensor, name in places.items():
        if tensor not in tensors_by_path[files[name]]:
            raise Refused(f"{index}: tensor {tensor[:200]!r} is not in {name[:200]}, which the index names for it")


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


class Layout(NamedTuple):
    """Little endian. A byte b counts where b & mask == mask; where both count, the value is not finite."""

    width: int
    top: int
    """Mask of the last byte."""
    second: int = 0
    """Mask of the byte before it; 0 = the exponent lies in the last byte alone."""


LAYOUTS = {
    "F64": Layout(8, 0x7F, 0xF0),
    "F32": Layout(4, 0x7F, 0x80),
    "BF16": Layout(2, 0x7F, 0x80),
    "F16": Layout(2, 0x7C),
    "F8_E5M2": Layout(1, 0x7C),
    "F8_E4M3": Layout(1, 0x7F),
}
"""E4M3 has no infinity, and of NaN only the pattern with all bits set."""


def nonfinite_count(file: BinaryIO, start: int, length: int, dtype: str) -> int:
    """How many values of `length` bytes from `start` are NaN or infinite; 0 for whole numbers."""
    layout = LAYOUTS.get(dtype)
    if layout is None:
        return 0
    file.seek(start)
    count = 0
    while length > 0:
        piece = file.read(min(PIECE_BYTES, length))
        if not piece:
            raise EOFError("the file is shorter than its header says")
        length -= len(piece)
        count += _piece_count(piece, layout)
    return count


def _piece_count(piece: bytes, layout: Layout) -> int:
    tops = piece[layout.width - 1 :: layout.width].translate(TABLES[layout.top])
    if not layout.second:
        return tops.count(1)
    if 1 not in tops:
        return 0
    seconds = piece[layout.width - 2 :: layout.width].translate(TABLES[layout.second])
    return (int.from_bytes(tops, "little") & int.from_bytes(seconds, "little")).bit_count()


def _table(mask: int) -> bytes:
    return bytes(byte & mask == mask for byte in range(256))


TABLES = {mask: _table(mask) for layout in LAYOUTS.values() for mask in layout[1:]}


def is_lora(tensors: Tensors) -> bool:
    return any(title.endswith(DOWN) for title in tensors) and all(title.endswith(KINDS) for title in tensors)


def lora_check(name: str, tensors: Tensors, base: dict[str, Tensors], notices: Notices) -> None:
    """`base`: the model's own tensors by part. Raises Refused with both shapes where a module does not fit."""
    modules = {_stem(title): tensor for title, tensor in tensors.items() if title.endswith(DOWN)}
    weights = {_flat(f"{part}.{title}"): tensor for part, held in base.items() for title, tensor in held.items()}
    for module, down in modules.items():
        weight = weights.get(_flat(f"{module}.weight"))
        up = next((tensors[module + end] for end in UP if module + end in tensors), None)
        if up is None or len(down.shape) < 2 or len(up.shape) < 2 or up.shape[1] != down.shape[0]:
            raise Refused(f"{name}: module {module[:200]!r} has no up matrix of the rank of its down matrix")
        widths = (up.shape[0], down.shape[1])
        if weight is not None and weight.shape[:2] != widths:
            raise Refused(
                f"{name}: module {module[:200]!r} is made for a weight of {list(widths)}, this base model's has "
                f"{list(weight.shape[:2])}; the LoRA does not fit"
            )
    count = f"{len(modules)} module{'s' if len(modules) > 1 else ''}"
    notices.add("a LoRA, not a part of the model", f"{name} holds a LoRA of {count}; it is kept, not used", file=name)


def _stem(title: str) -> str:
    return next(title.removesuffix(end) for end in KINDS if title.endswith(end))


def _flat(title: str) -> str:
    """kohya's names have _ for each dot, and say lora_unet."""
    return title.replace(".", "_").removeprefix("lora_")
