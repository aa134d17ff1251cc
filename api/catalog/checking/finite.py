"""Counts NaN and infinity in raw weights without numpy: a value is one where all bits of its exponent are set.

Each format's exponent lies in the top one or two bytes. Slices with a stride, `bytes.translate` and one AND of large
integers look at them, all at the speed of C, over pieces of a fixed size.
"""

from typing import BinaryIO, NamedTuple

PIECE_BYTES = 4 << 20


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
