"""Storage of bytes by key. Knows no jobs and models; only the API opens one."""

from storage.base import (
    Capabilities,
    DigestMismatchError,
    PartLinks,
    SignedRequest,
    Stat,
    Storage,
    StorageUnavailableError,
    TooLargeError,
    WrongSizeError,
    part_sizes,
)
from storage.keys import key_check
from storage.opening import open_storage
from storage.options import S3Options

__all__ = [
    "Capabilities",
    "DigestMismatchError",
    "PartLinks",
    "S3Options",
    "SignedRequest",
    "Stat",
    "Storage",
    "StorageUnavailableError",
    "TooLargeError",
    "WrongSizeError",
    "key_check",
    "open_storage",
    "part_sizes",
]
