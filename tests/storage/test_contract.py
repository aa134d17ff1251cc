"""What every backend must do. Callers rely on nothing else."""

import hashlib
import threading
from pathlib import Path

import pytest

from storage import DigestMismatchError, Storage
from storage.base import PIECE_BYTES
from tests.storage.hostile import HOSTILE_KEYS


def test_a_stored_file_is_returned_with_its_digest(storage: Storage, prefix: str, source: Path) -> None:
    data = source.read_bytes()
    put = storage.put_file(f"{prefix}/a.bin", source)
    assert put == storage.stat(f"{prefix}/a.bin")
    assert (put.size, put.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert b"".join(storage.open_range(f"{prefix}/a.bin")) == data


def test_a_range_is_read_without_the_rest(storage: Storage, prefix: str, source: Path) -> None:
    storage.put_file(f"{prefix}/a.bin", source)
    data = source.read_bytes()
    assert b"".join(storage.open_range(f"{prefix}/a.bin", 10, 20)) == data[10:30]
    assert b"".join(storage.open_range(f"{prefix}/a.bin", len(data) - 3)) == data[-3:]
    assert b"".join(storage.open_range(f"{prefix}/a.bin", len(data) + 5)) == b""


def test_large_files_are_read_in_pieces(storage: Storage, prefix: str, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (2 * PIECE_BYTES + 1))
    storage.put_file(f"{prefix}/large", large)
    sizes = [len(piece) for piece in storage.open_range(f"{prefix}/large")]
    assert sum(sizes) == 2 * PIECE_BYTES + 1
    assert max(sizes) <= PIECE_BYTES


def test_a_file_with_another_digest_than_announced_is_not_stored(storage: Storage, prefix: str, source: Path) -> None:
    with pytest.raises(DigestMismatchError, match="expected SHA-256 0000"):
        storage.put_file(f"{prefix}/a.bin", source, sha256="0" * 64)
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{prefix}/a.bin")


def test_a_second_put_replaces_the_first(storage: Storage, prefix: str, source: Path, tmp_path: Path) -> None:
    storage.put_file(f"{prefix}/a.bin", source)
    other = tmp_path / "other"
    other.write_bytes(b"other")
    storage.put_file(f"{prefix}/a.bin", other)
    assert storage.stat(f"{prefix}/a.bin").sha256 == hashlib.sha256(b"other").hexdigest()
    assert b"".join(storage.open_range(f"{prefix}/a.bin")) == b"other"


def test_a_copy_is_independent_of_its_source(storage: Storage, prefix: str, source: Path) -> None:
    put = storage.put_file(f"{prefix}/from/a.bin", source)
    for _ in range(2):
        created = storage.copy(f"{prefix}/from/a.bin", f"{prefix}/to/b.bin")
        assert (created.key, created.size, created.sha256) == (f"{prefix}/to/b.bin", put.size, put.sha256)
    storage.delete_prefix(f"{prefix}/from/")
    assert b"".join(storage.open_range(f"{prefix}/to/b.bin")) == source.read_bytes()
    assert storage.stat(f"{prefix}/to/b.bin") == created


def test_copy_replaces_an_existing_target(storage: Storage, prefix: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    storage.put_file(f"{prefix}/a.bin", source)
    storage.put_file(f"{prefix}/b.bin", tmp_path / "other")
    storage.copy(f"{prefix}/b.bin", f"{prefix}/a.bin")
    assert b"".join(storage.open_range(f"{prefix}/a.bin")) == b"other"
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        storage.copy(f"{prefix}/nothing-here", f"{prefix}/a.bin")


def test_a_missing_object_raises_file_not_found(storage: Storage, prefix: str) -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        storage.stat(f"{prefix}/nothing-here")
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        b"".join(storage.open_range(f"{prefix}/nothing-here"))
    assert list(storage.list(f"{prefix}/")) == []


def test_put_if_absent_does_not_replace_an_object(storage: Storage, prefix: str) -> None:
    assert storage.put_if_absent(f"{prefix}/manifest.json", b"first")
    assert not storage.put_if_absent(f"{prefix}/manifest.json", b"second")
    assert b"".join(storage.open_range(f"{prefix}/manifest.json")) == b"first"


def test_concurrent_put_if_absent_has_one_winner(storage: Storage, prefix: str) -> None:
    assert storage.capabilities().if_absent
    start, won = threading.Barrier(8), list[int]()

    def race(number: int) -> None:
        start.wait()
        if storage.put_if_absent(f"{prefix}/one", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert b"".join(storage.open_range(f"{prefix}/one")) == str(won[0]).encode()


def test_list_is_sorted_with_sizes_and_respects_folder_borders(storage: Storage, prefix: str) -> None:
    for name in ("b", "a/x", "a/b/c", "ab"):
        storage.put_if_absent(f"{prefix}/{name}", name.encode())
    listed = dict(storage.list(f"{prefix}/"))
    assert list(listed) == [f"{prefix}/{name}" for name in ("a/b/c", "a/x", "ab", "b")]
    assert listed[f"{prefix}/a/b/c"] == 5
    assert [key for key, _ in storage.list(f"{prefix}/a/")] == [f"{prefix}/a/b/c", f"{prefix}/a/x"]


def test_delete_prefix_deletes_only_objects_below_it(storage: Storage, prefix: str) -> None:
    for name in ("a/x", "a/b/c", "ab"):
        storage.put_if_absent(f"{prefix}/{name}", b"data")
    storage.delete_prefix(f"{prefix}/a/")
    storage.delete_prefix(f"{prefix}/a/")
    assert [key for key, _ in storage.list(f"{prefix}/")] == [f"{prefix}/ab"]


def test_delete_removes_one_object_and_ignores_a_missing_one(storage: Storage, prefix: str) -> None:
    for name in ("a", "ab", "a.b/c"):
        storage.put_if_absent(f"{prefix}/{name}", b"data")
    storage.delete(f"{prefix}/a")
    storage.delete(f"{prefix}/a")
    assert [key for key, _ in storage.list(f"{prefix}/")] == [f"{prefix}/a.b/c", f"{prefix}/ab"]
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{prefix}/a")


@pytest.mark.parametrize("prefix", ["", "/", "a", "../", "a/../"])
def test_a_prefix_that_could_take_too_much_is_refused(storage: Storage, prefix: str) -> None:
    with pytest.raises(ValueError, match=r"prefix|path"):
        storage.delete_prefix(prefix)
    with pytest.raises(ValueError, match=r"prefix|path"):
        storage.list(prefix)


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_a_hostile_key_is_refused_by_every_call(storage: Storage, source: Path, key: str) -> None:
    calls = (
        lambda: storage.put_file(key, source),
        lambda: storage.put_if_absent(key, b"data"),
        lambda: list(storage.open_range(key)),
        lambda: storage.stat(key),
        lambda: storage.presign_get(key, expires_seconds=60),
        lambda: storage.presign_put(key, size=1, sha256=None, expires_seconds=60),
        lambda: storage.presign_parts(key, sizes=[1], expires_seconds=60),
    )
    for call in calls:
        with pytest.raises(ValueError, match="path"):
            call()


@pytest.mark.parametrize(
    "name", ["space and ünïcode 日本 🐕.jpg", "a b/c d.txt", "%2e%2e", "?#&=+.png", "~", "-", "x" * 255]
)
def test_unusual_valid_names_are_stored(storage: Storage, prefix: str, name: str) -> None:
    assert storage.put_if_absent(f"{prefix}/{name}", name.encode())
    assert [key for key, _ in storage.list(f"{prefix}/")] == [f"{prefix}/{name}"]
    assert b"".join(storage.open_range(f"{prefix}/{name}")) == name.encode()
