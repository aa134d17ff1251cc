"""What a storage backend does. Callers know nothing else of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

PIECE_BYTES = 1 << 20
"""Bytes are moved in pieces of this size; memory use does not grow with a file."""
PART_BYTES = 64 << 20
"""Files of this size and more are sent in parts of it."""
MAX_PARTS = 1_000
"""Of one file: each is a signed link in one answer. S3 servers take up to 10,000."""


class DigestMismatchError(ValueError):
    """The bytes that came have another SHA-256 than the one that was promised; nothing was stored."""


class WrongSizeError(ValueError):
    """Fewer bytes came than were promised; nothing was stored."""


class TooLargeError(ValueError):
    """More bytes came than were promised; nothing was stored."""


class StorageUnavailableError(OSError):
    """The backend does not answer, or fails; trying again may help."""


@dataclass(frozen=True)
class Stat:
    key: str
    size: int
    """Bytes."""
    sha256: str
    """Of the content as it lies there, hexadecimal."""


@dataclass(frozen=True)
class SignedRequest:
    """A request that anyone who has it may send until it expires, without a token."""

    url: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PartLinks:
    upload_id: str
    parts: tuple[SignedRequest, ...]
    """One PUT each, in order; each answer's ETag goes into `complete_parts`."""


@dataclass(frozen=True)
class Capabilities:
    if_absent: bool
    """put_if_absent has exactly one winner among concurrent callers."""
    put_checks_sha256: bool
    """A signed PUT with another content than promised is refused by the backend itself."""
    min_part_bytes: int
    """Smallest part of an upload in parts, but for the last one."""
    ranges: bool = True
    """A part of an object can be read without the rest."""
    parts: bool = True
    """Large files can be sent in signed parts."""


class Storage(Protocol):
    """Keys follow `storage.keys`; a bad key raises ValueError, a missing one FileNotFoundError.

    A reader sees a whole object or none: bytes become visible under their key at once, after they were made durable.
    """

    def put_file(self, key: str, source: Path, *, sha256: str | None = None) -> Stat:
        """Stores a copy of `source`, in place of what lies there. Raises DigestMismatchError."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Stores `data` unless the key exists. Of concurrent callers exactly one gets True."""
        ...

    def copy(self, source: str, target: str) -> Stat:
        """Makes `target` the same object as `source`, in place of what lies there, without sending its bytes here."""
        ...

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, `length` of them or all that follow, in pieces of at most PIECE_BYTES."""
        ...

    def stat(self, key: str) -> Stat: ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of everything below `prefix` (which ends with "/"), sorted by key."""
        ...

    def delete(self, key: str) -> None:
        """Deletes one object; none there is fine."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Deletes everything below `prefix`; none there is fine."""
        ...

    def presign_get(self, key: str, *, expires_seconds: int, filename: str | None = None) -> SignedRequest:
        """A GET with Range support. `filename`: what a browser saves it as."""
        ...

    def presign_put(self, key: str, *, size: int, sha256: str | None, expires_seconds: int) -> SignedRequest:
        """A PUT of exactly `size` bytes, with that digest where given. The headers must be sent as they are."""
        ...

    def presign_parts(
        self, key: str, *, sizes: Sequence[int], expires_seconds: int, upload_id: str | None = None
    ) -> PartLinks:
        """Opens an upload in parts of these sizes; with `upload_id`: fresh links for one that is open."""
        ...

    def complete_parts(self, key: str, upload_id: str, etags: Sequence[str], *, sha256: str | None = None) -> Stat:
        """Joins the parts. Raises ValueError for a missing or changed part, DigestMismatchError for another content."""
        ...

    def abort_parts(self, key: str, upload_id: str) -> None:
        """Throws away what was sent of an upload in parts; none open is fine."""
        ...

    def sweep_parts(self, *, older_than_seconds: float) -> int:
        """Aborts uploads in parts that were begun longer ago than that; how many."""
        ...

    def capabilities(self) -> Capabilities: ...


def part_sizes(size: int, part_bytes: int = PART_BYTES) -> list[int]:
    """How a file of `size` bytes is cut: equal parts and a rest, larger ones where there would be too many."""
    part_bytes = max(part_bytes, -(-size // MAX_PARTS))
    whole, rest = divmod(size, part_bytes)
    return [part_bytes] * whole + ([rest] if rest else [])
