"""Whether the kernel killed something of ours for memory: its own counters, before and after."""

from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")
VMSTAT = Path("/proc/vmstat")


def oom_kills() -> int | None:
    """How many processes of our control group (or else of this machine) the kernel killed for memory so far.

    None where it does not say.
    """
    for path in (*_counters(), VMSTAT):
        if path.is_file():
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return None


def _counters() -> list[Path]:
    counters = []
    for line in CGROUP.read_text().splitlines() if CGROUP.is_file() else ():
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers == "memory":
            counters += [ROOT / "memory" / below / "memory.oom_control", ROOT / "memory" / "memory.oom_control"]
        elif not controllers:
            counters += [ROOT / below / "memory.events", ROOT / "memory.events"]
    return counters
