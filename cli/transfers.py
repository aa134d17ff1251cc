"""Files to and from storage by signed links: streamed, with their SHA-256, never half there."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx

from cli.errors import ApiError, CliError, ConflictError, InvalidError
from cli.http import Client, Record, checked, reachable
from foundation.digests import sha256_of

CHUNK_BYTES = 1 << 20
PARALLEL_FILES = 4
PART_TRIES = 3
JOIN_SECONDS = 900
"""Longest wait for the API to join a large file and read it once."""
CHECK_SECONDS = 900
"""Longest wait for the API to look at an upload that it checks at once."""
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
OnBytes = Callable[[int], None]


def folder_upload(
    client: Client,
    collection: str,
    name: str,
    folder: Path,
    on_bytes: OnBytes = lambda _: None,
    *,
    strip_metadata: bool = False,
) -> Record:
    """Uploads `folder` as the next version of `<collection>/<name>`; the same content makes no new one."""
    return files_upload(client, collection, name, folder, {"files": folder_files(folder)}, on_bytes, strip_metadata)


def zip_upload(
    client: Client,
    collection: str,
    name: str,
    file: Path,
    on_bytes: OnBytes = lambda _: None,
    *,
    strip_metadata: bool = False,
) -> Record:
    """Uploads one zip, whose content becomes the next version."""
    asked = {"files": [file_entry(file, file.parent)], "unpack": True}
    return files_upload(client, collection, name, file.parent, asked, on_bytes, strip_metadata)


def files_upload(
    client: Client, collection: str, name: str, folder: Path, asked: Record, on_bytes: OnBytes, strip_metadata: bool
) -> Record:
    """Sends the files of `folder` that `asked` announces; returns the version that they make.

    A refused upload leaves no name that has nothing.
    """
    created = record_create(client, collection, name)
    try:
        return files_send(client, collection, name, folder, asked, on_bytes, strip_metadata)
    except InvalidError:
        if created:
            with suppress(CliError):
                client.delete(f"{collection}/{name}")
        raise


def files_send(
    client: Client, collection: str, name: str, folder: Path, asked: Record, on_bytes: OnBytes, strip_metadata: bool
) -> Record:
    upload = client.post(f"{collection}/{name}/uploads", asked | ({"strip_metadata": True} if strip_metadata else {}))
    address = f"{collection}/{name}/uploads/{upload['upload']}"
    with httpx.Client(timeout=TIMEOUT) as storage, ThreadPoolExecutor(PARALLEL_FILES) as pool:

        def send(link: Record) -> None:
            if link["parts"]:
                etags = parts_put(storage, link, folder / link["path"], on_bytes)
                joined = {"path": link["path"], "upload_id": link["upload_id"], "etags": etags}
                client.post(f"{address}/complete", joined, timeout=JOIN_SECONDS)
            elif link["url"]:
                file_put(storage, link, folder / link["path"], on_bytes)

        for _ in pool.map(send, upload["files"]):
            pass
    sent = {"upload": upload["upload"]}
    version: Record = client.post(f"{collection}/{name}/versions", sent, timeout=CHECK_SECONDS)
    return version


def record_create(client: Client, collection: str, name: str) -> bool:
    """Whether the name is new."""
    try:
        client.post(collection, {"name": name})
    except ConflictError:
        return False
    return True


def folder_files(folder: Path) -> list[Record]:
    """Every file below `folder` with size in bytes and SHA-256; hidden files and folders are left out."""
    if not folder.is_dir():
        raise CliError(f"expected a folder, got {folder}")
    files = [file_entry(path, folder) for path in folder_paths(folder)]
    if not files:
        raise CliError(f"{folder} has no files")
    return files


def file_entry(path: Path, folder: Path) -> Record:
    return {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}


def folder_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path.relative_to(folder)))


def folder_size(folder: Path) -> int:
    """Bytes of what `folder_upload` would send."""
    return sum(path.stat().st_size for path in folder_paths(folder))


def hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def file_put(storage: httpx.Client, link: Record, path: Path, on_bytes: OnBytes) -> None:
    size = path.stat().st_size
    headers = {"Content-Length": str(size), **(link.get("headers") or {})}
    with reachable(link["url"]):
        response = storage.put(link["url"], content=chunks(path, 0, size, on_bytes), headers=headers)
    checked(response)


def parts_put(storage: httpx.Client, link: Record, path: Path, on_bytes: OnBytes) -> list[str]:
    """Sends a large file part by part, each tried up to PART_TRIES times; returns the ETags in order."""
    etags, start = list[str](), 0
    for part in link["parts"]:
        etags.append(part_put(storage, part, path, start, on_bytes))
        start += part["size"]
    return etags


def part_put(storage: httpx.Client, part: Record, path: Path, start: int, on_bytes: OnBytes) -> str:
    """What a broken try had sent is taken back from `on_bytes`."""
    for left in reversed(range(PART_TRIES)):
        sent: list[int] = []

        def count(size: int, sent: list[int] = sent) -> None:
            sent.append(size)
            on_bytes(size)

        try:
            with reachable(part["url"]):
                content = chunks(path, start, part["size"], count)
                headers = {"Content-Length": str(part["size"])}
                answer = checked(storage.put(part["url"], content=content, headers=headers))
            return str(answer.headers["ETag"])
        except CliError as error:
            if not left or (isinstance(error, ApiError) and error.status < 500):
                raise
            on_bytes(-sum(sent))
    raise AssertionError("the last try returns or raises")


def chunks(path: Path, start: int, left: int, on_bytes: OnBytes) -> Iterator[bytes]:
    """`left` bytes of the file from `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        while left > 0 and (block := file.read(min(CHUNK_BYTES, left))):
            left -= len(block)
            on_bytes(len(block))
            yield block


def file_download(link: Record, target: Path, on_bytes: OnBytes = lambda _: None) -> Path:
    """Fetches `link` {url, sha256} to `target`, whole and with the right digest or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        received = fetch(link["url"], part, on_bytes)
        if received != link["sha256"]:
            raise CliError(f"{target.name}: expected SHA-256 {link['sha256']}, received {received}", "Try again.")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def fetch(url: str, part: Path, on_bytes: OnBytes) -> str:
    """Streams `url` into `part`; returns the SHA-256 of what came."""
    digest = hashlib.sha256()
    with reachable(url), httpx.stream("GET", url, timeout=TIMEOUT) as response, part.open("wb") as file:
        for block in checked(response).iter_bytes(CHUNK_BYTES):
            file.write(block)
            digest.update(block)
            on_bytes(len(block))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


POLL_SECONDS = 1.0


def version_ready(client: Client, collection: str, version: Record) -> Record:
    """The version once it is checked. Raises CliError with the reason where it is refused."""
    ref = f"{version['name']}@{version['version']}"
    while version.get("state") == "checking":
        time.sleep(POLL_SECONDS)
        version = client.get(f"{collection}/{ref}")
    if version.get("state") == "refused":
        reason = version.get("reason") or {}
        raise CliError(f"{ref} was refused: {reason.get('message')}", str(reason.get("hint") or ""), code="refused")
    return version
