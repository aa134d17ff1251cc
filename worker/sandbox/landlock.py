"""Linux Landlock by its three system calls: a process gives up files, ports and signals, with all that it starts.

No library: the interface is 60 lines, and PyPI has no binding in wide use. Standard library only, as in the shim.
Reference: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from enum import IntFlag

MINIMUM_ABI = 2
"""Linux 5.19: the first that can rename a file from one folder to another, which trainers do."""
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ABI_VERSION = 1
RULE_PATH, RULE_PORT = 1, 2


class Files(IntFlag):
    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Ports(IntFlag):
    BIND_TCP = 1
    CONNECT_TCP = 2


READ = Files.READ_FILE | Files.READ_DIR
RUN = READ | Files.EXECUTE
APPEND = Files.WRITE_FILE
CHANGE = (
    READ | Files.WRITE_FILE | Files.REMOVE_DIR | Files.REMOVE_FILE | Files.MAKE_DIR | Files.MAKE_REG | Files.MAKE_SOCK
    | Files.MAKE_FIFO | Files.MAKE_SYM | Files.REFER | Files.TRUNCATE
)  # fmt: skip
DEVICE = Files.READ_FILE | Files.WRITE_FILE | Files.READ_DIR | Files.IOCTL_DEV
FOR_FILES = Files.EXECUTE | Files.WRITE_FILE | Files.READ_FILE | Files.TRUNCATE | Files.IOCTL_DEV
SINCE = {Files.REFER: 2, Files.TRUNCATE: 3, Files.IOCTL_DEV: 5}
NETWORK_SINCE, SCOPES_SINCE = 4, 6
SCOPES = 1 | 2
"""Abstract Unix sockets and signals: only to processes within."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("ports", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Path(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _Port(ctypes.Structure):
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def landlock_abi() -> int:
    """Version of the interface; 0 where the kernel has none, or it is switched off."""
    return max(0, int(_libc.syscall(CREATE_RULESET, None, 0, ABI_VERSION)))


def ruleset_create(rules: Iterable[tuple[str, Files]], ports: Iterable[tuple[int, Ports]] | None) -> int:
    """Descriptor of a ruleset that allows `rules` below their paths, and nothing else.

    Paths that do not exist are left out. `ports`: the TCP ports that may be used; None = all.
    Raises OSError.
    """
    abi = landlock_abi()
    handled = Files(sum(right for right in Files if SINCE.get(right, 1) <= abi))
    restricts_ports = ports is not None and abi >= NETWORK_SINCE
    attributes = _Ruleset(
        handled, Ports.BIND_TCP | Ports.CONNECT_TCP if restricts_ports else 0, SCOPES if abi >= SCOPES_SINCE else 0
    )
    size = 24 if abi >= SCOPES_SINCE else 16 if abi >= NETWORK_SINCE else 8
    ruleset = _call(CREATE_RULESET, ctypes.byref(attributes), size, 0)
    for path, access in rules:
        _allow_path(ruleset, path, access & handled)
    _allow_ports(ruleset, (ports or ()) if restricts_ports else ())
    return ruleset


def restrict_self(ruleset: int) -> None:
    """From here on this thread and all that it starts are bound by `ruleset`. Needs no_new_privs. Raises OSError."""
    _call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow_path(ruleset: int, path: str, access: Files) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # what cannot be reached needs no rule
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= FOR_FILES
        if access:
            _call(ADD_RULE, ruleset, RULE_PATH, ctypes.byref(_Path(access, descriptor)), 0)
    finally:
        os.close(descriptor)


def _allow_ports(ruleset: int, ports: Iterable[tuple[int, Ports]]) -> None:
    """Tens of thousands: one structure for all, and no call between."""
    rule = _Port()
    reference, syscall = ctypes.byref(rule), _libc.syscall
    for rule.port, rule.access in ports:
        if syscall(ADD_RULE, ruleset, RULE_PORT, reference, 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock rule for port {rule.port}")


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"landlock system call {number}: {os.strerror(error)}")
    return result
