"""`python -m api.catalog.checking IN OUT`: examines hostile files, directory in, directory out.

Reads the order as JSON from standard input and writes OUT/report.json last. Runs as a child of the API under resource
limits, started by `api.catalog.versions.check_run`; knows no database, storage key or network, and imports no Django.
"""

import importlib
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from api.catalog.checking.report import Refused, plain
from api.catalog.checking.work import Work
from foundation import lifeline

CHECKS = {"datasets": "api.catalog.checking.dataset", "models": "api.catalog.checking.model"}
"""Each is loaded only when it is asked for: the decoders of images take time and memory to load."""
MAX_OPEN_FILES = 64


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    order = json.load(sys.stdin)
    die_with_parent()
    limits_set(**order["limits"])
    report = _report(order, source, target)
    temporary = target / "report.json.tmp"
    temporary.write_text(json.dumps({**plain(report), "peak_bytes": peak_bytes()}))
    temporary.replace(target / "report.json")


def _report(order: dict[str, Any], source: Path, target: Path) -> dict[str, Any]:
    work = Work(source, target, order["files"])
    work.strip_metadata = bool(order.get("strip_metadata"))
    try:
        if order["unpack"]:
            work.unpack()
        details = importlib.import_module(CHECKS[order["kind"]]).check(work)
    except Refused as error:
        return {"refused": error.body()}
    except MemoryError:
        message = f"{work.reading}: looking at it needs more than {order['limits']['memory_bytes']} bytes of memory"
        return {"refused": Refused(message, code="check_limit", hint="Split the file, then upload again.").body()}
    return {"files": work.replaced, "details": {**details, **work.notices.details()}}


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


main()
