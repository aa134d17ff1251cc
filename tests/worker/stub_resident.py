"""A trainer that serves and has no tensors: python stub_resident.py --serve cache/.

What a job does is said by its prompt: ok, crash (of the process), fail (of the job alone), wait (until it is stopped or
killed), children (leaves some behind), secrets. Each job stamps its start and end with this process's id.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

DETACHED = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"


def emit(out: Path, seq: int, kind: str, **data: object) -> None:
    with (out / "events.jsonl").open("a") as file:
        file.write(json.dumps({"seq": seq, "time": time.time(), "data": {"kind": kind, **data}}) + "\n")


def stamp(what: str, name: str) -> None:
    with Path(os.environ["STUB_STAMPS"]).open("a") as file:
        file.write(json.dumps({"what": what, "pid": os.getpid(), "job": name, "at": time.time()}) + "\n")


def run(spec: dict[str, Any], inputs: Path, out: Path) -> int:
    action = spec["params"]["prompt"]
    stamp("start", spec["name"])
    emit(out, 1, "started", total=1)
    print(f"drawing {spec['name']} {action}", flush=True)
    if action == "crash":
        os._exit(3)
    if action == "fail":
        reason = {"code": "bad_adaptor", "message": "does not fit", "hint": "take another", "retry_helps": False}
        emit(out, 2, "failed", reason=reason)
        return 1
    if action == "children":
        subprocess.Popen([sys.executable, "-c", DETACHED], start_new_session=True, stdout=2)
    outcome = "succeeded"
    if action == "wait":
        while not (inputs / "control").exists():
            time.sleep(0.01)
        outcome = "stopped"
    emit(out, 2, "finished", outcome=outcome, step=1)
    (out / "manifest.json").write_text(json.dumps({"outcome": outcome, "files": [], "steps": 1}))
    stamp("end", spec["name"])
    return 0


def serve(answers: TextIO) -> None:
    for line in sys.stdin:
        job = json.loads(line)
        before, log = (os.dup(1), os.dup(2)), os.open(job["log"], os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(log, number)
        os.close(log)
        code = run(json.loads(Path(job["spec"]).read_text()), Path(job["in"]), Path(job["out"]))
        for number, stored in zip((1, 2), before, strict=True):
            os.dup2(stored, number)
            os.close(stored)
        answers.write(json.dumps({"out": job["out"], "code": code}) + "\n")
        answers.flush()


if __name__ == "__main__":
    assert sys.argv[1] == "--serve", f"expected --serve, got {sys.argv[1:]}"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(output)
