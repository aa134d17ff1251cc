"""Uploads of folders and zips to storage by signed links, and the wait for the check of what they became."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
from tenacity import retry_if_exception, stop_after_attempt

from cli.errors import ApiError, CliError, ConflictError, InvalidError
from cli.http import Client, Record, checked, reachable
from foundation.digests import sha256_of
from foundation.multipart import OnBytes, file_chunks, parts_upload
from foundation.retry import repeat

PARALLEL_FILES = 4
PART_TRIES = 3
PART_PAUSE_SECONDS = 0.5
"""Before the second try of a part; then doubled."""
JOIN_SECONDS = 900
"""Longest wait for the API to join a large file and read it once."""
CHECK_SECONDS = 900
"""Longest wait for the API to look at an upload that it checks at once."""
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


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
    announced = {"files": [file_entry(file, file.parent)], "unpack": True}
    return files_upload(client, collection, name, file.parent, announced, on_bytes, strip_metadata)


def files_upload(
    client: Client, collection: str, name: str, folder: Path, announced: Record, on_bytes: OnBytes, strip_metadata: bool
) -> Record:
    """Sends the files of `folder` that `announced` announces; returns the version that they make.

    A refused upload leaves no name that has nothing.
    """
    created = record_create(client, collection, name)
    try:
        return files_send(client, collection, name, folder, announced, on_bytes, strip_metadata)
    except InvalidError:
        if created:
            with suppress(CliError):
                client.delete(f"{collection}/{name}")
        raise


def files_send(
    client: Client, collection: str, name: str, folder: Path, announced: Record, on_bytes: OnBytes, strip_metadata: bool
) -> Record:
    upload = client.post(
        f"{collection}/{name}/uploads", announced | ({"strip_metadata": True} if strip_metadata else {})
    )
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
        response = storage.put(link["url"], content=file_chunks(path, 0, size, on_bytes), headers=headers)
    checked(response)


def parts_put(storage: httpx.Client, link: Record, path: Path, on_bytes: OnBytes) -> list[str]:
    """Sends a large file part by part, each tried up to PART_TRIES times; returns the ETags in order.

    What a failed try had sent is subtracted again through `on_bytes`.
    """
    sent = 0

    def count(size: int) -> None:
        nonlocal sent
        sent += size
        on_bytes(size)

    def repeat_part(index: int, send: Callable[[], str]) -> str:
        def attempt() -> str:
            nonlocal sent
            sent = 0
            try:
                with reachable(link["parts"][index]["url"]):
                    return send()
            except CliError:
                on_bytes(-sent)
                raise

        stop = stop_after_attempt(PART_TRIES)
        return repeat(
            attempt, when=retry_if_exception(may_pass), first_seconds=PART_PAUSE_SECONDS, pause=time.sleep, stop=stop
        )

    return parts_upload(
        storage,
        path,
        link["parts"],
        check=lambda response, _: checked(response),
        repeat=repeat_part,
        timeout=TIMEOUT,
        on_bytes=count,
    )


def may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: the storage is unreachable or answers 5xx."""
    return isinstance(error, CliError) and (not isinstance(error, ApiError) or error.status >= 500)


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
