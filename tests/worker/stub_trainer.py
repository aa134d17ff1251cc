"""A trainer without tensors: honours spec, in/, out/, control, events and manifest, and misbehaves on demand.

    python stub_trainer.py spec.json in/ out/ cache/

`params` of the spec: steps, step_seconds, checkpoint_every, sample_every, start_at (resume), and `mode`:
ok, crash, reason, no_manifest, half_manifest, hang, deaf (ignores control and SIGTERM), secrets, tell_secrets,
grandchildren, list_inputs, flood (files without end), flood_at_end (2000 files, then a success).
Stamps its start and end, with pids, into the file named by STUB_STAMPS, outside of all that the platform sees.
"""

import ctypes
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SPEC, IN, OUT = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3])
PARAMS = SPEC["params"]
MODE = PARAMS.get("mode", "ok")
STATE = {"seq": 0, "stop": False, "obeyed": 0}


def stamp(what: str) -> None:
    with Path(os.environ["STUB_STAMPS"]).open("a") as file:
        file.write(json.dumps({"what": what, "pid": os.getpid(), "job": SPEC["name"], "at": time.time()}) + "\n")


def emit(kind: str, **data: object) -> None:
    STATE["seq"] += 1
    with (OUT / "events.jsonl").open("a") as file:
        file.write(json.dumps({"seq": STATE["seq"], "time": time.time(), "data": {"kind": kind, **data}}) + "\n")


def write(path: Path, data: bytes) -> dict[str, object]:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_bytes(data)
    draft.replace(path)
    return {"path": path.relative_to(OUT).as_posix(), "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def die_with_the_shim() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)

    def wait_for_the_end_of_the_pipe() -> None:
        os.read(int(os.environ["ANNEAL_DEADMAN_FD"]), 1)
        os._exit(70)

    threading.Thread(target=wait_for_the_end_of_the_pipe, daemon=True).start()


def control() -> None:
    if MODE == "deaf" or not (IN / "control").exists():
        return
    expected = json.loads((IN / "control").read_text())
    if expected["seq"] > STATE["obeyed"]:
        STATE["obeyed"] = expected["seq"]
        STATE["stop"] = STATE["stop"] or expected["command"] == "stop"
        if expected["command"] == "save_now":
            checkpoint(0)
        emit("control", seq=expected["seq"], command=expected["command"], step=0)


def checkpoint(step: int) -> None:
    folder = OUT / "checkpoints" / f"step-{step:08d}"
    if folder.exists():
        shutil.rmtree(folder)
    draft = folder.with_name(folder.name + ".tmp")
    draft.mkdir(parents=True)
    (draft / "state.json").write_text(json.dumps({"step": step, "at": time.time()}))
    (draft / "manifest.json").write_text(json.dumps({"step": step}))
    draft.rename(folder)
    emit("checkpoint", step=step, path=folder.relative_to(OUT).as_posix())


def misbehave() -> None:
    if MODE == "crash":
        print("RuntimeError: it broke", file=sys.stderr, flush=True)
        sys.exit(3)
    if MODE == "reason":
        reason = {"code": "bad_dataset", "message": "row 3 has no image", "hint": "mend it", "retry_helps": False}
        emit("failed", reason=reason)
        sys.exit(1)
    if MODE == "secrets":
        print("hub token hf_abcdefghijklmnopqrstuvwx and ours ana_" + "x" * 30, flush=True)
        print("wandb: " + "0123456789abcdef0123456789abcdef01234567", flush=True)
        print(json.dumps(sorted(os.environ)), flush=True)
    if MODE == "tell_secrets":
        for name in ("HF_TOKEN", "ANNEAL_SECRET_ODD"):
            value = os.environ[name]
            print(hashlib.sha256(value.encode()).hexdigest(), value, json.dumps(value), flush=True)
            emit("warning", message=f"the secret is {value}")
    if MODE == "grandchildren":
        code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
        child = f"import subprocess,sys; subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True)"
        for _ in range(2):
            subprocess.run([sys.executable, "-c", child], check=True)
    if MODE == "list_inputs":
        result = [Path(folder, name) for folder, _, names in os.walk(IN, followlinks=True) for name in names]
        print(*sorted(path.relative_to(IN).as_posix() for path in result), flush=True)
    if MODE in ("flood", "flood_at_end"):
        for number in itertools.count() if MODE == "flood" else range(2000):
            folder = OUT / "samples" / str(number // 500)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(number)).touch()
    if MODE in ("hang", "grandchildren"):
        time.sleep(1000)


def on_term(*_: object) -> None:
    STATE["stop"] = MODE != "deaf"


def main() -> None:
    die_with_the_shim()
    signal.signal(signal.SIGTERM, on_term)
    stamp("start")
    total, start = PARAMS.get("steps", 3), PARAMS.get("start_at", 0)
    emit("started", total=total, step=start)
    print(f"training {SPEC['name']}", flush=True)
    misbehave()
    step = start
    while step < total and not STATE["stop"]:
        time.sleep(PARAMS.get("step_seconds", 0.01))
        step += 1
        emit(
            "step", step=step, total=total, epoch=0.0, metrics={"loss": 1.0 / step}, per_second=1.0,
            unit="images", peak_memory_bytes=1, eta_seconds=0.0,
        )  # fmt: skip
        if PARAMS.get("board_bytes"):
            (OUT / "tensorboard").mkdir(exist_ok=True)
            with (OUT / "tensorboard" / "events.out.tfevents.1").open("ab") as board:
                board.write(bytes([step % 256]) * PARAMS["board_bytes"])
        if PARAMS.get("sample_every") and step % PARAMS["sample_every"] == 0:
            sample = write(OUT / "samples" / f"step-{step:08d}-0.png", b"png" + str(step).encode())
            emit("sample", step=step, path=sample["path"], label="eval", prompt="a dog", seed=1)
        if PARAMS.get("checkpoint_every") and step % PARAMS["checkpoint_every"] == 0:
            checkpoint(step)
        control()
    if STATE["stop"]:
        checkpoint(step)
    files = [write(OUT / "adaptor" / "weights.safetensors", b"w" * 1000)]
    outcome = "stopped" if STATE["stop"] else "succeeded"
    if MODE == "half_manifest":
        (OUT / "adaptor" / "weights.safetensors").unlink()
    if MODE != "no_manifest":
        write(OUT / "manifest.json", json.dumps({"outcome": outcome, "files": files, "steps": step}).encode())
    emit("finished", outcome=outcome, step=step)
    stamp("end")


if __name__ == "__main__":
    main()
