"""An adaptor as one archive: the right bytes, streamed, with one piece in memory."""

import hashlib
import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from datetime import datetime

import httpx
import pytest
from rest_framework.test import APIClient

from api.catalog.adaptors.zip_stream import Entry, zip_pieces
from api.catalog.models import Adaptor
from api.storage import storage
from tests.api.host import Host
from tests.api.live import serving
from tests.api.world import World
from tests.patience import PATIENCE_SECONDS

AT = datetime(2026, 1, 31, 12, 30)
MIB = 1 << 20


def entry(path: str, data: bytes) -> Entry:
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    return Entry(path, len(data), hashlib.sha256(data).hexdigest(), lambda: iter(pieces))


def test_an_archive_holds_what_went_in() -> None:
    files = {"a/weights.safetensors": b"w" * 5000, "a/empty": b"", "a/ümläut.txt": "ü".encode()}
    data = b"".join(zip_pieces((entry(path, content) for path, content in files.items()), AT))
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == files


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "a\\b", "", "a//b"])
def test_a_name_that_leaves_the_folder_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        list(zip_pieces([entry(path, b"x")], AT))


def test_a_file_that_changed_leaves_an_archive_without_directory() -> None:
    changed = Entry("a", 3, hashlib.sha256(b"old").hexdigest(), lambda: iter([b"new"]))
    received = bytearray()
    with pytest.raises(ValueError, match="SHA-256"):
        for piece in zip_pieces([changed], AT):
            received += piece
    assert not zipfile.is_zipfile(io.BytesIO(bytes(received)))


@pytest.mark.slow
def test_a_file_beyond_4_gib_is_zip64_and_memory_stays_flat() -> None:
    piece, count = bytes(MIB), 4100
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    large = Entry("large", count * MIB, digest.hexdigest(), lambda: (piece for _ in range(count)))
    tracemalloc.start()
    size, tail = 0, b""
    for received in zip_pieces([large, entry("small", b"x")], AT):
        size += len(received)
        tail = (tail + received)[-300:]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > count * MIB
    assert b"PK\x06\x06" in tail, "the directory at the end is ZIP64's"
    assert peak < 16 * MIB


@pytest.fixture
def server() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.mark.django_db(transaction=True)
def test_the_api_streams_it_with_its_manifest(server: str, user: APIClient, host: Host, world: World) -> None:
    user.post("/api/v1/jobs", world.request, format="json")
    agent = host.claim()
    agent.start()
    assert agent.finish().status_code == 200
    headers = {"Authorization": user._credentials["HTTP_AUTHORIZATION"], "Accept": "application/zip"}  # type: ignore[attr-defined]  # not in the stubs
    answer = httpx.get(f"{server}/api/v1/adaptors/shapes/zip", headers=headers, timeout=PATIENCE_SECONDS)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="shapes-v1.zip"'
    assert answer.headers.get("transfer-encoding") == "chunked"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == ["shapes-v1/pytorch_lora_weights.safetensors", "shapes-v1/manifest.json"]
    assert archive.read(archive.namelist()[0]) == b"weights"
    storage().delete_prefix(f"{Adaptor.objects.get().key}/")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{server}/api/v1/adaptors/shapes/zip", headers=headers, timeout=PATIENCE_SECONDS)
