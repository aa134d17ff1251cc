"""Probes the actual behaviour of an S3 server, which may differ from what it documents."""

import hashlib
import secrets
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from storage.base import Capabilities, StorageUnavailableError
from storage.s3 import Bucket, checksum_header

DATA = b"probe"
S3_MIN_PART_BYTES = 5 << 20
LINK_SECONDS = 60
HTTP_SECONDS = 30
OPENER = build_opener(ProxyHandler({}))  # the server is ours: use no proxy


def probe(bucket: Bucket) -> Capabilities:
    """Writes a few objects below `probe/` and removes them. Raises StorageUnavailableError if even a put fails."""
    folder = f"probe/{secrets.token_hex(8)}"
    try:
        bucket.put(f"{folder}/plain", DATA)
        parts = _parts(bucket, f"{folder}/parts")
        return Capabilities(
            if_absent=_if_absent(bucket, f"{folder}/absent"),
            put_checks_sha256=_checks_sha256(bucket, folder),
            min_part_bytes=S3_MIN_PART_BYTES,
            ranges=b"".join(bucket.get(f"{folder}/plain", 1, 2)) == DATA[1:3],
            parts=parts,
        )
    finally:
        bucket.delete([key for key, _ in bucket.list(f"{folder}/")])


def _if_absent(bucket: Bucket, key: str) -> bool:
    """Servers without If-None-Match overwrite, or respond that it is not implemented."""
    try:
        return bucket.put(key, DATA, if_absent=True) and not bucket.put(key, b"other", if_absent=True)
    except StorageUnavailableError:
        return False


def _checks_sha256(bucket: Bucket, folder: str) -> bool:
    """Accepts the right content by a signed PUT, reports its SHA-256, and rejects other content."""
    right, wrong = f"{folder}/right", f"{folder}/wrong"
    sha256 = hashlib.sha256(DATA).hexdigest()
    if _put(bucket, right, DATA, sha256)[0] != HTTPStatus.OK or bucket.head(right).sha256 != sha256:
        return False
    return _put(bucket, wrong, DATA[::-1], sha256)[0] >= HTTPStatus.BAD_REQUEST


def _parts(bucket: Bucket, key: str) -> bool:
    """One signed part, joined."""
    try:
        upload_id = bucket.parts_open(key)
        arguments = {"UploadId": upload_id, "PartNumber": 1, "ContentLength": len(DATA)}
        url = bucket.sign("upload_part", key, arguments=arguments, expires_seconds=LINK_SECONDS, internal=True)
        status, etag = _send(url, DATA, {})
        if status != HTTPStatus.OK or not etag:
            bucket.parts_drop(key, upload_id)
            return False
        bucket.parts_join(key, upload_id, [etag])
    except (StorageUnavailableError, ValueError):
        return False
    return bucket.head(key).size == len(DATA)


def _put(bucket: Bucket, key: str, data: bytes, sha256: str) -> tuple[int, str]:
    checksum = checksum_header(sha256)
    arguments: dict[str, Any] = {"ContentLength": len(data), "ChecksumSHA256": checksum}
    url = bucket.sign("put_object", key, arguments=arguments, expires_seconds=LINK_SECONDS, internal=True)
    return _send(url, data, {"x-amz-checksum-sha256": checksum})


def _send(url: str, data: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """(status, ETag) of a PUT."""
    kind = {"Content-Type": "application/octet-stream"}  # otherwise urllib sends a form
    request = Request(url, data=data, method="PUT", headers={**kind, **headers})
    try:
        with OPENER.open(request, timeout=HTTP_SECONDS) as response:
            return response.status, response.headers.get("ETag", "")
    except HTTPError as error:
        return error.code, ""
    except OSError as error:
        raise StorageUnavailableError(f"the storage does not answer: {error}") from error
