"""From a URL to a backend. A new backend is one file and one line here."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.base import Storage
from storage.local import LocalStorage


def open_storage(url: str, *, link_base: str, secret: str) -> Storage:
    """The backend of `file:///absolute/folder`; `link_base` and `secret` make its signed links."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc or not path.startswith("/") or path == "/":
        raise ValueError(f"expected a storage URL like file:///absolute/folder, got {url!r}")
    return LocalStorage(Path(path), link_base=link_base, secret=secret)
