"""The interface of storage backends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

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
    """Keys follow `storage.keys`; a bad key raises ValueError, a missing one FileNotFoundError.

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
