"""A worker host and its agents, as docs/protocol.md has them speak, in tests."""

import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from api.storage import storage
from tests.api.actors import with_token
from tests.api.world import file_entry


def step_event(seq: int, step: int, total: int = 10, loss: float = 0.5) -> dict[str, Any]:
    speed = {"per_second": 2.0, "unit": "images", "peak_memory_bytes": 1000, "eta_seconds": 1.0}
    report = {"kind": "step", "step": step, "total": total, "epoch": 0.1, "metrics": {"loss": loss}, **speed}
    return {"seq": seq, "time": time.time(), "data": report}


def event(seq: int, kind: str, /, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "time": time.time(), "data": {"kind": kind, **data}}


class Agent:
    """Speaks for one attempt."""

    def __init__(self, claim: dict[str, Any]) -> None:
        self.claim = claim
        self.id = claim["attempt"]["id"]
        self.fence = claim["attempt"]["fence"]
        self.job = claim["job"]["id"]
        self.client = with_token(claim["attempt"]["token"])
        self.seq = 0

    def post(self, what: str, body: dict[str, Any]) -> Any:
        return self.client.post(f"/internal/v1/attempts/{self.id}/{what}", body, format="json")

    def heartbeat(self, **fields: Any) -> Any:
        return self.post("heartbeat", {"fence": self.fence, "progress_seq": self.seq, **fields})

    def events(self, *events: dict[str, Any]) -> Any:
        self.seq = events[-1]["seq"]
        return self.post("events", {"first_seq": events[0]["seq"], "events": list(events)})

    def start(self, step: int = 0) -> None:
        assert self.events(event(1, "started", total=10, step=step)).status_code == 200

    def log(self, offset: int, data: bytes) -> Any:
        headers = {"Upload-Offset": str(offset)}
        path = f"/internal/v1/attempts/{self.id}/log"
        return self.client.patch(path, data, content_type="application/octet-stream", headers=headers)

    def store(self, path: str, content: bytes) -> dict[str, Any]:
        """Grants the upload and puts the bytes where the link leads."""
        entry = file_entry(path, content)
        assert self.post("uploads", {"files": [entry]}).status_code == 200
        with TemporaryDirectory() as folder:
            (Path(folder) / "file").write_bytes(content)
            storage().put_file(f"jobs/{self.job}/{self.fence}/{path}", Path(folder) / "file")
        return entry

    def checkpoint(self, step: int) -> Any:
        folder = f"checkpoints/step-{step:08d}"
        files = [self.store(f"{folder}/{name}", f"{name} {step}".encode()) for name in ("state", "manifest.json")]
        return self.post("artifacts", {"kind": "checkpoint", "step": step, "path": folder, "files": files})

    def finish(self, outcome: str = "succeeded", *, manifest: bool = True, **fields: Any) -> Any:
        return self.post("finish", self.finish_body(outcome, manifest=manifest, **fields))

    def finish_body(self, outcome: str, *, manifest: bool = True, **fields: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"outcome": outcome, "exit_code": 0, "reason": None, "manifest": None, "files": []}
        if manifest and outcome in ("succeeded", "stopped"):
            files = [self.store("adaptor/pytorch_lora_weights.safetensors", b"weights")]
            body |= {"files": files, "manifest": {"outcome": outcome, "files": files}}
        return {**body, "last_step": 10, **fields}


class Host:
    """Speaks for one worker host."""

    def __init__(self, token: str) -> None:
        self.worker = str(uuid.uuid4())
        self.boot_id = str(uuid.uuid4())
        self.token = token
        self.client = with_token(token)

    def post(self, what: str, body: dict[str, Any]) -> Any:
        return self.client.post(f"/internal/v1/{what}", body, format="json")

    def who(self) -> dict[str, str]:
        return {"worker": self.worker, "boot_id": self.boot_id}

    def hello(self, *, accelerators: int = 0, **fields: Any) -> Any:
        cards = [{"index": index, "name": "card", "memory_bytes": 1} for index in range(accelerators)]
        body = {"host": "testhost", "pools": ["default"], "slots": 1, "accelerators": cards, "labels": {}, "gone": []}
        answer = self.post("workers/hello", {**self.who(), **body, **fields})
        self.free = list(range(accelerators))
        return answer

    def claim_post(self, **fields: Any) -> Any:
        ask = {"claim_id": str(uuid.uuid4()), "pools": ["default"], "free_accelerators": self.free, "labels": {}}
        return self.post("claims", {**self.who(), **ask, **fields})

    def claim(self, **fields: Any) -> Agent:
        answer = self.claim_post(**fields)
        assert answer.status_code == 200, (answer.status_code, answer.content)
        return Agent(answer.json())

    def heartbeat(self, free_slots: int = 1) -> Any:
        return self.post("workers/heartbeat", {**self.who(), "free_slots": free_slots})
