"""Inputs by digest: fetched once, kept while used, bounded, never trusted blindly."""

import fcntl
import hashlib
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS
from tests.worker.conftest import eventually
from trainers.contract.spec import folder_digest
from worker.client.payloads import FilePart, InputPart
from worker.errors import AttemptError
from worker.transfer.cache import InputCache
from worker.transfer.transfer import RemoteFile


def part(files: dict[str, bytes]) -> InputPart:
    result = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "url": "x"}
        for path, data in files.items()
    ]
    return InputPart(sha256=folder_digest(result), files=tuple(FilePart(**file) for file in result))


class Source:
    """Writes the wanted bytes and counts."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.fetched: list[str] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, file: RemoteFile, target: Path) -> None:
        self.fetched.append(file.path)
        assert self.may_go.wait(PATIENCE_SECONDS)
        target.write_bytes(self.files[file.path])


def no_wait(_: float) -> None:
    return


def slice_wait(_: float) -> None:
    threading.Event().wait(0.01)


def test_hits_and_fetches_are_counted(tmp_path: Path) -> None:
    cache, source = InputCache(tmp_path, 1000), Source({"a": b"1"})
    for _ in range(3):
        with cache.held(part(source.files), source, no_wait):
            pass
    assert (cache.fetched, cache.hits, cache.size_bytes()) == (1, 2, 1)


def test_an_input_is_fetched_once_and_read_only(tmp_path: Path) -> None:
    cache, source = InputCache(tmp_path, 1000), Source({"a": b"1", "deep/b": b"22"})
    for _ in range(2):
        with cache.held(part(source.files), source, no_wait) as folder:
            assert (folder / "deep" / "b").read_bytes() == b"22"
            assert (folder / "a").stat().st_mode & 0o222 == 0 and folder.stat().st_mode & 0o222 == 0
    assert source.fetched == ["a", "deep/b"] and cache.size_bytes() == 3


def test_two_who_want_the_same_input_fetch_it_once_and_use_it_together(tmp_path: Path) -> None:
    cache, source = InputCache(tmp_path, 1000), Source({"a": b"1"})
    source.may_go.clear()
    together = threading.Barrier(3, timeout=PATIENCE_SECONDS)

    def use() -> None:
        with cache.held(part(source.files), source, slice_wait) as folder:
            assert (folder / "a").read_bytes() == b"1"
            together.wait()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: source.fetched)
    source.may_go.set()
    together.wait()  # both hold it at once
    for thread in threads:
        thread.join()
    assert source.fetched == ["a"]


def test_who_finds_another_at_an_input_waits_without_a_lock(tmp_path: Path) -> None:
    """Two that came at once and both kept the shared lock would wait for each other for ever."""
    cache, source = InputCache(tmp_path, 1000), Source({"a": b"1"})
    expected = part(source.files)
    with (tmp_path / "locks" / expected.sha256).open("a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as the other has it before it asks for the exclusive one

        def other_goes_on(_: float) -> None:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_UN)

        with cache.held(expected, source, other_goes_on) as folder:
            assert (folder / "a").read_bytes() == b"1"


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = InputCache(tmp_path, 25)
    inputs = {name: {name: name.encode() * 10} for name in "abc"}

    def use(name: str, stack: ExitStack) -> None:
        stack.enter_context(cache.held(part(inputs[name]), Source(inputs[name]), no_wait))

    with ExitStack() as held:
        use("a", held)
        with ExitStack() as short:
            use("b", short)
        os.utime(tmp_path / "locks" / part(inputs["a"]).sha256, (1, 1))  # the oldest, but in use
        with ExitStack() as short:
            use("c", short)
    stored = {entry.name for entry in (tmp_path / "entries").iterdir()}
    assert stored == {part(inputs[name]).sha256 for name in "ac"}


def test_an_input_larger_than_the_whole_cache_is_refused_with_both_sizes(tmp_path: Path) -> None:
    files = {"a": b"x" * 11}
    with pytest.raises(AttemptError, match="11 bytes is larger than the worker's whole cache of 10") as result:  # noqa: SIM117
        with InputCache(tmp_path, 10).held(part(files), Source(files), no_wait):
            pass
    assert result.value.reason.code == "disk_full"


def test_an_entry_that_was_changed_is_fetched_again(tmp_path: Path) -> None:
    cache, source = InputCache(tmp_path, 1000), Source({"a": b"1"})
    with cache.held(part(source.files), source, no_wait) as folder:
        pass
    (folder / "a").chmod(0o644)
    (folder / "a").write_bytes(b"2")
    with cache.held(part(source.files), source, no_wait) as folder:
        assert (folder / "a").read_bytes() == b"1"
    assert source.fetched == ["a", "a"]


def test_what_was_fetched_before_a_fault_is_not_fetched_again(tmp_path: Path) -> None:
    cache, source = InputCache(tmp_path, 1000), Source({"a": b"1", "b": b"2"})
    expected, stored = part(source.files), source.files.pop("b")
    with pytest.raises(KeyError), cache.held(expected, source, no_wait):
        pass
    source.files["b"] = stored
    with cache.held(expected, source, no_wait) as folder:
        assert (folder / "b").read_bytes() == b"2"
    assert source.fetched == ["a", "b", "b"]


def test_a_listing_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    expected = part({"a": b"1"}).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(AttemptError, match="digest"), InputCache(tmp_path, 10).held(expected, Source({}), no_wait):
        pass


@pytest.mark.parametrize("path", ["../a", "/etc/a", "b/../../a"])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    with (
        pytest.raises(AttemptError, match="inside"),
        InputCache(tmp_path, 10).held(part({path: b"1"}), Source({}), no_wait),
    ):
        pass
