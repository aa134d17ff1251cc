"""A trainer that stamps what it lives through into a file outside of all that the platform sees.

    python stub.py spec.json in/ out/ cache/

Steps and checkpoints go by the spec's parameters, all else by plans/<job name>.json below STUB_FOLDER, read at the
start: mode (below), hold_at (step at which it waits for release/<job name>), step_seconds, deaf (hears no control).
Standard library and `foundation.lifeline` only. Under torchrun each rank stamps; rank 0 alone writes to out/.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from foundation.lifeline import tie_to_parent
from tests.faults.stamps import SECRETS, Stamp, dead_ranks, stamp_add, still_alive

SPEC, IN, OUT = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3])
JOB, PARAMS = SPEC["name"], SPEC["params"]
FOLDER = Path(os.environ["STUB_FOLDER"])
RANK = int(os.environ.get("RANK", "0"))
STAMPS = FOLDER / "stamps"
PLAN_FILE = FOLDER / "plans" / f"{JOB}.json"
PLAN: dict[str, Any] = json.loads(PLAN_FILE.read_text()) if PLAN_FILE.exists() else {}
STATE: dict[str, Any] = {"seq": 0, "stop": False, "obeyed": 0}
FILL_BYTES = 64 << 20
PAUSE_SECONDS = 0.03


def main() -> None:
    tie_to_parent()
    signal.signal(signal.SIGTERM, on_term)
    step = step_of_checkpoint()
    others = still_alive(STAMPS, JOB, os.environ["ANNEAL_ATTEMPT"])
    stamp("start", step, others)
    emit("started", total=PARAMS["max_train_steps"], step=step)
    misbehave(PLAN.get("mode", ""))
    if RANK == 0:
        lead(step)
    else:
        follow()


def lead(step: int) -> None:
    """Trains, and ends with a whole manifest."""
    total = PARAMS["max_train_steps"]
    while step < total and not STATE["stop"]:
        step += 1
        train(step, total)
    if STATE["stop"]:
        checkpoint(step)
    outcome = "stopped" if STATE["stop"] else "succeeded"
    files = [write(OUT / "adaptor" / "weights.safetensors", f"{JOB} {step}".encode() * 100)]
    write(OUT / "manifest.json", json.dumps({"outcome": outcome, "files": files, "steps": step}).encode())
    emit("finished", outcome=outcome, step=step)
    stamp("end", step, outcome=outcome)


def train(step: int, total: int) -> None:
    pause(PLAN.get("step_seconds", PAUSE_SECONDS))
    stamp("step", step)
    emit(
        "step", step=step, total=total, epoch=0.0, metrics={"loss": 1.0 / step}, per_second=1.0,
        unit="images", peak_memory_bytes=1, eta_seconds=0.0,
    )  # fmt: skip
    if step % PARAMS["checkpoint_every_steps"] == 0:
        checkpoint(step)
    control()
    while step == PLAN.get("hold_at") and not STATE["stop"] and not (FOLDER / "release" / JOB).exists():
        pause(PAUSE_SECONDS)
        stamp("hold", step)
        control()
    agree()


def agree() -> None:
    """As an all-reduce of all ranks does: raises where a peer is gone."""
    if "WORLD_SIZE" in os.environ and dead_ranks(STAMPS, JOB, os.environ["ANNEAL_ATTEMPT"]):
        raise RuntimeError("a rank is gone")


def follow() -> None:
    """Another rank: lives until rank 0 has its manifest."""
    while not (OUT / "manifest.json").exists():
        pause(PAUSE_SECONDS)
        stamp("follow", 0)


def pause(seconds: float) -> None:
    time.sleep(seconds)


def stamp(what: str, step: int, others: tuple[int, ...] = (), outcome: str = "") -> None:
    now = Stamp(
        what=what,
        job=JOB,
        attempt=os.environ["ANNEAL_ATTEMPT"],
        pid=os.getpid(),
        rank=RANK,
        step=step,
        boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
        others=others,
        outcome=outcome,
    )
    stamp_add(STAMPS, now)


def step_of_checkpoint() -> int:
    state = IN / "checkpoint" / "state.json"
    return int(json.loads(state.read_text())["step"]) if state.exists() else 0


def misbehave(mode: str) -> None:
    if mode == "exit_0":
        sys.exit(0)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "oom":  # what the kernel does: it counts, then it kills
        Path(PLAN["counter"]).write_text("oom_kill 1\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "secrets":
        print("tokens:", *SECRETS, flush=True)
        print(json.dumps(sorted(os.environ)), flush=True)
    if mode == "fills_disk":
        with (OUT / "big").open("wb") as file:
            file.write(b"x" * FILL_BYTES)


def on_term(*_: object) -> None:
    STATE["stop"] = not PLAN.get("deaf")


def control() -> None:
    if PLAN.get("deaf") or not (IN / "control").exists():
        return
    expected = json.loads((IN / "control").read_text())
    if expected["seq"] > STATE["obeyed"]:
        STATE["obeyed"] = expected["seq"]
        STATE["stop"] = STATE["stop"] or expected["command"] == "stop"
        emit("control", seq=expected["seq"], command=expected["command"], step=0)


def checkpoint(step: int) -> None:
    folder = OUT / "checkpoints" / f"step-{step:08d}"
    if folder.exists():
        return
    draft = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    (draft / "state.json").write_text(json.dumps({"step": step}))
    (draft / "manifest.json").write_text(json.dumps({"step": step}))
    draft.rename(folder)
    emit("checkpoint", step=step, path=folder.relative_to(OUT).as_posix())


def emit(kind: str, **data: object) -> None:
    if RANK:
        return
    STATE["seq"] += 1
    with (OUT / "events.jsonl").open("a") as file:
        file.write(json.dumps({"seq": STATE["seq"], "time": time.time(), "data": {"kind": kind, **data}}) + "\n")


def write(path: Path, data: bytes) -> dict[str, object]:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_bytes(data)
    draft.replace(path)
    return {"path": path.relative_to(OUT).as_posix(), "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    main()
