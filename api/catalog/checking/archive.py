"""Unpacks a zip without trusting a word of its directory."""

import errno
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from api.catalog.checking.report import Notices, Refused
from foundation.plain_text import line_check
from storage.base import key_check

MAX_ENTRIES = 50_000
MAX_TOTAL_BYTES = 64 << 30
MAX_RATIO = 100
"""Unpacked bytes for each packed one; asked only of what is larger than RATIO_FREE_BYTES when unpacked."""
RATIO_FREE_BYTES = 16 << 20
MAX_DEPTH = 16
MAX_NAME_BYTES = 800
PIECE_BYTES = 1 << 20
ENCRYPTED = 0x1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others may want gigabytes of memory before the first byte comes."""
KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
JUNK = (".ds_store", "thumbs.db", "desktop.ini")
HINT = "Pack plain files into a plain zip, then upload again."
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, RuntimeError)


def archive_unpack(archive: Path, name: str, target: Path, notices: Notices) -> None:
    """Writes the files of the zip below `target`. Raises Refused that names the entry at fault."""
    target.mkdir(parents=True)
    try:
        opened = zipfile.ZipFile(archive)
    except BROKEN:
        raise _refused(f"{name} is not a complete zip") from None
    with opened:
        entries = [entry for entry in opened.infolist() if not entry.is_dir() and not _is_junk(entry)]
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise _refused(f"{name}: expected 1 to {MAX_ENTRIES} files, got {len(entries)}")
        for entry in entries:
            _entry_check(name, entry)
        _total_check(name, archive.stat().st_size, entries)
        for path, entry in _paths(name, entries, notices).items():
            _write(opened, name, entry, target / path)


def _entry_check(name: str, entry: zipfile.ZipInfo) -> None:
    path = entry.orig_filename
    where = f"{name}: {path[:200]!r}"
    if entry.flag_bits & ENCRYPTED:
        raise _refused(f"{where} is encrypted; password-protected archives are not supported")
    if entry.compress_type not in METHODS:
        raise _refused(f"{where} is packed by method {entry.compress_type}; expected deflate or stored")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _refused(f"{where} is {KINDS.get(kind, 'no plain file')}; expected plain files only")
    if len(path.encode(errors="replace")) > MAX_NAME_BYTES or path.count("/") >= MAX_DEPTH:
        raise _refused(f"{where}: expected at most {MAX_NAME_BYTES} bytes and {MAX_DEPTH} folders in a name")
    try:
        key_check(path)
    except ValueError as error:
        raise _refused(f"{name}: {error}") from None
    try:
        line_check(path)
    except ValueError as error:
        raise _refused(f"{where} {error}") from None


def _total_check(name: str, size: int, entries: Sequence[zipfile.ZipInfo]) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > MAX_TOTAL_BYTES:
        raise _refused(f"{name} unpacks to {total} bytes; at most {MAX_TOTAL_BYTES} are accepted")
    if total > max(RATIO_FREE_BYTES, size * MAX_RATIO):
        raise _refused(f"{name} of {size} bytes unpacks to {total}; at most {MAX_RATIO} times its size is accepted")


def _paths(name: str, entries: Sequence[zipfile.ZipInfo], notices: Notices) -> dict[str, zipfile.ZipInfo]:
    """Entries by path. Of equal names, also those that differ in case only, the first wins and the others are named."""
    top = _common_top(entries)
    by_path: dict[str, zipfile.ZipInfo] = {}
    first_paths: dict[str, str] = {}
    for entry in entries:
        path = entry.filename.removeprefix(top)
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in first_paths:
            message = f"{name} has {path!r} after {first_paths[folded]!r}; the first of them is kept"
            notices.add("twice in the archive", message, file=path)
            continue
        first_paths[folded] = path
        by_path[path] = entry
    _folder_check(name, first_paths)
    return by_path


def _folder_check(name: str, first_paths: dict[str, str]) -> None:
    for folded, path in first_paths.items():
        for at, letter in enumerate(folded):
            if letter == "/" and folded[:at] in first_paths:
                raise _refused(f"{name}: {first_paths[folded[:at]]!r} is a file and the folder of {path!r}")


def _common_top(entries: Sequence[zipfile.ZipInfo]) -> str:
    """The one folder that everything lies in, or "": people pack a folder, and mean its files."""
    tops = {entry.filename.partition("/")[0] + "/" for entry in entries}
    top = tops.pop()
    return "" if tops or any(not entry.filename.startswith(top) for entry in entries) else top


def _write(opened: zipfile.ZipFile, name: str, entry: zipfile.ZipInfo, target: Path) -> None:
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as packed, target.open("xb") as file:
            while piece := packed.read(PIECE_BYTES):
                count += len(piece)
                if count > entry.file_size:
                    break
                file.write(piece)
    except BROKEN as error:
        if getattr(error, "errno", None) in NO_SPACE:
            raise
        count = -1
    if count != entry.file_size:
        message = f"its content is not the {entry.file_size} bytes that the zip's directory promises"
        raise _refused(f"{name}: {entry.filename[:200]!r} is broken: {message}")


def _is_junk(entry: zipfile.ZipInfo) -> bool:
    parts = entry.filename.split("/")
    return parts[0] == "__MACOSX" or parts[-1].lower() in JUNK or parts[-1].startswith("._")


def _refused(message: str) -> Refused:
    return Refused(message, code="bad_archive", hint=HINT)
