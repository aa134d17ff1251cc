"""One check: the files as they came, and what it makes of them."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from api.catalog.checking.archive import archive_unpack
from api.catalog.checking.report import Notices, Preview, Refused
from foundation.digests import sha256_of

MIN_DECODED_BYTES = 256 << 20
"""What any upload may decode to, however small it is: seconds of work."""
MAX_RATIO = 500
"""Decoded bytes for each byte of the file above that. Repeated values compress well: a system prompt of 10 KB in each
of 100,000 rows beside an answer of 100 bytes is about 1 GB out of 4 MB, 250 for 1. A bomb reaches 200,000,000 for 1."""
MAX_DECODED_BYTES = 64 << 30
"""In all; a file that itself is larger than a quarter of this may decode to four times its size."""
MIN_IMAGE_BYTES = 64 << 30
"""Pixels of all images of an upload, however small its files are: minutes of work."""
IMAGE_RATIO = 100
"""Bytes of pixels for each byte of the files above that. JPEG of low quality has 50 for 1, a plain PNG 1,000."""
PIXEL_BYTES = 4


class DecodedBudget:
    """What may still be decoded of `source`, which is a path or the whole upload."""

    def __init__(self, source: str, limit_bytes: int, hint: str) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        self._hint = hint
        self._decoded_bytes = 0

    def add(self, size_bytes: int, where: str) -> None:
        """Raises Refused once more than the limit was decoded."""
        self._decoded_bytes += size_bytes
        if self._decoded_bytes > self._limit_bytes:
            expected = f"expected at most {self._limit_bytes} bytes once decoded"
            raise Refused(f"{self._source}: {expected}, got more within {where}", code="check_limit", hint=self._hint)


def rows_budget(source: str, file_bytes: int) -> DecodedBudget:
    """Of one Parquet file, or of all that an upload holds."""
    hint = "Store repeated text once, as a parameter, or split the file; then upload again."
    return DecodedBudget(source, decoded_limit(file_bytes), hint)


def images_budget(file_bytes: int) -> DecodedBudget:
    limit = max(MIN_IMAGE_BYTES, IMAGE_RATIO * file_bytes)
    return DecodedBudget("the upload", limit, "Make the images smaller, or upload them as several datasets.")


def decoded_limit(file_bytes: int) -> int:
    """Bytes that Parquet files of this size may decode to."""
    by_ratio = max(MIN_DECODED_BYTES, MAX_RATIO * file_bytes)
    return min(by_ratio, max(MAX_DECODED_BYTES, 4 * file_bytes))


File = dict[str, Any]


class Work:
    """`files`: [{path, size, sha256}] of `folder`, which is the source or, where files are `replaced`, OUT/files."""

    def __init__(self, source: Path, target: Path, files: list[File]) -> None:
        self.folder = source
        self.target = target
        self.files = files
        self.replaced: list[File] | None = None
        """What the version holds instead of the files as sent; None = the files as sent."""
        self.notices = Notices()
        self.preview = Preview(target / "preview")
        self.decoded = rows_budget("the upload", sum(int(file["size"]) for file in files))
        """What all Parquet files together may still decode to."""
        self.strip_metadata = False
        """Whether images lose their GPS positions, camera data and comments."""
        self.reading = ""
        """The file that is looked at, for whoever finds us dead."""

    @property
    def paths(self) -> list[str]:
        return [str(file["path"]) for file in self.files]

    def open(self, path: str) -> Path:
        """Where `path` lies; says on standard output that it is being read."""
        self.reading = path
        print(path.encode(errors="replace").decode("ascii", "backslashreplace"), flush=True)
        return self.folder / path

    def unpack(self) -> None:
        """The content of the one zip takes its place."""
        name = self.paths[0]
        folder = self.target / "files"
        archive_unpack(self.open(name), name, folder, self.notices)
        self.replace_with(folder)

    def rewrite_all(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Other contents for several paths; the files that stay are linked beside them."""
        folder, written = self.target / "stripped", set[str]()
        for path, content in contents:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            written.add(path)
        for path in self.paths:
            if path not in written:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.folder / path, folder / path)
        if (self.target / "files").exists():
            shutil.rmtree(self.target / "files")
        folder.rename(self.target / "files")
        self.replace_with(self.target / "files")

    def rewrite(self, path: str, pieces: Iterable[bytes]) -> None:
        """Other content for `path`; the files that stay are linked beside it."""
        folder = self.target / "files"
        temporary = self.target / "rewritten.tmp"
        with temporary.open("wb") as file:
            file.writelines(pieces)
        if self.folder != folder:
            for other in self.paths:
                (folder / other).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.folder / other, folder / other)
        temporary.replace(folder / path)
        self.replace_with(folder)

    def replace_with(self, folder: Path) -> None:
        """The files of `folder` are the version's from now on."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = self.replaced = [_entry(folder, path) for path in paths]
        self.folder = folder


def ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _entry(folder: Path, path: Path) -> File:
    return {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
