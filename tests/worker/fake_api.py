"""The API of docs/protocol.md in memory, over real HTTP, with switches for every fault that a worker must survive."""

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from foundation.protocol import PROTOCOL, PROTOCOL_HEADER
from trainers.contract.spec import folder_digest

WORKER_TOKEN = "anw_" + "w" * 32
TIMES = {
    "heartbeat_seconds": 0.2,
    "lease_seconds": 200.0,
    "self_fence_seconds": 100.0,
    "kill_seconds": 0.5,
    "poll_seconds": 0.2,
    "request_timeout_seconds": 1.0,
    "no_progress_seconds": 300.0,
    "stop_grace_seconds": 300.0,
}


@dataclass
class Attempt:
    id: str
    token: str
    claim: dict[str, Any]
    claim_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    log: bytes = b""
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    told_at_artifact: list[int] = field(default_factory=list)
    """The last step that was told when each of them came."""
    finish: dict[str, Any] = field(default_factory=dict)
    """Empty while there is none."""
    finishes: int = 0
    heartbeats: int = 0
    phases: list[str] = field(default_factory=list)
    stop: str | None = None
    control: dict[str, Any] | None = None
    fenced: bool = False

    def kinds(self) -> list[str]:
        return [event["data"]["kind"] for event in self.events]


