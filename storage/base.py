"""The interface of storage backends, and what all of them share: keys, errors, sizes of parts."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

PIECE_BYTES = 1 << 20
"""Size of the pieces in which bytes are moved, so that memory use does not depend on the file."""
PART_BYTES = 64 << 20
"""Files of at least this size are uploaded in parts of it."""
MAX_PARTS = 1_000
"""Of one file: one response has a signed link for each. S3 servers accept up to 10,000."""


class DigestMismatchError(ValueError):
    """The received bytes do not have the announced SHA-256; nothing was stored."""


class WrongSizeError(ValueError):
    """Fewer bytes than announced were received; nothing was stored."""


class TooLargeError(ValueError):
    """More bytes than announced were received; nothing was stored."""


class StorageUnavailableError(OSError):
    """The backend does not answer, or fails; a retry may help."""


@dataclass(frozen=True)
class Stat:
    key: str
    size: int
    """Bytes."""
    sha256: str
    """Of the stored content, hexadecimal."""


@dataclass(frozen=True)
class SignedRequest:
    """A request that anybody may send without a token until it expires."""

    url: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PartLinks:
    upload_id: str
    parts: tuple[SignedRequest, ...]
    """One PUT each, in order; `complete_parts` needs the ETags of the responses."""


@dataclass(frozen=True)
class Capabilities:
    if_absent: bool
    """put_if_absent returns True to exactly one of several concurrent callers."""
    put_checks_sha256: bool
    """The backend rejects a signed PUT whose content differs from the announced one."""
    min_part_bytes: int
    """Minimum size of the parts of an upload, except the last one."""
    ranges: bool = True
    """Ranges of an object can be read."""
    parts: bool = True
    """Large files can be uploaded in signed parts."""


class Storage(Protocol):
    """Keys follow `key_check`; a bad key raises ValueError, a missing one FileNotFoundError.

    Writes are atomic: an object becomes visible as a whole, once its bytes are durable.
    """

    def put_file(self, key: str, source: Path, *, sha256: str | None = None) -> Stat:
        """Stores a copy of `source`, replacing an existing object. Raises DigestMismatchError."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Stores `data` unless the key exists. Returns True to exactly one of several concurrent callers."""
        ...

    def copy(self, source: str, target: str) -> Stat:
        """Copies `source` to `target` within the backend, replacing an existing object."""
        ...

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """`length` bytes from `start`, or all that follow, in pieces of at most PIECE_BYTES."""
        ...

    def stat(self, key: str) -> Stat: ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of all objects below `prefix` (which ends with "/"), sorted by key."""
        ...

    def delete(self, key: str) -> None:
        """Deletes one object, if it exists."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Deletes all objects below `prefix`."""
        ...

    def presign_get(self, key: str, *, expires_seconds: int, filename: str | None = None) -> SignedRequest:
        """A GET that supports Range. `filename`: under which a browser saves it."""
        ...

    def presign_put(self, key: str, *, size: int, sha256: str | None, expires_seconds: int) -> SignedRequest:
        """A PUT of exactly `size` bytes, with that digest if it is not None. The headers must be sent unchanged."""
        ...

    def presign_parts(
        self, key: str, *, sizes: Sequence[int], expires_seconds: int, upload_id: str | None = None
    ) -> PartLinks:
        """Opens an upload in parts of these sizes; with `upload_id`: new links for an open one."""
        ...

    def complete_parts(self, key: str, upload_id: str, etags: Sequence[str], *, sha256: str | None = None) -> Stat:
        """Joins the parts. Raises ValueError for a missing or changed part, or DigestMismatchError."""
        ...

    def abort_parts(self, key: str, upload_id: str) -> None:
        """Discards an upload in parts, if it is open."""
        ...

    def sweep_parts(self, *, older_than_seconds: float) -> int:
        """Aborts uploads in parts that are older; returns their number."""
        ...

    def capabilities(self) -> Capabilities: ...


def part_sizes(size: int, part_bytes: int = PART_BYTES) -> list[int]:
    """Sizes of the parts of a file: equal ones and a remainder, larger than `part_bytes` to stay below MAX_PARTS."""
    part_bytes = max(part_bytes, -(-size // MAX_PARTS))
    count, rest = divmod(size, part_bytes)
    return [part_bytes] * count + ([rest] if rest else [])


Checksums = Literal["auto", "always", "never"]
Addressing = Literal["path", "virtual"]


@dataclass(frozen=True)
class S3Options:
    """How to reach an S3 server, in addition to `s3://bucket/prefix`."""

    endpoint: str = ""
    """URL by which the API reaches the server; empty: Amazon's."""
    public_endpoint: str = ""
    """URL by which users and workers reach it, used in signed links; empty: `endpoint`."""
    region: str = "us-east-1"
    access_key: str = ""
    """Empty: boto3's default, such as the host's role."""
    secret_key: str = ""
    addressing: Addressing = "path"
    """path: host/bucket/key; virtual: bucket.host/key."""
    checksums: Checksums = "auto"
    """Whether signed PUTs have a SHA-256 for the server to verify; auto: if a probe shows that it does."""


MAX_KEY_BYTES = 1024
MAX_PART_BYTES = 255


def key_check(key: str) -> str:
    """Returns `key`. Raises ValueError unless it is a relative path of valid parts joined by "/".

    One rule for all backends, so that a key works in all or none.
    """
    if not key:
        raise ValueError("expected a path, got an empty one")
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError(f"path {key!a} is not valid Unicode") from None
    if size_bytes > MAX_KEY_BYTES:
        raise ValueError(f"path of {size_bytes} bytes is longer than {MAX_KEY_BYTES}: {key[:80]!r}...")
    if key.startswith("/"):
        raise ValueError(f"path {key!r} is absolute; expected a relative one")
    for part in key.split("/"):
        _part_check(part, key)
    return key


def prefix_check(prefix: str) -> str:
    """Returns `prefix`, which is a key with "/" at its end. Raises ValueError otherwise."""
    if not prefix.endswith("/"):
        raise ValueError(f"expected a prefix that ends with '/', got {prefix!r}")
    key_check(prefix[:-1])
    return prefix


def _part_check(part: str, key: str) -> None:
    if part in ("", ".", ".."):
        raise ValueError(f"path {key!r} has the part {part!r}, which is not allowed")
    if len(part.encode()) > MAX_PART_BYTES:
        raise ValueError(f"path {key[:80]!r}... has a part longer than {MAX_PART_BYTES} bytes")
    if "\\" in part or any(unicodedata.category(c) in ("Cc", "Cs") for c in part):
        raise ValueError(f"path {key!a} has a backslash or a control character")
    if part != part.strip():
        raise ValueError(f"path {key!r} has a part that starts or ends with a space")
