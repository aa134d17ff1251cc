"""Media types of stored files. Browsers show images only; other files are saved."""

from pathlib import PurePosixPath
from urllib.parse import quote

SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
TEXT_ENDINGS = (".txt", ".json", ".jsonl", ".log", ".md", ".yaml", ".yml", ".csv")
IMAGE_ENDINGS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
INLINE = ("image/png", "image/jpeg", "image/gif", "image/webp")


def media_type(name: str, start: bytes) -> str:
    """By content for images, since names can lie, by name for text, else bytes. Never a type with scripts."""
    for signature, kind in SIGNATURES:
        if start.startswith(signature):
            return kind
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return "text/plain; charset=utf-8" if name.lower().endswith(TEXT_ENDINGS) else "application/octet-stream"


def named_type(name: str) -> str:
    """By name only, if the content is not available. Browsers never execute these types."""
    ending = PurePosixPath(name.lower()).suffix
    return IMAGE_ENDINGS.get(ending) or media_type(name, b"")


def disposition(kind: str, filename: str) -> str:
    """The Content-Disposition header (RFC 6266), with the name in UTF-8."""
    return f"{'inline' if kind in INLINE else 'attachment'}; filename*=UTF-8''{quote(filename, safe='')}"
