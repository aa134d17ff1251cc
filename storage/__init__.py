"""Storage of bytes by key. Knows no jobs and models; only the API opens one."""

from importlib import import_module
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from storage.base import (
    Capabilities,
    DigestMismatchError,
    PartLinks,
    S3Options,
    SignedRequest,
    Stat,
    Storage,
    StorageUnavailableError,
    TooLargeError,
    WrongSizeError,
    key_check,
    part_sizes,
)
from storage.local import LocalStorage

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

EXPECTED = "expected a storage URL like file:///absolute/folder or s3://bucket/prefix"


def open_storage(url: str, *, link_base: str, secret: str, s3: S3Options | None = None) -> Storage:
    """Opens a folder, whose signed links are made with `link_base` and `secret`, or a bucket, reached by `s3`."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _s3(parts, url, s3 or S3Options())
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc or not path.startswith("/") or path == "/":
        raise ValueError(f"{EXPECTED}, got {url!r}")
    return LocalStorage(Path(path), link_base=link_base, secret=secret)


def _s3(parts: SplitResult, url: str, options: S3Options) -> Storage:
    if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{EXPECTED}, got {url!r}")
    prefix = unquote(parts.path).strip("/")
    if prefix:
        key_check(prefix)
    try:
        backend = import_module("storage.s3_storage")
    except ModuleNotFoundError as error:
        if error.name not in ("boto3", "botocore"):
            raise
        raise ValueError(f"{url} needs boto3, which is not installed; install anneal[s3]") from error
    storage: Storage = backend.S3Storage(parts.netloc, prefix, options)
    return storage
