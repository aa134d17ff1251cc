"""A folder as storage: objects/<key>, digests/<key> (cached SHA-256 of each object), incoming/ (incomplete files)."""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from storage.base import PIECE_BYTES, Capabilities, PartLinks, SignedRequest, Stat, key_check, prefix_check
from storage.incoming import Incoming, Mark, file_mark, folder_sync
from storage.signing import Grant, link_make

STALE_SECONDS = 7 * 24 * 3600
"""Longer than the validity of any link."""
UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


class LocalStorage:
    """See `storage.base.Storage`. Safe for any number of processes on one host.

    `link_base`: URL of `storage.links.link_app`, for instance http://127.0.0.1:8000/storage.
    """

    def __init__(self, root: Path, *, link_base: str, secret: str) -> None:
        if len(secret) < 16:
            raise ValueError("the storage's link secret must have 16 characters or more")
        self.root, self.link_base, self.secret = root.resolve(), link_base, secret
        self._objects, self._digests, self._incoming = (self.root / n for n in ("objects", "digests", "incoming"))
        for folder in (self._objects, self._digests, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)
        self._sweep(STALE_SECONDS)

    def put_file(self, key: str, source: Path, *, sha256: str | None = None) -> Stat:
        with self.incoming(key, sha256=sha256) as incoming, source.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                incoming.write(piece)
            return self.commit(key, incoming)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self.incoming(key) as incoming:
            incoming.write(data)
            return incoming.commit_if_absent()

    def copy(self, source: str, target: str) -> Stat:
        """By a hard link: objects are replaced, never modified."""
        place, temporary = self._below(self._objects, key_check(target)), self._temporary()
        os.link(self._existing(source), temporary)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(place)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise ValueError(f"{target!r} clashes with another object: a file cannot also be a folder") from None
        finally:
            temporary.unlink(missing_ok=True)  # renaming to a link of the same file does nothing
        folder_sync(place.parent)
        self._record(target, file_mark(place.stat()), self.stat(source).sha256)
        return self.stat(target)

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        path = self._existing(key)
        return _pieces(path, start, max(0, path.stat().st_size - start) if length is None else length)

    def stat(self, key: str) -> Stat:
        with self._existing(key).open("rb") as file:
            mark = file_mark(os.fstat(file.fileno()))
            sha256 = self._recorded(key, mark)
            if sha256 is None:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                self._record(key, mark, sha256)
        return Stat(key, mark[0], sha256)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = self._below(self._objects, prefix_check(prefix)[:-1])
        files = sorted((p.relative_to(self._objects).as_posix(), p) for p in folder.rglob("*") if p.is_file())
        return ((key, path.stat().st_size) for key, path in files)

    def delete(self, key: str) -> None:
        for tree in (self._objects, self._digests):
            self._below(tree, key_check(key)).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        for tree in (self._objects, self._digests):
            with suppress(FileNotFoundError):
                shutil.rmtree(self._below(tree, prefix_check(prefix)[:-1]))

    def presign_get(self, key: str, *, expires_seconds: int, filename: str | None = None) -> SignedRequest:
        return self._link(Grant("GET", key_check(key), _from_now(expires_seconds), filename=filename))

    def presign_put(self, key: str, *, size: int, sha256: str | None, expires_seconds: int) -> SignedRequest:
        return self._link(Grant("PUT", key_check(key), _from_now(expires_seconds), size=size, sha256=sha256))

    def presign_parts(
        self, key: str, *, sizes: Sequence[int], expires_seconds: int, upload_id: str | None = None
    ) -> PartLinks:
        key_check(key)
        until = _from_now(expires_seconds)
        if upload_id is None:
            upload_id = secrets.token_hex(16)
            (self._incoming / upload_id).mkdir()
        grants = (Grant("PUT", key_check(key), until, size=s, part=f"{upload_id}/{n}") for n, s in enumerate(sizes))
        return PartLinks(upload_id, tuple(self._link(grant) for grant in grants))

    def complete_parts(self, key: str, upload_id: str, etags: Sequence[str], *, sha256: str | None = None) -> Stat:
        folder = self._parts_folder(upload_id)
        if not folder.is_dir():
            raise ValueError(f"the upload of {key!r} in parts is not open: every part is missing")
        with self.incoming(key, sha256=sha256) as incoming:
            for number, etag in enumerate(etags):
                part = hashlib.sha256()
                for piece in _pieces(self._part(folder / str(number)), 0, 1 << 62):
                    part.update(piece)
                    incoming.write(piece)
                if part.hexdigest() != etag:
                    raise ValueError(f"part {number} of {key!r} has the ETag {part.hexdigest()}, not {etag}")
            stat = self.commit(key, incoming)
        shutil.rmtree(folder)
        return stat

    def abort_parts(self, key: str, upload_id: str) -> None:
        key_check(key)
        with suppress(FileNotFoundError):
            shutil.rmtree(self._parts_folder(upload_id))

    def sweep_parts(self, *, older_than_seconds: float) -> int:
        """Also removes other incomplete files of killed processes."""
        return self._sweep(older_than_seconds)

    def capabilities(self) -> Capabilities:
        return Capabilities(if_absent=True, put_checks_sha256=True, min_part_bytes=1)

    def incoming(self, key: str, *, size: int | None = None, sha256: str | None = None, part: str = "") -> Incoming:
        """A file for the bytes of `key`, or of its part "<upload id>/<number>"; complete it by `commit`."""
        target = self._below(self._objects, key_check(key))
        if part:
            target = self._below(self._incoming, key_check(part))
            if not target.parent.is_dir():
                raise FileNotFoundError(f"the upload of {key!r} in parts is not open")
        return Incoming(self._temporary(), target, label=key, size=size, sha256=sha256)

    def commit(self, key: str, incoming: Incoming) -> Stat:
        """Makes the object visible and records its digest."""
        incoming.commit()
        self._record(key, incoming.mark, incoming.digest)
        return Stat(key, incoming.mark[0], incoming.digest)

    def _sweep(self, older_than_seconds: float) -> int:
        old = [path for path in self._incoming.iterdir() if _age_seconds(path) > older_than_seconds]
        for path in old:
            with suppress(FileNotFoundError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return len(old)

    def _link(self, grant: Grant) -> SignedRequest:
        return SignedRequest(link_make(grant, base=self.link_base, secret=self.secret), grant.method)

    def _existing(self, key: str) -> Path:
        path = self._below(self._objects, key_check(key))
        if not path.is_file():
            raise FileNotFoundError(f"there is no object {key!r}")
        return path

    def _part(self, path: Path) -> Path:
        if not path.is_file():
            raise ValueError(f"part {path.name} was not sent")
        return path

    def _parts_folder(self, upload_id: str) -> Path:
        if not UPLOAD_ID.fullmatch(upload_id):
            raise ValueError(f"expected the id of an upload in parts, got {upload_id!r:.100}")
        return self._incoming / upload_id

    def _below(self, tree: Path, key: str) -> Path:
        """The path of `key` below `tree`. Raises ValueError if a symbolic link leads elsewhere."""
        path = tree / key
        if not path.resolve().is_relative_to(tree):
            raise ValueError(f"path {key!r} leaves the storage folder")
        return path

    def _temporary(self) -> Path:
        return self._incoming / f"{secrets.token_hex(16)}.tmp"

    def _recorded(self, key: str, mark: Mark) -> str | None:
        try:
            record = json.loads(self._below(self._digests, key).read_bytes())
        except (OSError, ValueError):
            return None
        return str(record["sha256"]) if record["mark"] == mark else None

    def _record(self, key: str, mark: Mark, sha256: str) -> None:
        path = self._below(self._digests, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary()
        temporary.write_text(json.dumps({"mark": mark, "sha256": sha256}))
        temporary.replace(path)


def _pieces(path: Path, start: int, remaining: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while remaining > 0 and (piece := file.read(min(PIECE_BYTES, remaining))):
            remaining -= len(piece)
            yield piece


def _age_seconds(path: Path) -> float:
    """Since the last modification, which for a folder is its last part; 0 if deleted meanwhile."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0


def _from_now(seconds: int) -> int:
    return int(time.time()) + seconds
