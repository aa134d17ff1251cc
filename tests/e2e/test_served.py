"""`anneal up --s3 --db postgres`: the whole flow on a real S3 server and PostgreSQL, over a kill -9."""

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.config import Login
from cli.http import Client
from tests.e2e.conftest import STOP_SECONDS, Embedded, ended, started

pytestmark = pytest.mark.slow
CHILDREN = {"database", "storage", "broker", "api", "dispatcher", "worker"}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Where another user may pass through: PostgreSQL does not run as root."""
    folder = Path(tempfile.mkdtemp(prefix="anneal-e2e-"))
    folder.chmod(0o755)
    yield folder / "platform"
    shutil.rmtree(folder)


def test_the_flow_stands_on_s3_and_postgresql_and_survives_a_kill(
    root: Path, tiny_sd: Path, images: Path, tmp_path: Path
) -> None:
    up, ready = started(root, "--s3", "--db", "postgres")
    platform = Embedded(Login(ready["url"], ready["token"]), ready["password"], root, up.pid, ready)
    platform.anneal("model", "add", "tiny", str(tiny_sd))
    platform.anneal("dataset", "add", "plain", str(images))
    train = ("--method=image_lora", "--dataset=plain", "--model=tiny", "--set=adaptor_name=plain")
    small = ("--set=resolution=64", "--set=max_train_steps=2", "--set=checkpoint_every_steps=1")
    job = platform.json("job", "submit", *train, *small)["id"]
    with Client(platform.login) as client:
        assert ended(client, job)["state"] == "succeeded", platform.logs()
    first = pulled(platform, tmp_path / "first")
    os.kill(up.pid, signal.SIGKILL)
    up.wait()

    up, ready = started(root)
    assert ready == {"url": platform.login.url, "dir": str(root)}, "the same platform, and no secret again"
    assert pulled(platform, tmp_path / "second") == first
    same_bytes(platform, "datasets/plain", images)
    same_bytes(platform, "models/tiny", tiny_sd)
    assert httpx.get(f"{ready['url']}/readyz").json()["storage_capabilities"]["kind"] == "s3"
    assert not any((root / "files").rglob("*.*")), "nothing went to the folder"
    up.terminate()
    assert up.wait(STOP_SECONDS) == 0
    assert {path.stem for path in (root / "logs").iterdir()} == CHILDREN | {"setup"}


def pulled(platform: Embedded, folder: Path) -> dict[str, str]:
    """SHA-256 by path of the downloaded adaptor, which are those that its record promises."""
    platform.anneal("adaptor", "pull", "plain@1", "--output", str(folder))
    record = platform.json("adaptor", "show", "plain@1")
    result = {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in files_below(folder)}
    assert {file["path"]: file["sha256"] for file in record["files"]}.items() <= result.items()
    return result


def same_bytes(platform: Embedded, record: str, folder: Path) -> None:
    """Each file by its signed link, straight from S3, against what was sent."""
    with Client(platform.login) as client:
        files = client.get(record)["files"]
    assert {file["path"] for file in files} == set(files_below(folder))
    for file in files:
        assert httpx.get(file["url"]).content == (folder / file["path"]).read_bytes(), file["path"]


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