class FakeApi:
    """Switches are plain attributes; tests set them from outside."""

    def __init__(self) -> None:
        self.times = dict(TIMES)
        self.queue: list[dict[str, Any]] = []
        self.attempts: dict[str, Attempt] = {}
        self.files: dict[str, bytes] = {}
        self.hellos: list[dict[str, Any]] = []
        self.worker_heartbeats = 0
        self.goodbyes = 0
        self.claims = 0
        self.down = False
        self.turned_away = 0
        self.draining = False
        self.protocol = PROTOCOL
        self.identity_taken = 0
        self.forget_worker = False
        self.lose_claim_answers = 0
        self.lose_finish_answers = 0
        self.storage_failures = 0
        self.storage_failure_status = 503
        self.get_failures = 0
        self.break_downloads = 0
        self.corrupt_downloads = 0
        self.downloads: dict[str, int] = {}
        self.expired_links: set[str] = set()
        self.part_bytes = 1 << 30
        self.sent: list[str] = []
        """Addresses of all PUTs that were answered 200, in order."""
        self.lock = threading.RLock()
        self.url = ""

    def add_job(self, name: str = "job", *, inputs: dict[str, Any] | None = None, **params: Any) -> None:
        job = {"id": str(uuid.uuid4()), "name": name, "project": str(uuid.uuid4()), "method": "stub"}
        spec = {"name": name, "method": "stub", "params": params, "inputs": {}, "resources": {}}
        with self.lock:
            self.queue.append({"job": job, "spec": spec, "inputs": inputs or {}})

    def add_input(self, files: dict[str, bytes], prefix: str = "data") -> dict[str, Any]:
        """Stores `files` and returns the part of a claim that names them."""
        result = []
        for path, data in files.items():
            self.files[f"{prefix}/{path}"] = data
            sha256 = hashlib.sha256(data).hexdigest()
            result.append({"path": path, "size": len(data), "sha256": sha256, "url": f"/storage/{prefix}/{path}"})
        return {"sha256": folder_digest(result), "files": result}

    def only(self) -> Attempt:
        assert len(self.attempts) == 1, f"expected one attempt, got {len(self.attempts)}"
        return next(iter(self.attempts.values()))

    # One method per route; each returns (status, JSON or None).

    def hello(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.identity_taken:
            self.identity_taken -= 1
            return 409, {"code": "worker_identity_taken", "message": "another boot"}
        self.hellos.append(body)
        self.forget_worker = False
        return 200, {"worker": body["worker"], "protocol": self.protocol, **self.times, "draining": self.draining}

    def worker_heartbeat(self) -> tuple[int, Any]:
        if self.forget_worker:
            return 404, {"code": "unknown_worker", "message": "say hello"}
        self.worker_heartbeats += 1
        return 200, {"draining": self.draining}

    def claim(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.claims += 1
        assert self.hellos, "claim before hello"
        without_none = [attempt for attempt in self.attempts.values() if attempt.claim_id == body["claim_id"]]
        if without_none:
            without_none[0].token = f"ana_{uuid.uuid4().hex}"
            without_none[0].claim["attempt"]["token"] = without_none[0].token
            return self._claim_answer(without_none[0].claim)
        if not self.queue:
            return 204, None
        job = self.queue.pop(0)
        token = f"ana_{uuid.uuid4().hex}"
        claim = {
            "attempt": {"id": str(uuid.uuid4()), "n": 1, "fence": 1, "token": token},
            **job,
            "accelerators": body["free_accelerators"][:1],
            "stop_grace_seconds": self.times["stop_grace_seconds"],
            "no_progress_seconds": self.times["no_progress_seconds"],
        }
        attempt = Attempt(claim["attempt"]["id"], token, claim, body["claim_id"])
        self.attempts[attempt.id] = attempt
        return self._claim_answer(claim)

    def _claim_answer(self, claim: dict[str, Any]) -> tuple[int, Any]:
        if self.lose_claim_answers:
            self.lose_claim_answers -= 1
            return 0, None
        return 200, claim

    def attempt_route(self, attempt: Attempt, what: str, body: dict[str, Any]) -> tuple[int, Any]:
        if attempt.fenced:
            return 409, {"code": "fenced", "message": "another attempt runs"}
        if attempt.finish and what != "finish":
            return 410, {"code": "attempt_ended", "message": "ended"}
        return {
            "heartbeat": self._heartbeat,
            "events": self._events,
            "uploads": self._uploads,
            "uploads/complete": self.join,
            "artifacts": self._artifacts,
            "links": self._links,
            "finish": self._finish,
        }[what](attempt, body)

    def _heartbeat(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["fence"] == 1
        attempt.heartbeats += 1
        attempt.phases.append(body["phase"])
        answered = {event["data"]["seq"] for event in attempt.events if event["data"]["kind"] == "control"}
        control = attempt.control if attempt.control and attempt.control["seq"] not in answered else None
        return 200, {"stop": attempt.stop, "control": control, "interval": self.times["heartbeat_seconds"]}

    def _events(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["events"][0]["seq"] == body["first_seq"] and len(body["events"]) <= 500
        without_none = {event["seq"] for event in attempt.events}
        attempt.events += [event for event in body["events"] if event["seq"] not in without_none]
        return 200, {"next_seq": attempt.events[-1]["seq"] + 1}

    def _uploads(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        def link(file: dict[str, Any]) -> dict[str, Any]:
            key = f"jobs/{attempt.id}/{file['path']}"
            have = self.files.get(key)
            complete = have is not None and hashlib.sha256(have).hexdigest() == file["sha256"]
            if not complete and file["size"] >= self.part_bytes:
                return self.part_links(file)
            return {
                "path": file["path"],
                "url": None if complete else f"/storage/{key}",
                "method": "PUT",
                "headers": {},
            }

        return 200, {"files": [link(file) for file in body["files"]]}

    def part_links(self, file: dict[str, Any]) -> dict[str, Any]:
        upload = file.get("upload_id") or uuid.uuid4().hex
        sizes = [min(self.part_bytes, file["size"] - start) for start in range(0, file["size"], self.part_bytes)]
        parts = [{"number": n, "url": f"/storage/{upload}/{n}", "size": size} for n, size in enumerate(sizes, start=1)]
        return {"path": file["path"], "url": None, "method": "PUT", "headers": {}, "upload_id": upload, "parts": parts}

    def join(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        keys = [f"{body['upload_id']}/{number}" for number in range(1, len(body["etags"]) + 1)]
        data = b"".join(self.files.pop(key, b"") for key in keys)
        if (len(data), hashlib.sha256(data).hexdigest()) != (body["size"], body["sha256"]):
            return 409, {"code": "part_missing", "message": "send every part"}
        self.files[f"jobs/{attempt.id}/{body['path']}"] = data
        return 200, {}

    def _artifacts(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        self.check(attempt, body["files"])
        if any(
            (without_none["kind"], without_none["path"]) == (body["kind"], body["path"])
            for without_none in attempt.artifacts
        ):
            return 409, {"code": "artifact_differs", "message": "published with another content"}
        attempt.artifacts.append(body)
        attempt.told_at_artifact.append(max((event["data"].get("step", 0) for event in attempt.events), default=0))
        return 200, {}

    def _links(self, _: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        fresh = [{"path": path, "url": f"/storage/data/{path.partition('/')[2]}"} for path in body["paths"]]
        return 200, {"files": fresh}

    def _finish(self, attempt: Attempt, body: dict[str, Any]) -> tuple[int, Any]:
        attempt.finishes += 1
        if attempt.finish and attempt.finish != body:
            return 410, {"code": "attempt_ended", "message": "ended otherwise"}
        self.check(attempt, body["files"])
        attempt.finish = body
        if self.lose_finish_answers:
            self.lose_finish_answers -= 1
            return 0, None
        return 200, {"outcome": body["outcome"], "reason": body["reason"]}

    def check(self, attempt: Attempt, files: list[dict[str, Any]]) -> None:
        for file in files:
            data = self.files[f"jobs/{attempt.id}/{file['path']}"]
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def log_message(self, *_: object) -> None:
        return

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        if self.api.down:
            self.api.turned_away += 1
            return self._answer(503, {"code": "down", "message": "down"})
        with self.api.lock:
            status, answer = self._route(self._parts(), body)
        if status == 0:
            self.close_connection = True
            return None
        return self._answer(status, answer)

    def do_PATCH(self) -> None:
        data = self._body()
        if self.api.down:
            return self._answer(503, {})
        attempt = self.api.attempts[self._parts()[1]]
        with self.api.lock:
            offset = int(self.headers["Upload-Offset"])
            if self._token() != attempt.token:
                return self._answer(401, {"code": "authentication_failed", "message": ""})
            if offset > len(attempt.log):
                return self._answer(
                    409, {"code": "log_offset", "message": "", "fields": {"expected": [len(attempt.log)]}}
                )
            attempt.log = attempt.log[:offset] + data
            return self._answer(204, None, {"Upload-Offset": str(len(attempt.log))})

    def do_PUT(self) -> None:
        data = self._body()
        assert "Authorization" not in self.headers, "a token went to the storage"
        if self.path in self.api.expired_links:
            self.api.expired_links.discard(self.path)
            return self._answer(403, None)
        if self.api.storage_failures:
            self.api.storage_failures -= 1
            return self._answer(self.api.storage_failure_status, None)
        self.api.files[self.path.removeprefix("/storage/")] = data
        self.api.sent.append(self.path)
        return self._answer(200, None, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def do_GET(self) -> None:
        key = self.path.removeprefix("/storage/")
        assert "Authorization" not in self.headers, "a token went to the storage"
        if self.path in self.api.expired_links:
            self.api.expired_links.discard(self.path)
            return self._answer(403, None)
        if self.api.get_failures:
            self.api.get_failures -= 1
            return self._answer(503, None)
        data = self.api.files.get(key)
        if data is None:
            return self._answer(404, None)
        with self.api.lock:
            self.api.downloads[key] = self.api.downloads.get(key, 0) + 1
            if self.api.corrupt_downloads:
                self.api.corrupt_downloads -= 1
                data = bytes([data[0] ^ 1]) + data[1:]
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.api.break_downloads:
            self.api.break_downloads -= 1
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
            return None
        self.wfile.write(data[start:])
        return None

    def _route(self, parts: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        if parts[0] in ("workers", "claims"):
            if self._token() != WORKER_TOKEN:
                return 401, {"code": "authentication_failed", "message": "unknown worker token"}
            if parts == ["workers", "goodbye"]:
                self.api.goodbyes += 1
                return 204, None
            if parts == ["workers", "heartbeat"]:
                return self.api.worker_heartbeat()
            routes = {"hello": self.api.hello, "claims": self.api.claim}
            return routes[parts[-1]](body)
        attempt = self.api.attempts.get(parts[1])
        if attempt is None:
            return 404, {"code": "not_found", "message": "no such attempt"}
        if self._token() != attempt.token:
            return 401, {"code": "authentication_failed", "message": "token is void"}
        return self.api.attempt_route(attempt, "/".join(parts[2:]), body)

    def _parts(self) -> list[str]:
        return urlsplit(self.path).path.removeprefix("/internal/v1/").split("/")

    def _token(self) -> str:
        return (self.headers["Authorization"] or "").removeprefix("Bearer ")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header(PROTOCOL_HEADER, str(PROTOCOL))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def fake_api(port: int = 0) -> Iterator[FakeApi]:
    api = FakeApi()
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"api": api}))
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
