"""A small Hugging Face Hub over real HTTP: repositories in memory, and switches for what can go wrong."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.patience import PATIENCE_SECONDS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1000
"""Files of this size and more are LFS files: announced by SHA-256 and sent from the "CDN"."""


@dataclass
class Hub:
    files: dict[str, bytes] = field(default_factory=dict)
    """Of the repository me/tiny, both as a model and as a dataset."""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of further repositories, by name."""
    revisions: tuple[str, ...] = ("main", "v1", COMMIT)
    token: str = ""
    """Who does not send it gets 401."""
    gated: bool = False
    stall_after: int = 0
    """Send so many bytes of large files, then nothing until `going_on` is set."""
    going_on: threading.Event = field(default_factory=threading.Event)
    cut_after: int = 0
    """Break the connection of large files after so many bytes, until set to 0."""
    cdn: str = ""
    """Where large files are redirected to; empty = here."""
    corrupt: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    """Lies about sizes in the listing."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(method, path, headers in lower case)"""
    url: str = ""

    def files_of(self, repo: str) -> dict[str, bytes] | None:
        return self.files if repo == "me/tiny" else self.repos.get(repo)

    def listing(self, repo: str) -> dict[str, Any]:
        files = self.files_of(repo) or {}
        return {"id": repo, "sha": COMMIT, "siblings": [self._sibling(path, data) for path, data in files.items()]}

    def _sibling(self, path: str, data: bytes) -> dict[str, Any]:
        size = self.sizes.get(path, len(data))
        result = {"rfilename": path, "size": size, "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        if len(data) >= LARGE_BYTES:
            result["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
        return result

    def ranges(self) -> list[str]:
        return [headers["range"] for _, _, headers in self.requests if "range" in headers]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/datasets")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))
        if path.startswith("/cdn/"):
            owner, name, rest = path.removeprefix("/cdn/").split("/", 2)
            return self._file((self.hub.files_of(f"{owner}/{name}") or {})[rest], body=body)
        if self.hub.token and headers.get("authorization") != f"Bearer {self.hub.token}":
            return self._json({"error": "Invalid credentials"}, 401)
        if self.hub.gated:
            return self._json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        if path.startswith(("/api/models/", "/api/datasets/")):
            return self._info(path)
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        if (files := self.hub.files_of(repo)) is None:
            return self._json({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})
        data = files[rest.partition("/")[2]]
        if len(data) >= LARGE_BYTES:
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": '"x"', "X-Repo-Commit": COMMIT}
            there = f"{self.hub.cdn or self.hub.url}/cdn/{repo}/{rest.partition('/')[2]}"
            return self._json({}, 302, {**linked, "Location": there})
        return self._file(data, body=body)

    def _info(self, path: str) -> None:
        repo, _, revision = path.split("/", 3)[3].partition("/revision/")
        if self.hub.files_of(repo) is None:
            return self._json({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})
        if revision not in self.hub.revisions:
            return self._json({"error": "no"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return self._json(self.hub.listing(repo))

    def _file(self, data: bytes, *, body: bool) -> None:
        if self.hub.corrupt:
            data = bytes(byte ^ 1 for byte in data)
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for header, value in (("ETag", '"x"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(data) - start))):
            self.send_header(header, value)
        self.end_headers()
        if body and self.hub.cut_after and len(data) >= LARGE_BYTES:
            self.wfile.write(data[start : start + self.hub.cut_after])
            self.close_connection = True
        elif body:
            first = start + (self.hub.stall_after if len(data) >= LARGE_BYTES and self.hub.stall_after else len(data))
            self.wfile.write(data[start:first])
            if first < len(data):
                self.wfile.flush()
                self.hub.going_on.wait(PATIENCE_SECONDS)
            self.wfile.write(data[first:])

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hub_server(**options: Any) -> Iterator[Hub]:
    hub = Hub(**options)
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.going_on.set()
        server.shutdown()
        server.server_close()
