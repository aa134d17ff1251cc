"""What only the S3 backend has: where its links lead, servers that can less, servers that are away."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from storage import Capabilities, S3Options, Storage, StorageUnavailableError, open_storage
from storage.base import PART_BYTES, part_sizes
from tests.storage.backends import SECRET
from tests.storage.seaweed import Seaweed, seaweed_running

NOBODY = S3Options(endpoint="http://127.0.0.1:9", access_key="k", secret_key="s")
"""Nothing listens on the port of "discard"."""
POOR = Capabilities(if_absent=False, put_checks_sha256=False, min_part_bytes=5 << 20)


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed_running(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


def opened(seaweed: Seaweed, prefix: str = "", **changed: str) -> Storage:
    options = replace(seaweed.options, **changed)  # type: ignore[arg-type]
    return open_storage(f"{seaweed.url}/{prefix}", link_base="", secret=SECRET, s3=options)


def test_links_lead_to_the_public_endpoint_and_calls_do_not(seaweed: Seaweed) -> None:
    storage = opened(seaweed, public_endpoint="https://files.example.org")
    assert storage.put_if_absent("a", b"data")
    for link in (
        storage.presign_get("a", expires_seconds=60),
        storage.presign_put("b", size=1, sha256=None, expires_seconds=60),
        storage.presign_parts("c", sizes=[1], expires_seconds=60).parts[0],
    ):
        assert link.url.startswith("https://files.example.org/anneal/objects/")
        assert "X-Amz-Signature=" in link.url, "version 4"


def test_the_bucket_can_be_part_of_the_host_name() -> None:
    options = replace(NOBODY, addressing="virtual", endpoint="http://s3.example.org", checksums="never")
    link = open_storage("s3://bucket", link_base="", secret=SECRET, s3=options).presign_get("a", expires_seconds=60)
    assert link.url.startswith("http://bucket.s3.example.org/objects/a?")


def test_prefixes_of_a_bucket_are_isolated(seaweed: Seaweed) -> None:
    first, second = opened(seaweed, "one"), opened(seaweed, "one/two")
    first.put_if_absent("data/a", b"1")
    second.put_if_absent("data/a", b"2")
    first.delete_prefix("data/")
    assert list(second.list("data/")) == [("data/a", 1)]


def test_missing_conditions_and_checksums_of_a_server_are_emulated(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.s3_storage.probe", lambda _: POOR)
    storage = opened(seaweed, "poor")
    assert storage.put_if_absent("once", b"first") and not storage.put_if_absent("once", b"second")
    link = storage.presign_put("b", size=4, sha256="0" * 64, expires_seconds=60)
    assert link.headers == {}, "a checksum that nobody checks is not asked for"
    httpx.put(link.url, content=b"data", trust_env=False).raise_for_status()
    assert storage.stat("b").sha256 == hashlib.sha256(b"data").hexdigest(), "read, since the server cannot say it"
    httpx.put(link.url, content=b"DATA", trust_env=False).raise_for_status()
    assert storage.stat("b").sha256 == hashlib.sha256(b"DATA").hexdigest(), "what was noted is of other bytes"


def test_checksums_can_be_forced_and_left_out(seaweed: Seaweed) -> None:
    for mode, sent in (("always", True), ("never", False)):
        link = opened(seaweed, checksums=mode).presign_put("x", size=1, sha256="0" * 64, expires_seconds=60)
        assert bool(link.headers) == sent


def test_a_large_file_is_put_in_parts_and_keeps_its_digest(seaweed: Seaweed, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(PART_BYTES + 1)
    storage = opened(seaweed, "large")
    sha256 = hashlib.sha256(bytes(PART_BYTES + 1)).hexdigest()
    assert storage.put_file("a", large, sha256=sha256) == storage.stat("a")


def test_an_unreachable_server_is_storage_unavailable() -> None:
    storage = open_storage("s3://bucket", link_base="", secret=SECRET, s3=NOBODY)
    for call in (
        lambda: storage.stat("a"),
        lambda: storage.put_if_absent("a", b"x"),
        lambda: list(storage.list("a/")),
        lambda: storage.delete_prefix("a/"),
        storage.capabilities,
    ):
        with pytest.raises(StorageUnavailableError, match="does not answer"):
            call()


def test_wrong_keys_are_the_same_error(seaweed: Seaweed) -> None:
    with pytest.raises(StorageUnavailableError, match="answered 403"):
        opened(seaweed, secret_key="another").stat("a")


def test_without_boto3_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from storage import open_storage\n"
        "open_storage('s3://bucket', link_base='', secret='x' * 16)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: s3://bucket needs boto3, which is not installed; install anneal[s3]" in done.stderr


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [1]), (10, [4, 4, 2]), (8, [4, 4]), (4_000, [4] * 1_000), (5_000, [5] * 1_000)]
)
def test_a_file_is_cut_into_at_most_a_thousand_parts(size: int, sizes: list[int]) -> None:
    assert part_sizes(size, 4) == sizes
