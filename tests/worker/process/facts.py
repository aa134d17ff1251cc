"""Prints what a trainer finds of its process, as JSON, and ends with status 7."""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

from worker.process.tree import ATTEMPT_MARK

STATUS = ("CapEff", "CapBnd", "NoNewPrivs", "Threads", "SigQ", "SigBlk", "SigIgn", "SigCgt", "Umask", "Seccomp", "Uid")


def main() -> None:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    death, marks = ctypes.c_int(), Path("/proc/self/environ").read_bytes().split(b"\0")
    ctypes.CDLL(None).prctl(2, ctypes.byref(death), 0, 0, 0)
    local = {ATTEMPT_MARK, "ANNEAL_PARENT_PID"}
    facts = {
        ATTEMPT_MARK: os.environ[ATTEMPT_MARK],
        "marks": sorted(mark.decode().split("=")[0] for mark in marks if mark.startswith(b"ANNEAL_A")),
        "mark is mine": f"{ATTEMPT_MARK}={os.environ[ATTEMPT_MARK]}".encode() in marks,
        "command": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0"),
        "status": {name: lines[name].strip() for name in STATUS},
        "death signal": death.value,
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
        "child of the shim": os.getppid() == int(os.environ["ANNEAL_PARENT_PID"]),
        "in the shim's group": (os.getpgid(0), os.getsid(0)) == (os.getppid(), os.getppid()),
        "environment": {name: value for name, value in os.environ.items() if name not in local},
        "descriptors": sorted(path.name for path in Path("/proc/self/fd").iterdir()),
        "kinds": [os.readlink(f"/proc/self/fd/{number}").split(":")[0] for number in range(3)],  # noqa: PTH115
        "limits": {str(number): resource.getrlimit(number) for number in range(16)},
        "signals": {number.name: str(signal.getsignal(number)) for number in signal.Signals},
        "out of memory": Path("/proc/self/oom_score_adj").read_text(),
        "argv": sys.argv,
        "path": sys.path,
        "folder": str(Path.cwd()),
        "name": [__name__, __file__],
        "streams": [str(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "unbuffered": sys.stdout.write_through,  # type: ignore[union-attr]  # a TextIOWrapper here
        "nice": os.nice(0),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
    sys.exit(7)
