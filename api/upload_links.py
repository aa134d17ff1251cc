"""Signed links to send a file by: one PUT, or parts from ANNEAL_PART_BYTES on, joined by `parts_join`."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from api.environment import environment
from api.errors import Problem
from api.storage import storage
from storage import DigestMismatchError, Stat, part_sizes
from trainers.contract.spec import Contract

JsonObject = dict[str, Any]
MAX_ETAGS = 10_000
"""Of one file: what S3 can join."""
MAX_PARTS_AT_ONCE = 5_000
"""Links to parts in one answer."""


class Parts(Contract):
    """What a client says once it sent every part of a file."""

    path: str = Field(min_length=1, max_length=1024)
    upload_id: str = Field(min_length=1, max_length=1024)
    """As it came with the links."""
    etags: list[str] = Field(min_length=1, max_length=MAX_ETAGS)
    """The ETag header of each part's answer, in order."""


def parts_count(files: Sequence[Mapping[str, Any]]) -> int:
    """Parts that the large ones of `files` go in."""
    part_bytes = environment().part_bytes
    return sum(len(part_sizes(file["size"], part_bytes)) for file in files if file["size"] >= part_bytes)


def links_check(files: Sequence[Mapping[str, Any]]) -> None:
    """Raises Problem for more bytes, or more parts, than one request may ask links for."""
    total, allowed = sum(int(file["size"]) for file in files), environment().upload_bytes
    if total > allowed:
        said = f"expected at most {allowed} bytes in one request (ANNEAL_UPLOAD_BYTES), got {total}"
        raise Problem("too_large", f"files: {said}.", hint="Ask an admin to raise it.", fields={"files": [said]})
    if (count := parts_count(files)) > MAX_PARTS_AT_ONCE:
        said = f"expected files of at most {MAX_PARTS_AT_ONCE} parts in one request, got {count}"
        hint = "Send them in several requests, or raise ANNEAL_PART_BYTES."
        raise Problem("too_large", f"files: {said}.", hint=hint, fields={"files": [said]})


def nothing_to_send(path: str) -> JsonObject:
    return {"path": path, "url": None, "method": "PUT", "headers": {}, "upload_id": None, "parts": []}


def file_links(key: str, file: Mapping[str, Any], *, upload_id: str | None = None) -> JsonObject:
    """{path, url, method, headers, upload_id, parts} of one file; `url` is null where it goes in parts.

    `upload_id`: fresh links for the parts of an upload that is open.
    """
    seconds, link = environment().link_seconds, nothing_to_send(file["path"])
    if file["size"] < environment().part_bytes or not storage().capabilities().parts:
        put = storage().presign_put(key, size=file["size"], sha256=file["sha256"], expires_seconds=seconds)
        return {**link, "url": put.url, "method": put.method, "headers": put.headers}
    sizes = part_sizes(file["size"], environment().part_bytes)
    found = storage().presign_parts(key, sizes=sizes, expires_seconds=seconds, upload_id=upload_id)
    numbered = enumerate(zip(found.parts, sizes, strict=True), start=1)
    parts = [{"number": number, "url": part.url, "size": size} for number, (part, size) in numbered]
    return {**link, "upload_id": found.upload_id, "parts": parts}


def parts_join(key: str, file: Mapping[str, Any], parts: Parts) -> None:
    """Makes one file of its parts; done before is fine. Raises Problem(409) for what is missing or another content."""
    if is_whole(key, file):
        return
    etags: Sequence[str] = [etag.strip('"') for etag in parts.etags]
    try:
        stat = storage().complete_parts(key, parts.upload_id, etags, sha256=file["sha256"])
    except DigestMismatchError as error:
        raise Problem("wrong_digest", f"{file['path']}: {error}.", status=409, hint="Send the file again.") from None
    except (ValueError, FileNotFoundError) as error:
        hint = "Ask for links again and send every part."
        raise Problem("part_missing", f"{file['path']}: {error}.", status=409, hint=hint) from None
    if not _fits(stat, file):
        said = f"{file['path']}: expected {file['size']} bytes, its parts have {stat.size}"
        raise Problem("part_missing", f"{said}.", status=409, hint="Send every part.")


def is_whole(key: str, file: Mapping[str, Any]) -> bool:
    try:
        return _fits(storage().stat(key), file)
    except FileNotFoundError:
        return False


def _fits(stat: Stat, file: Mapping[str, Any]) -> bool:
    return (stat.size, stat.sha256) == (file["size"], file["sha256"])
