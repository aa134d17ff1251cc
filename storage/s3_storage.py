"""A bucket as storage: <prefix>/objects/<key>, and <prefix>/digests/<key> if the server reports no SHA-256."""

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from storage.base import (
    PART_BYTES,
    Capabilities,
    DigestMismatchError,
    PartLinks,
    S3Options,
    SignedRequest,
    Stat,
    StorageUnavailableError,
    key_check,
    prefix_check,
)
from storage.media import disposition, named_type
from storage.s3 import Bucket, Head, checksum_header

S3_MIN_PART_BYTES = 5 << 20
PROBE = b"probe"
PROBE_LINK_SECONDS = 60
PROBE_HTTP_SECONDS = 30
PROBE_OPENER = build_opener(ProxyHandler({}))  # the server is ours: use no proxy


class S3Storage:
    """See `storage.base.Storage`. Safe for any number of processes and threads."""

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self._bucket = Bucket(bucket, f"{prefix}/" if prefix else "", options)
        self._checksums = options.checksums
        self._capabilities: Capabilities | None = None
        self._probing = Lock()

    def put_file(self, key: str, source: Path, *, sha256: str | None = None) -> Stat:
        place = _object(key)
        with source.open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            if sha256 not in (None, digest):
                raise DigestMismatchError(f"expected SHA-256 {sha256} for {key}, got {digest}")
            checked = self._sends_sha256()
            if size >= PART_BYTES:
                self._bucket.put_large(place, source, checked=checked)
                self._record(key, self._bucket.head(place), digest)
            else:
                file.seek(0)
                self._bucket.put(place, file, sha256=digest if checked else None)
        return Stat(key, size, digest)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """If the server lacks If-None-Match (`capabilities`), concurrent callers may all get True."""
        place = _object(key)
        if self.capabilities().if_absent:
            return self._bucket.put(place, data, if_absent=True)
        try:
            self._bucket.head(place)
        except FileNotFoundError:
            return self._bucket.put(place, data)
        return False

    def copy(self, source: str, target: str) -> Stat:
        sha256 = self.stat(source).sha256
        self._bucket.copy(_object(source), _object(target))
        head = self._bucket.head(_object(target))
        self._record(target, head, sha256)
        return Stat(target, head.size, sha256)

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        place = _object(key)
        if length == 0:
            self._bucket.head(place)
            return iter(())
        try:
            return self._bucket.get(place, start, length)
        except ValueError:
            return iter(())

    def stat(self, key: str) -> Stat:
        head = self._bucket.head(_object(key))
        sha256 = (head.sha256 if self._sends_sha256() else None) or self._recorded(key, head)
        if sha256 is None:
            sha256 = self._read_sha256(key)
            self._record(key, head, sha256)
        return Stat(key, head.size, sha256)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        entries = self._bucket.list(_object_prefix(prefix))
        return ((key.removeprefix("objects/"), size) for key, size in iter(sorted(entries)))

    def delete(self, key: str) -> None:
        self._bucket.delete([_object(key), f"digests/{key}"])

    def delete_prefix(self, prefix: str) -> None:
        for tree in (_object_prefix(prefix), f"digests/{prefix}"):
            self._bucket.delete([key for key, _ in self._bucket.list(tree)])

    def presign_get(self, key: str, *, expires_seconds: int, filename: str | None = None) -> SignedRequest:
        place, kind = _object(key), named_type(key)
        overrides = {
            "ResponseContentType": kind,
            "ResponseContentDisposition": disposition(kind, filename or key.rsplit("/", 1)[-1]),
        }
        url = self._bucket.sign("get_object", place, arguments=overrides, expires_seconds=expires_seconds)
        return SignedRequest(url)

    def presign_put(self, key: str, *, size: int, sha256: str | None, expires_seconds: int) -> SignedRequest:
        place, arguments, headers = _object(key), dict[str, object](ContentLength=size), dict[str, str]()
        if sha256 is not None and self._sends_sha256():
            arguments["ChecksumSHA256"] = headers["x-amz-checksum-sha256"] = checksum_header(sha256)
        url = self._bucket.sign("put_object", place, arguments=arguments, expires_seconds=expires_seconds)
        return SignedRequest(url, "PUT", headers)

    def presign_parts(
        self, key: str, *, sizes: Sequence[int], expires_seconds: int, upload_id: str | None = None
    ) -> PartLinks:
        place = _object(key)
        upload_id = upload_id or self._bucket.parts_open(place)
        arguments = ({"UploadId": upload_id, "PartNumber": n, "ContentLength": s} for n, s in enumerate(sizes, start=1))
        urls = (
            self._bucket.sign("upload_part", place, arguments=each, expires_seconds=expires_seconds)
            for each in arguments
        )
        return PartLinks(upload_id, tuple(SignedRequest(url, "PUT") for url in urls))

    def complete_parts(self, key: str, upload_id: str, etags: Sequence[str], *, sha256: str | None = None) -> Stat:
        """Reads the joined object once for its digest, since S3 only computes one of the parts' digests."""
        place = _object(key)
        self._bucket.parts_join(place, upload_id, etags)
        stat = self.stat(key)
        if sha256 not in (None, stat.sha256):
            self._bucket.delete([place, f"digests/{key}"])
            raise DigestMismatchError(f"expected SHA-256 {sha256} for {key}, got {stat.sha256}")
        return stat

    def abort_parts(self, key: str, upload_id: str) -> None:
        try:
            self._bucket.parts_drop(_object(key), upload_id)
        except ValueError:  # already closed
            return

    def sweep_parts(self, *, older_than_seconds: float) -> int:
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        old = [(key, upload_id) for key, upload_id, begun in self._bucket.parts_list("objects/") if begun < before]
        for key, upload_id in old:
            self.abort_parts(key.removeprefix("objects/"), upload_id)
        return len(old)

    def capabilities(self) -> Capabilities:
        """Probed at the first call. Raises OSError if the server does not answer."""
        with self._probing:
            if self._capabilities is None:
                self._capabilities = probe(self._bucket)
            return self._capabilities

    def _sends_sha256(self) -> bool:
        if self._checksums == "auto":
            return self.capabilities().put_checks_sha256
        return self._checksums == "always"

    def _read_sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for piece in self.open_range(key):
            digest.update(piece)
        return digest.hexdigest()

    def _recorded(self, key: str, head: Head) -> str | None:
        try:
            record = json.loads(b"".join(self._bucket.get(f"digests/{key}", 0, None)))
        except (FileNotFoundError, ValueError):
            return None
        return str(record["sha256"]) if record["mark"] == head.mark else None

    def _record(self, key: str, head: Head, sha256: str) -> None:
        self._bucket.put(f"digests/{key}", json.dumps({"mark": head.mark, "sha256": sha256}).encode())


