"""Opens a backend by URL. A new backend is one file and one line here."""

from importlib import import_module
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from storage.base import Storage
from storage.keys import key_check
from storage.local import LocalStorage
from storage.options import S3Options

EXPECTED = "expected a storage URL like file:///absolute/folder or s3://bucket/prefix"


def open_storage(url: str, *, link_base: str, secret: str, s3: S3Options | None = None) -> Storage:
    """A folder, whose signed links are made with `link_base` and `secret`, or a bucket, reached by `s3`."""
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
