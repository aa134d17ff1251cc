"""Room on the worker's disk: what a job may take, what is deleted first, and the reserve for the end of an attempt."""

import errno
import os
from pathlib import Path

import pytest

from trainers.contract.errors import ReasonCode
from worker.client.payloads import FilePart, InputPart
from worker.errors import AttemptError
from worker.host.slots import Accelerator, self_check
from worker.transfer.cache import InputCache
from worker.transfer.room import RESERVE_BYTES, Reserve, Room
from worker.transfer.transfer import RemoteFile

FREE = 1 << 30


class Disk(Room):
    """With a disk of FREE bytes of which the caches take what their files hold."""

    def free_bytes(self) -> int:
        return FREE - self.trainer_cache_bytes() - self._cache.size_bytes()


def room_make(tmp_path: Path, *, limit: int = 1 << 20, min_free: int = 0) -> Disk:
    folder = tmp_path / "trainer-cache"
    folder.mkdir()
    return Disk(tmp_path, InputCache(tmp_path / "cache", FREE), folder, limit, min_free)


def cached(tmp_path: Path, name: str, used_at: float, size: int = 8192) -> Path:
    path = tmp_path / "trainer-cache" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (used_at, used_at))
    return path


def test_the_trainers_cache_loses_what_was_used_longest_ago_over_all_projects(tmp_path: Path) -> None:
    room = room_make(tmp_path, limit=2 * 8192)
    old, middle, new = (cached(tmp_path, f"{name}/latents/a", at) for name, at in (("p", 1), ("q", 2), ("p/more", 3)))
    assert room.trim_trainer_cache(unused_since=100) == 8192
    assert [path.exists() for path in (old, middle, new)] == [False, True, True]
    assert room.trainer_cache_bytes() == 2 * 8192


def test_what_a_live_attempt_has_used_stays(tmp_path: Path) -> None:
    room = room_make(tmp_path, limit=0)
    old, used = cached(tmp_path, "a", 1), cached(tmp_path, "b", 50)
    assert room.trim_trainer_cache(unused_since=50) == 8192
    assert not old.exists() and used.exists()


def test_a_folder_that_a_trainer_replaces_by_a_link_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = room_make(tmp_path, limit=0)
    old = cached(tmp_path, "p/folder/token", 1)
    outside = tmp_path / "secret" / "token"
    outside.parent.mkdir()
    outside.write_bytes(b"the worker's")
    listed = room._trainer_files()
    old.unlink()
    old.parent.rmdir()
    old.parent.symlink_to(outside.parent)
    monkeypatch.setattr(room, "_trainer_files", lambda: listed)
    assert room.trim_trainer_cache(unused_since=100) == 0
    assert outside.exists()


def input_part(files: dict[str, int], sha256: str) -> InputPart:
    return InputPart(
        sha256=sha256, files=tuple(FilePart(path=p, size=s, sha256="0" * 64, url="") for p, s in files.items())
    )


def test_a_download_that_fills_the_disk_gives_its_bytes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.transfer.cache.check_listing", lambda _: None)
    cache = InputCache(tmp_path / "cache", FREE)

    def fetch(file: RemoteFile, target: Path) -> None:
        target.with_suffix(".part").write_bytes(b"x" * 1000)
        if file.path == "b":
            raise AttemptError(ReasonCode.DISK_FULL, "no room")
        target.with_suffix(".part").rename(target)

    with pytest.raises(AttemptError), cache.held(input_part({"a": 1000, "b": 9}, "1" * 64), fetch, lambda _: None):
        pass
    assert cache.size_bytes() == 0 and not list((tmp_path / "cache" / "fetching").iterdir())


def test_partial_downloads_count_and_go_where_room_is_needed(tmp_path: Path) -> None:
    room = room_make(tmp_path, min_free=FREE - 500)
    part = tmp_path / "cache" / "fetching" / ("2" * 64) / "files" / "a.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    (tmp_path / "cache" / "locks" / ("2" * 64)).touch()
    assert room.free_bytes() == FREE - 1000
    assert room.make(unused_since=0)
    assert not part.exists()


def test_a_disk_that_cannot_be_made_free_enough_takes_nothing(tmp_path: Path) -> None:
    room = room_make(tmp_path, min_free=FREE + 1)
    old = cached(tmp_path, "a", 1)
    assert not room.make(unused_since=100)
    assert not old.exists() and room.for_inputs() == 0


def test_inputs_may_take_what_is_free_or_cached_but_never_the_reserve(tmp_path: Path) -> None:
    room = room_make(tmp_path, min_free=1000)
    part = tmp_path / "cache" / "fetching" / "x"
    part.write_bytes(b"x" * 5000)
    assert room.for_inputs() == FREE - 1000


def test_on_a_full_disk_the_end_is_written_into_the_room_of_the_reserve(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.fill()
    assert (tmp_path / "reserve").stat().st_size == RESERVE_BYTES
    written = []

    def write() -> None:
        if (tmp_path / "reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(True)

    reserve.lend(write)
    assert written == [True]
    reserve.fill()
    assert (tmp_path / "reserve").exists()


def test_another_fault_than_a_full_disk_keeps_the_reserve(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.fill()

    def write() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        reserve.lend(write)
    assert (tmp_path / "reserve").exists()


def test_the_self_check_judges_what_it_can() -> None:
    def check(code: str, *, room: bool = True, cards: tuple[Accelerator, ...] = ()) -> str | None:
        return self_check(code, setting="none", accelerators=cards, has_room=lambda: room)

    card = Accelerator(index=0, name="card", memory_bytes=1)
    assert (check("disk_full"), check("disk_full", room=False)) == ("passed", "failed")
    assert (check("no_accelerator"), check("no_accelerator", cards=(card,))) == ("passed", "failed")
    assert check("missing_library") is None