def _object(key: str) -> str:
    return f"objects/{key_check(key)}"


def _object_prefix(prefix: str) -> str:
    return f"objects/{prefix_check(prefix)}"


def probe(bucket: Bucket) -> Capabilities:
    """The actual behaviour of the server, which may differ from what it documents.

    Writes a few objects below `probe/` and removes them. Raises StorageUnavailableError if even a put fails.
    """
    folder = f"probe/{secrets.token_hex(8)}"
    try:
        bucket.put(f"{folder}/plain", PROBE)
        parts = _parts(bucket, f"{folder}/parts")
        return Capabilities(
            if_absent=_if_absent(bucket, f"{folder}/absent"),
            put_checks_sha256=_checks_sha256(bucket, folder),
            min_part_bytes=S3_MIN_PART_BYTES,
            ranges=b"".join(bucket.get(f"{folder}/plain", 1, 2)) == PROBE[1:3],
            parts=parts,
        )
    finally:
        bucket.delete([key for key, _ in bucket.list(f"{folder}/")])


def _if_absent(bucket: Bucket, key: str) -> bool:
    """Servers without If-None-Match overwrite, or respond that it is not implemented."""
    try:
        return bucket.put(key, PROBE, if_absent=True) and not bucket.put(key, b"other", if_absent=True)
    except StorageUnavailableError:
        return False


def _checks_sha256(bucket: Bucket, folder: str) -> bool:
    """Accepts the right content by a signed PUT, reports its SHA-256, and rejects other content."""
    right, wrong = f"{folder}/right", f"{folder}/wrong"
    sha256 = hashlib.sha256(PROBE).hexdigest()
    if _put(bucket, right, PROBE, sha256)[0] != HTTPStatus.OK or bucket.head(right).sha256 != sha256:
        return False
    return _put(bucket, wrong, PROBE[::-1], sha256)[0] >= HTTPStatus.BAD_REQUEST


def _parts(bucket: Bucket, key: str) -> bool:
    """One signed part, joined."""
    try:
        upload_id = bucket.parts_open(key)
        arguments = {"UploadId": upload_id, "PartNumber": 1, "ContentLength": len(PROBE)}
        url = bucket.sign("upload_part", key, arguments=arguments, expires_seconds=PROBE_LINK_SECONDS, internal=True)
        status, etag = _send(url, PROBE, {})
        if status != HTTPStatus.OK or not etag:
            bucket.parts_drop(key, upload_id)
            return False
        bucket.parts_join(key, upload_id, [etag])
    except (StorageUnavailableError, ValueError):
        return False
    return bucket.head(key).size == len(PROBE)


def _put(bucket: Bucket, key: str, data: bytes, sha256: str) -> tuple[int, str]:
    checksum = checksum_header(sha256)
    arguments: dict[str, Any] = {"ContentLength": len(data), "ChecksumSHA256": checksum}
    url = bucket.sign("put_object", key, arguments=arguments, expires_seconds=PROBE_LINK_SECONDS, internal=True)
    return _send(url, data, {"x-amz-checksum-sha256": checksum})


def _send(url: str, data: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """(status, ETag) of a PUT."""
    kind = {"Content-Type": "application/octet-stream"}  # otherwise urllib sends a form
    request = Request(url, data=data, method="PUT", headers={**kind, **headers})
    try:
        with PROBE_OPENER.open(request, timeout=PROBE_HTTP_SECONDS) as response:
            return response.status, response.headers.get("ETag", "")
    except HTTPError as error:
        return error.code, ""
    except OSError as error:
        raise StorageUnavailableError(f"the storage does not answer: {error}") from error
