"""What a process gives up before it becomes a trainer: its uid, files, ports, capabilities. Standard library only.

Applied by the shim between fork and exec, so that no line of the trainer, and no input, comes before it.
"""

import ctypes
import glob
import json
import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from worker.sandbox.landlock import APPEND, CHANGE, DEVICE, READ, RUN, Files, Ports, restrict_self, ruleset_create

Network = Literal["none", "ranks", "any"]
"""none: no TCP. ranks: TCP ports of the ephemeral range, for processes of one job. any: all of it."""
ACCESS = {
    "run": RUN,
    "read": READ,
    "list": Files.READ_DIR,
    "change": CHANGE,
    "append": APPEND,
    "device": DEVICE,
    "shared": CHANGE & ~(Files.READ_DIR | Files.MAKE_DIR | Files.MAKE_SOCK | Files.MAKE_FIFO | Files.MAKE_SYM),
}
"""What the names in `Confinement.paths` allow. shared: for /dev/shm, where nobody may see the others' names."""
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
READ_ONLY = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""What container runtimes mount read-only: root may write there even without capabilities."""
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 40
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 32, 4096, 16384, 1 << 19
KILL_FIRST = 500
"""oom_score_adj: a machine short of memory ends the trainer before the worker."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Confinement:
    """`paths`: by a name of ACCESS, patterns of what may be reached; None = no Landlock."""

    paths: Mapping[str, tuple[str, ...]] | None = None
    network: Network = "any"
    uid: int | None = None
    """None = the worker's, and then `gid` and `groups` stay too."""
    gid: int = 0
    groups: tuple[int, ...] = ()
    writes_proc: bool = False
    """CUDA names its threads through /proc/<pid>/task/<tid>/comm and fails where it may not."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """By name of the limit, as DATA for RLIMIT_DATA."""

    def as_text(self) -> str:
        return json.dumps(asdict(self))


def confinement_parse(text: str) -> Confinement:
    values = json.loads(text)
    return Confinement(**{**values, "groups": tuple(values.get("groups", ()))})


def confine(confinement: Confinement) -> None:
    """Binds this process, which has one thread. Raises OSError where a part fails: then no trainer may start."""
    _prefer_for_oom_kill()
    _limit(confinement.limits)
    may_write_proc = confinement.writes_proc and _proc_is_safe(confinement)
    ruleset = _ruleset(confinement, may_write_proc) if confinement.paths is not None else None
    _drop_bounding_set()
    if confinement.uid is not None:
        os.setgroups(list(confinement.groups))
        os.setresgid(confinement.gid, confinement.gid, confinement.gid)
        os.setresuid(confinement.uid, confinement.uid, confinement.uid)
    _drop_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if ruleset is not None:
        restrict_self(ruleset)


def _ruleset(confinement: Confinement, may_write_proc: bool) -> int:
    assert confinement.paths is not None
    rules = [
        (path, ACCESS[name])
        for name, patterns in confinement.paths.items()
        for pattern in patterns
        for path in _matching(pattern)
    ]
    if may_write_proc:
        rules.append(("/proc", Files.WRITE_FILE))
    ports = {"any": None, "none": (), "ranks": _ephemeral_ports()}[confinement.network]
    return ruleset_create(rules, ports)


def _matching(pattern: str) -> list[str]:
    """Devices may appear after the worker has started, so patterns are read for each trainer."""
    return glob.glob(pattern) if pattern.startswith("/dev/") or "*" in pattern else [pattern]  # noqa: PTH207


def _ephemeral_ports() -> Iterator[tuple[int, Ports]]:
    """Port 0 to be bound, which means any of the range, and the range to be connected to: rules know no addresses."""
    yield 0, Ports.BIND_TCP
    first, last = (int(number) for number in PORT_RANGE.read_text().split())
    both = Ports.BIND_TCP | Ports.CONNECT_TCP
    for port in range(first, last + 1):
        yield port, both


def _proc_is_safe(confinement: Confinement) -> bool:
    """Whether a trainer that may open files of /proc for writing changes nothing of the machine by it.

    An ordinary user may not. For root the places are mounted read-only, in a mount namespace of the trainer.
    """
    if os.geteuid() != 0 or confinement.uid not in (None, 0):
        return True
    places = [path for path in READ_ONLY if Path(path).exists()]
    if all(os.statvfs(path).f_flag & os.ST_RDONLY for path in places):
        return True
    if _libc.unshare(CLONE_NEWNS) != 0 or _mount("/", MS_REC | MS_SLAVE) != 0:
        return False
    return all(
        _mount(path, MS_BIND | MS_REC) == 0 and _mount(path, MS_BIND | MS_REMOUNT | MS_RDONLY) == 0 for path in places
    )


def _mount(path: str, flags: int) -> int:
    place = path.encode()
    return int(_libc.mount(place, place, None, ctypes.c_ulong(flags), None))


def _limit(limits: Mapping[str, int]) -> None:
    """Never above what the process may have anyway."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        soft, hard = (value if old == resource.RLIM_INFINITY else min(old, value) for old in resource.getrlimit(kind))
        resource.setrlimit(kind, (soft, hard))


def _prefer_for_oom_kill() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(KILL_FIRST))
    except OSError:
        return  # already higher: it stays as it is


def _drop_bounding_set() -> None:
    """Only root may; for others no_new_privs does the same."""
    for capability in range(LAST_CAPABILITY + 1):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")
