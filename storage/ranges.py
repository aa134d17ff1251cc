"""The Range header (RFC 9110, 14.1.2) for one range; other values select the complete file, as the RFC allows."""

import re

ONE_RANGE = re.compile(r"bytes=(\d{0,20})-(\d{0,20})")


class RangeNotSatisfiableError(ValueError):
    """The range starts after the end."""


def range_read(header: str, size: int) -> tuple[int, int] | None:
    """(start, length) within a file of `size` bytes, or None for the complete file."""
    match = ONE_RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        length = min(int(last), size - 1) - start + 1 if last else size - start
        if last and int(last) < start:
            return None
    if length <= 0:
        raise RangeNotSatisfiableError(f"the file has {size} bytes; {header} starts behind its end")
    return start, length
