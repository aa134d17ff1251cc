"""Bytes by key. Knows no job and no model; the API alone holds one."""

from storage.base import (
    Capabilities,
    DigestMismatchError,
    PartLinks,
    SignedRequest,
    Stat,
    Storage,
    TooLargeError,
    WrongSizeError,
)
from storage.keys import key_check
from storage.opening import open_storage

__all__ = [
    "Capabilities",
    "DigestMismatchError",
    "PartLinks",
    "SignedRequest",
    "Stat",
    "Storage",
    "TooLargeError",
    "WrongSizeError",
    "key_check",
    "open_storage",
]
