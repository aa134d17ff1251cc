"""One check: the files as they came, and what it makes of them."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from api.catalog.checking.archive import archive_unpack
from api.catalog.checking.decoded import rows_budget
from api.catalog.checking.preview import Preview
from api.catalog.checking.report import Notices
from foundation.digests import sha256_of

File = dict[str, Any]


class Work:
    """`files`: [{path, size, sha256}] of `folder`, which is the source or, where files are `made`, OUT/files."""

    def __init__(self, source: Path, target: Path, files: list[File]) -> None:
        self.folder = source
        self.target = target
        self.files = files
        self.made: list[File] | None = None
        """What the version holds instead of what was sent; None = what was sent."""
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
        made = self.target / "files"
        archive_unpack(self.open(name), name, made, self.notices)
        self.replace_with(made)

    def rewrite_all(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Other contents for several paths; the files that stay are linked beside them."""
        made, written = self.target / "stripped", set[str]()
        for path, content in contents:
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes(content)
            written.add(path)
        for path in self.paths:
            if path not in written:
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.folder / path, made / path)
        if (self.target / "files").exists():
            shutil.rmtree(self.target / "files")
        made.rename(self.target / "files")
        self.replace_with(self.target / "files")

    def rewrite(self, path: str, pieces: Iterable[bytes]) -> None:
        """Other content for `path`; the files that stay are linked beside it."""
        made = self.target / "files"
        temporary = self.target / "rewritten.tmp"
        with temporary.open("wb") as file:
            file.writelines(pieces)
        if self.folder != made:
            for other in self.paths:
                (made / other).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.folder / other, made / other)
        temporary.replace(made / path)
        self.replace_with(made)

    def replace_with(self, folder: Path) -> None:
        """The files of `folder` are the version's from now on."""
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = self.made = [_entry(folder, path) for path in found]
        self.folder = folder


def ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _entry(folder: Path, path: Path) -> File:
    return {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
