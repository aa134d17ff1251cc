"""Which keys are allowed: one rule for all backends, so that a key works in all or none."""

import unicodedata

MAX_KEY_BYTES = 1024
MAX_PART_BYTES = 255


def key_check(key: str) -> str:
    """Returns `key`. Raises ValueError unless it is a relative path of valid parts joined by "/"."""
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
