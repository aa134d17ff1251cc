"""One large upload: the API's memory before, at its peak and after, and the speed; then bodies that are too big.

python -m bench.upload                 1 GiB to a folder and to SeaweedFS, whole and in parts; needs twice that on disk
python -m bench.upload --megabytes 64  smaller
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from bench.measure import machine, table
from cli.config import Login
from cli.http import Client, Record
from cli.platform.children import Child, answers_ready, child_start, child_stop, wait_until
from cli.platform.home import home_open, port_new
from cli.platform.seaweed import seaweed_start
from cli.platform.services import api_child, api_env, api_url
from cli.platform.start import run_once, setup
from cli.uploads import TIMEOUT, file_put, parts_put

MB = 1 << 20
WHOLE = 5 << 30
"""Part size; a file of 1 GiB is uploaded in one PUT."""
HEADS = ("", "API's RSS before", "peak", "after", "speed", "answer")


@dataclass(frozen=True)
class Api:
    """A running API process and a client of it."""

    child: Child
    client: Client

    @property
    def status(self) -> Path:
        assert self.child.process is not None
        return Path(f"/proc/{self.child.process.pid}")

    def rss_mb(self, field: str = "VmRSS") -> float:
        lines = (self.status / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    def peak_reset(self) -> None:
        """`VmHWM` then counts from here."""
        (self.status / "clear_refs").write_text("5")


def measured(api: Api, what: str, megabytes: float, send: Callable[[], str]) -> Sequence[str]:
    """A row of the table; `send` returns the response."""
    before = api.rss_mb()
    api.peak_reset()
    started = time.monotonic()
    answer = send()
    seconds = time.monotonic() - started
    speed = f"{megabytes / seconds:.0f} MB/s" if megabytes else f"{seconds:.2f} s"
    return what, f"{before:.0f} MB", f"{api.rss_mb('VmHWM'):.0f} MB", f"{api.rss_mb():.0f} MB", speed, answer


def rows(folder: Path, megabytes: int) -> Iterator[Sequence[str]]:
    large = folder / "large.bin"
    file_make(large, megabytes)
    for storage in ("folder", "SeaweedFS"):
        for how, part_bytes in (("one PUT", WHOLE), ("parts of 64 MB", 64 * MB)):
            with api_running(folder / "platform", storage == "SeaweedFS", part_bytes) as api:
                warm_up(api)
                yield measured(api, f"{storage}, {how}", megabytes, partial(upload, api.client, large))
                if storage == "folder" and part_bytes == WHOLE:
                    yield measured(
                        api, "folder, a PUT of one byte too many", 0, partial(put_too_much, api.client, large)
                    )
                    yield measured(api, "a body of that size to the API", 0, partial(post_too_much, api.client, large))


def upload(client: Client, path: Path) -> str:
    """Uploads the file by the API's links; multipart uploads are completed and their digest is verified."""
    link, address = announced(client, path)
    with httpx.Client(timeout=TIMEOUT) as http:
        if not link["parts"]:
            file_put(http, link, path, lambda _: None)
            return "stored"
        etags = parts_put(http, link, path, lambda _: None)
    body = {"path": link["path"], "upload_id": link["upload_id"], "etags": etags}
    client.post(f"{address}/complete", body, timeout=900)
    return f"{len(etags)} parts joined, digest read"


def put_too_much(client: Client, path: Path) -> str:
    link, _ = announced(client, path)
    return refused("PUT", link["url"], path, {}, extra=b"x")


def post_too_much(client: Client, path: Path) -> str:
    headers = {"Authorization": f"Bearer {client.login.token}", "Content-Type": "application/json"}
    return refused("POST", f"{client.login.url}/api/v1/datasets", path, headers)


def refused(method: str, url: str, path: Path, headers: dict[str, str], extra: bytes = b"") -> str:
    """The response to the body of `path`, and how many bytes the server read."""
    sent = [0]

    def body() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(MB):
                yield piece
                sent[0] += len(piece)
        yield extra

    length = {"Content-Length": str(path.stat().st_size + len(extra))}
    try:
        status = str(httpx.request(method, url, content=body(), headers={**headers, **length}, timeout=60).status_code)
    except httpx.TransportError as error:
        status = type(error).__name__
    return f"{status} after {sent[0] // MB} MB"


def announced(client: Client, path: Path) -> tuple[Record, str]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    entry = {"path": "large.bin", "size": path.stat().st_size, "sha256": sha256}
    measured = client.post("datasets/large/uploads", {"files": [entry]})
    return measured["files"][0], f"datasets/large/uploads/{measured['upload']}"


def warm_up(api: Api) -> None:
    """Warms up, so that the first requests' imports do not count."""
    api.client.post("datasets", {"name": "large"})
    small = api.child.log.with_name("small.bin")
    file_make(small, 1)
    upload(api.client, small)


def file_make(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(MB))


TOO_MUCH = {
    "folder, a PUT of one byte too many": put_too_much,
    "a body of that size to the API itself": post_too_much,
}


@contextmanager
def api_running(folder: Path, on_s3: bool, part_bytes: int) -> Iterator[Api]:
    home, port = home_open(folder), port_new(set())
    s3, places = seaweed_start(home) if on_s3 else (None, {})
    env = api_env(home, port=port, key="k" * 48, broker_url="", places=places)
    env["ANNEAL_PART_BYTES"] = str(part_bytes)
    run_once(home, env, "migrate", "--no-input")
    first, _ = setup(home, env)
    child = api_child(home, env, port)
    child_start(child)
    try:
        wait_until(lambda: answers_ready(api_url(port)), child)
        with Client(Login(api_url(port), first["token"])) as client:
            yield Api(child, client)
    finally:
        child_stop(child)
        if s3 is not None:
            child_stop(s3)
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anneal-upload-") as folder:
        measured = list(rows(Path(folder), args.megabytes))
    print(f"{machine()}\n\n{table(HEADS, measured)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
