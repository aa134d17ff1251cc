"""Signed links to upload a file: one PUT, or parts from ANNEAL_PART_BYTES on, which `parts_join` joins."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field

from api.environment import environment
from api.errors import Problem
from api.openapi import Schema
from api.storage import storage
from storage import DigestMismatchError, Stat, part_sizes
from trainers.contract.spec import Contract

MAX_ETAGS = 10_000
"""Of one file: the limit of S3."""
MAX_PARTS_AT_ONCE = 5_000
"""Links to parts in one response."""


class PartLinkShape(Schema):
    number: int
    """From 1."""
    url: str
    size: int
    """Bytes; the file's parts follow each other in order."""


class UploadLinkShape(Schema):
    path: str
    url: str | None
    """Null without parts: this content is there already, nothing to send."""
    method: str
    headers: dict[str, str]
    upload_id: str | None
    """Goes into `complete` with the ETags of the parts."""
    parts: list[PartLinkShape]
    """Of a large file: PUT each, then POST to `complete`; empty for one that goes to `url` whole."""

    @classmethod
    def existing(cls, path: str) -> Self:
        """For a file that the storage already has."""
        return cls(path=path, url=None, method="PUT", headers={}, upload_id=None, parts=[])


class Parts(Contract):
    """What a client says once it sent every part of a file."""

    path: str = Field(min_length=1, max_length=1024)
    upload_id: str = Field(min_length=1, max_length=1024)
    """As it came with the links."""
    etags: list[str] = Field(min_length=1, max_length=MAX_ETAGS)
    """The ETag header of each part's answer, in order."""


def parts_count(files: Sequence[Mapping[str, Any]]) -> int:
    """The total number of parts of the large files."""
    part_bytes = environment().part_bytes
    return sum(len(part_sizes(file["size"], part_bytes)) for file in files if file["size"] >= part_bytes)


def links_check(files: Sequence[Mapping[str, Any]]) -> None:
    """Raises Problem if one request asks for links to too many bytes or parts."""
    total, allowed = sum(int(file["size"]) for file in files), environment().upload_bytes
    if total > allowed:
        message = f"expected at most {allowed} bytes in one request (ANNEAL_UPLOAD_BYTES), got {total}"
        raise Problem("too_large", f"files: {message}.", hint="Ask an admin to raise it.", fields={"files": [message]})
    if (count := parts_count(files)) > MAX_PARTS_AT_ONCE:
        message = f"expected files of at most {MAX_PARTS_AT_ONCE} parts in one request, got {count}"
        hint = "Send them in several requests, or raise ANNEAL_PART_BYTES."
        raise Problem("too_large", f"files: {message}.", hint=hint, fields={"files": [message]})


def upload_link(key: str, file: Mapping[str, Any], *, upload_id: str | None = None) -> UploadLinkShape:
    """One signed PUT for a file, or one for each part of a large file.

    `upload_id`: new links for the parts of an open upload.
    """
    seconds, path = environment().link_seconds, file["path"]
    if file["size"] < environment().part_bytes or not storage().capabilities().parts:
        put = storage().presign_put(key, size=file["size"], sha256=file["sha256"], expires_seconds=seconds)
        return UploadLinkShape(path=path, url=put.url, method=put.method, headers=put.headers, upload_id=None, parts=[])
    sizes = part_sizes(file["size"], environment().part_bytes)
    links = storage().presign_parts(key, sizes=sizes, expires_seconds=seconds, upload_id=upload_id)
    numbered = enumerate(zip(links.parts, sizes, strict=True), start=1)
    parts = [PartLinkShape(number=number, url=part.url, size=size) for number, (part, size) in numbered]
    return UploadLinkShape(path=path, url=None, method="PUT", headers={}, upload_id=links.upload_id, parts=parts)


def parts_join(key: str, file: Mapping[str, Any], parts: Parts) -> None:
    """Joins the parts of a file. Idempotent. Raises Problem(409) if parts are missing or the content differs."""
    if is_complete(key, file):
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
        message = f"{file['path']}: expected {file['size']} bytes, its parts have {stat.size}"
        raise Problem("part_missing", f"{message}.", status=409, hint="Send every part.")


def is_complete(key: str, file: Mapping[str, Any]) -> bool:
    try:
        return _fits(storage().stat(key), file)
    except FileNotFoundError:
        return False


def _fits(stat: Stat, file: Mapping[str, Any]) -> bool:
    return (stat.size, stat.sha256) == (file["size"], file["sha256"])
