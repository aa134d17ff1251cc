"""SHA-256 of files."""

import hashlib
from pathlib import Path
from typing import Any


def sha256_of(path: Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_list(folder: Path) -> list[dict[str, Any]]:
    """`path` (relative, with /), `size` in bytes and `sha256` of every file below `folder`, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files
    ]
