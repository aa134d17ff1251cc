"""Rewrites what /proc shows of this process: its command line, and the environment that it was started with.

A forked process shows those of the process it was forked from. Processes of an attempt are looked for by the marks in
that environment (tree.py), so a forked process writes its own there. Standard library only.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOM = " " * 1000
"""A last argument for a process that is going to be forked: room for longer command lines."""
RESERVED = ("ANNEAL_RESERVED", " " * 400)
"""A variable for it: room for the marks of an attempt."""
_ENTRY = "=".join(RESERVED).encode()
ARGUMENTS_BEGIN = 45
"""Place in /proc/self/stat, after the name: where the arguments begin and end in memory, then the environment."""


@dataclass(frozen=True)
class Title:
    """Addresses in this process's memory; a forked process has the same."""

    arguments: int
    arguments_bytes: int
    marks: int

    def show(self, command: Sequence[str], marks: Mapping[str, str]) -> None:
        """`command` is cut to the room that there is."""
        entries = "\0".join(f"{name}={value}" for name, value in marks.items()).encode()
        assert len(entries) <= len(_ENTRY), f"marks need {len(entries)} bytes, {len(_ENTRY)} are reserved"
        _overwrite(self.marks, len(_ENTRY), entries)
        _overwrite(self.arguments, self.arguments_bytes - 1, "\0".join(command).encode())


def title_open() -> Title:
    """Of this process, which was started with ROOM and RESERVED. Raises ValueError if it was not."""
    fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    begin, end, environment, environment_end = map(int, fields[ARGUMENTS_BEGIN : ARGUMENTS_BEGIN + 4])
    place = ctypes.string_at(environment, environment_end - environment).find(_ENTRY)
    if place < 0:
        raise ValueError(f"this process was started without {RESERVED[0]}")
    return Title(begin, end - begin, environment + place)


def _overwrite(address: int, size: int, data: bytes) -> None:
    """What is left becomes NUL bytes, which end strings in /proc."""
    ctypes.memmove(address, data[:size].ljust(size, b"\0"), size)
