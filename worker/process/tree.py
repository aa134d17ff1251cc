"""The processes of an attempt: marked, found and killed for certain. Standard library only: the shim runs on this."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ATTEMPT_MARK = "ANNEAL_ATTEMPT"
"""Environment variable that every process of an attempt inherits: the attempt's id."""
RESIDENT_MARK = "ANNEAL_RESIDENT"
"""In its place: the id of a trainer that runs several attempts, one after another."""
WORKER_MARK = "ANNEAL_WORKER_ID"
"""The same for the worker's id, so that a new boot finds all that an old one left."""

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Orphans among the descendants of this process become its children."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def marked(name: str, value: str) -> set[int]:
    """Living processes whose environment at start held name=value; this process is left out."""
    mark = f"{name}={value}".encode()
    return {pid for pid in _pids() if mark in _environment(pid)} - {os.getpid()}


def mark_values(name: str, pids: set[int]) -> set[str]:
    """Values of the mark `name` among `pids`."""
    prefix = f"{name}=".encode()
    entries = (entry for pid in pids for entry in _environment(pid) if entry.startswith(prefix))
    return {entry[len(prefix) :].decode() for entry in entries}


def descendants(root: int) -> set[int]:
    """Living processes below `root`, by parent pids."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        state, parent = _state_and_parent(pid)
        children.setdefault(parent, []).append(pid if state not in "ZX" else -pid)
    descendants, frontier = set(), [root]
    while frontier:
        for child in children.get(frontier.pop(), ()):
            frontier.append(abs(child))
            if child > 0:
                descendants.add(child)
    return descendants


def kill_until_none(find: Callable[[], set[int]], pause: Callable[[], None]) -> int:
    """SIGKILL to all that `find` names until two passes in a row find none; returns how many signals were sent.

    One empty pass is not enough: a process that forks and exits while /proc is read can be missed once.
    """
    sent = empty_passes = 0
    while empty_passes < 2:
        processes = find()
        empty_passes = 0 if processes else empty_passes + 1
        if processes:
            sent += _kill(processes, find)
            pause()
    return sent


def _kill(pids: set[int], find: Callable[[], set[int]]) -> int:
    """Pins each pid, looks again, and signals those still named, so that a reused pid is never hit."""
    pinned = {pid: descriptor for pid in pids if (descriptor := _pin(pid)) is not None}
    still = find()
    try:
        return sum(_signal(descriptor) for pid, descriptor in pinned.items() if pid in still)
    finally:
        for descriptor in pinned.values():
            os.close(descriptor)


def _pin(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _signal(descriptor: int) -> bool:
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _environment(pid: int) -> list[bytes]:
    """Empty for zombies, kernel threads, and processes of others."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return fields[0], int(fields[1])


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
