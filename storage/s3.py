"""One bucket of an S3 server; the only module that imports boto3.

All errors are FileNotFoundError, ValueError (an invalid part or range) or StorageUnavailableError.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from storage.base import PART_BYTES, PIECE_BYTES, S3Options, StorageUnavailableError

MISSING = ("404", "NoSuchKey", "NotFound")
BAD_PARTS = ("NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall")
PRESENT = ("PreconditionFailed", "ConditionalRequestConflict")
DELETE_AT_ONCE = 1000
MAX_LINK_SECONDS = 7 * 24 * 3600
"""Maximum of signature version 4."""
TRANSFER = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=2)


@dataclass(frozen=True)
class Head:
    size: int
    etag: str
    changed: datetime
    sha256: str | None
    """Hexadecimal, of the complete object; None if the server does not report it."""

    @property
    def mark(self) -> list[object]:
        """Changes whenever the content does."""
        return [self.size, self.etag, self.changed.isoformat()]


class Bucket:
    """`root` ("" or "prefix/") is prepended to every key."""

    def __init__(self, name: str, root: str, options: S3Options) -> None:
        self.name, self.root, self.options = name, root, options
        self._client = _client(options, options.endpoint)
        self._signer = _client(options, options.public_endpoint or options.endpoint)

    def put(self, key: str, body: bytes | IO[bytes], *, sha256: str | None = None, if_absent: bool = False) -> bool:
        """Returns False if the object exists and `if_absent`."""
        arguments: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            with self._errors(key):
                self._client.put_object(**self._at(key), Body=body, **_checksum(sha256), **arguments)
        except FileExistsError:
            return False
        return True

    def put_large(self, key: str, source: Path, *, checked: bool) -> None:
        """In parts. `checked`: the server verifies the SHA-256 of each."""
        extra = {"ChecksumAlgorithm": "SHA256"} if checked else {}
        at = self._at(key)
        with self._errors(key):
            self._client.upload_file(str(source), at["Bucket"], at["Key"], ExtraArgs=extra, Config=TRANSFER)

    def copy(self, source: str, target: str) -> None:
        """Within the server; large objects in parts."""
        at = self._at(target)
        with self._errors(source):
            self._client.copy(self._at(source), at["Bucket"], at["Key"], Config=TRANSFER)

    def get(self, key: str, start: int, length: int | None) -> Iterator[bytes]:
        """Sends the request at once and reads the bytes lazily. Raises ValueError for a range after the end."""
        arguments = {} if not start and length is None else {"Range": _range(start, length)}
        with self._errors(key):
            body = self._client.get_object(**self._at(key), **arguments)["Body"]
        return self._pieces(key, body)

    def head(self, key: str) -> Head:
        with self._errors(key):
            response = self._client.head_object(**self._at(key), ChecksumMode="ENABLED")
        return Head(response["ContentLength"], response["ETag"], response["LastModified"], _object_sha256(response))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes), page by page in the server's order."""
        with self._errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self.root + prefix
            ):
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self.root), entry["Size"]

    def delete(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), DELETE_AT_ONCE):
            batch = [{"Key": self.root + key} for key in keys[first : first + DELETE_AT_ONCE]]
            with self._errors(keys[first]):
                response = self._client.delete_objects(Bucket=self.name, Delete={"Objects": batch, "Quiet": True})
            if errors := response.get("Errors"):
                raise StorageUnavailableError(f"the storage did not delete {errors[0]['Key']}: {errors[0]['Message']}")

    def sign(
        self,
        operation: str,
        key: str,
        *,
        arguments: Mapping[str, object],
        expires_seconds: int,
        internal: bool = False,
    ) -> str:
        """A signed URL, created without a request. `internal`: for the endpoint of the API itself."""
        client = self._client if internal else self._signer
        seconds = max(1, min(expires_seconds, MAX_LINK_SECONDS))
        url: str = client.generate_presigned_url(operation, Params={**self._at(key), **arguments}, ExpiresIn=seconds)
        return url

    def parts_open(self, key: str) -> str:
        with self._errors(key):
            upload_id: str = self._client.create_multipart_upload(**self._at(key))["UploadId"]
        return upload_id

    def parts_join(self, key: str, upload_id: str, etags: Sequence[str]) -> None:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
        with self._errors(key):
            self._client.complete_multipart_upload(
                **self._at(key), UploadId=upload_id, MultipartUpload={"Parts": parts}
            )

    def parts_drop(self, key: str, upload_id: str) -> None:
        with self._errors(key):
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload_id)

    def parts_list(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        """(key, upload id, start) of open uploads in parts."""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.name, Prefix=self.root + prefix):
                for entry in page.get("Uploads", ()):
                    yield entry["Key"].removeprefix(self.root), entry["UploadId"], entry["Initiated"]

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self.root + key}

    def _pieces(self, key: str, body: Any) -> Iterator[bytes]:
        with self._errors(key), body:
            yield from body.iter_chunks(PIECE_BYTES)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Converts errors of boto3 to those of the module."""
        try:
            yield
        except ClientError as error:
            code, message = str(error.response["Error"]["Code"]), error.response["Error"].get("Message", "")
            if code in MISSING:
                raise FileNotFoundError(f"there is no object {key!r}") from None
            if code in PRESENT:
                raise FileExistsError(f"there is an object {key!r}") from None
            if code in ("InvalidRange", "416"):
                raise ValueError(f"the range starts behind the end of {key!r}") from None
            if code in BAD_PARTS:
                raise ValueError(f"a part of {key!r} is missing or was changed: {message or code}") from None
            raise StorageUnavailableError(f"the storage answered {code} for {key}: {message}") from error
        except (BotoCoreError, boto3.exceptions.Boto3Error, OSError) as error:
            if isinstance(error, FileNotFoundError | FileExistsError):
                raise
            raise StorageUnavailableError(f"the storage does not answer for {key}: {error}") from error


def _client(options: S3Options, endpoint: str) -> Any:
    config = Config(
        signature_version="s3v4",  # the default of boto3 for links is version 2
        s3={"addressing_style": options.addressing},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=32,
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=options.region,
        aws_access_key_id=options.access_key or None,
        aws_secret_access_key=options.secret_key or None,
        config=config,
    )


def checksum_header(sha256: str) -> str:
    """In base64, as S3 expects."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _checksum(sha256: str | None) -> dict[str, str]:
    return {} if sha256 is None else {"ChecksumSHA256": checksum_header(sha256)}


def _object_sha256(response: dict[str, Any]) -> str | None:
    """None for a composite checksum, which is the checksum of the parts' checksums and not of the content."""
    checksum = response.get("ChecksumSHA256")
    if not checksum or "-" in checksum or response.get("ChecksumType") == "COMPOSITE":
        return None
    return base64.b64decode(checksum).hex()


def _range(start: int, length: int | None) -> str:
    return f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
