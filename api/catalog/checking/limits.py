"""What this process may use, set by itself before it looks at anything; and whose child it is."""

import resource
import signal
import sys
from pathlib import Path

from foundation import lifeline

MAX_OPEN_FILES = 64


def limits_set(*, memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Past them: MemoryError, SIGXCPU, OSError. No core file: it would hold what was uploaded."""
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    _limit(resource.RLIMIT_FSIZE, file_bytes)
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def die_with_parent() -> None:
    """A check whose API was killed stops at once; its version is checked again by another."""
    if sys.platform == "linux":
        lifeline.die_with_parent()


def peak_bytes() -> int:
    """Most resident memory of this process so far; unlike getrusage it never shows the parent's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))
