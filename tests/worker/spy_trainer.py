"""A trainer that tries what no trainer may: python spy_trainer.py spec.json in/ out/ cache/, or --serve cache/.

The dataset's plan.json is {"try": {name: [action, argument]}, "stay": bool}. It prints the names of the deeds
that worked, with its limits and rights. Standard library only, without our packages: any interpreter runs it.
"""

import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read(path: str) -> None:
    with Path(path).open("rb") as file:
        file.read(1)


def write(path: str) -> None:
    with Path(path).open("ab") as file:
        file.write(b"x")


def kill(pid: int) -> None:
    os.kill(pid, 0)


def connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def listen(_: int) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))


def ours(folder: str) -> None:
    """What a trainer needs: its inputs, temporary files, devices, compiled code beside its cache."""
    for path in Path(folder).iterdir():
        path.stat()
    with tempfile.TemporaryDirectory() as place:
        Path(place, "a").touch()
        Path(place, "folder").mkdir()
        Path(place, "a").rename(Path(place, "folder", "b"))
    assert os.urandom(1) and Path(os.environ["HOME"]).exists()
    read("/dev/urandom")
    write("/dev/null")
    read("/proc/self/status")
    read("/proc/cpuinfo")


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "read": read, "list": lambda path: list(Path(path).iterdir()),
    "write": write, "kill": kill, "connect": connect, "listen": listen, "ours": ours,
   
    "link": lambda paths: os.link(*paths), "unlink": lambda path: Path(path).unlink(),
}  # fmt: skip


def works(action: str, argument: Any) -> bool:
    try:
        ACTIONS[action](argument)
    except OSError:
        return False
    return True


def rights() -> dict[str, Any]:
    status = Path("/proc/self/status").read_text()
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1] for name in ("CORE", "FSIZE", "DATA")}
    return {"NoNewPrivs": lines["NoNewPrivs"], "CapEff": lines["CapEff"], "uid": os.getuid(), **limits}


def run(spec: dict[str, Any], inputs: str, out: str, cache: str) -> None:
    plan = json.loads(Path(inputs, "dataset", "plan.json").read_text())
    events = Path(out, "events.jsonl")
    started = {"seq": 1, "time": time.time(), "data": {"kind": "started", "total": 1}}
    with events.open("a") as file:
        file.write(json.dumps(started) + "\n")
    Path(cache, "left").write_text(spec["name"])
    tries = {"its own": ["ours", inputs], **plan["try"]}
    done = sorted(name for name, (action, argument) in tries.items() if works(action, argument))
    print(json.dumps({"worked": done, "pid": os.getpid(), **rights()}), flush=True)
    if plan.get("stay"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    Path(out, "manifest.json").write_text(json.dumps({"outcome": "succeeded", "files": [], "steps": 1}))


def serve(cache: str) -> None:
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            job = json.loads(line)
            log = os.open(job["log"], os.O_WRONLY | os.O_APPEND)
            before = os.dup(1)
            os.dup2(log, 1)
            os.close(log)
            run(json.loads(Path(job["spec"]).read_text()), job["in"], job["out"], cache)
            os.dup2(before, 1)
            os.close(before)
            answers.write(json.dumps({"out": job["out"], "code": 0}) + "\n")
            answers.flush()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        run(json.loads(Path(sys.argv[1]).read_text()), *sys.argv[2:])
