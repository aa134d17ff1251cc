"""A trainer's `out/` is read as hostile: each kind of thing that does not belong there."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.worker.fake_api import FakeApi
from trainers.contract.events import Step, Warning_
from worker.attempt.outcome import MAX_BYTES, Manifest, manifest_read
from worker.attempt.output import LINE_BYTES, PIECE_BYTES, EventTail, Masker
from worker.attempt.publish import Publisher
from worker.client.api import Api
from worker.client.lease import Lease
from worker.transfer.files import remove_tree
from worker.transfer.out_folder import DEPTH, OutBounds, OutFolder, UnsafeFileError, checked_parts

SECRET = b"the worker's token"


@pytest.fixture
def out(tmp_path: Path) -> OutFolder:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "token").write_bytes(SECRET)
    (tmp_path / "out").mkdir()
    return OutFolder(tmp_path / "out")


def link(place: Path, secret: Path) -> None:
    place.symlink_to(secret / "token")


def link_to_folder(place: Path, secret: Path) -> None:
    place.symlink_to(secret)


def fifo(place: Path, secret: Path) -> None:  # noqa: ARG001
    os.mkfifo(place)


def unix_socket(place: Path, secret: Path) -> None:  # noqa: ARG001
    here = Path.cwd()
    os.chdir(place.parent)  # the path of a socket has a short limit
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place.name)
    os.chdir(here)


def device(place: Path, secret: Path) -> None:  # noqa: ARG001
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(place, 0o600 | 0o020000, os.makedev(1, 3))


Make = Callable[[Path, Path], None]
KINDS = [link, link_to_folder, fifo, unix_socket, device]


@pytest.mark.parametrize("make", KINDS)
def test_only_regular_files_are_read_and_nothing_waits(out: OutFolder, tmp_path: Path, make: Make) -> None:
    make(out.root / "x", tmp_path / "secret")
    for read in (lambda: out.read("x", limit=100), lambda: out.size("x")):
        with pytest.raises(UnsafeFileError):
            read()
    for path in ("x", "folder"):
        with pytest.raises(UnsafeFileError, match="x"):
            (out.root / "folder").mkdir(exist_ok=True)
            if path == "folder":
                make(out.root / "folder" / "x", tmp_path / "secret")
            out.stage(path, tmp_path / "staged" / path)
    left = [path for path in (tmp_path / "staged").rglob("*") if not path.is_dir() or path.is_symlink()]
    assert not left, "nothing of it may be uploaded"


@pytest.mark.parametrize("path", ["secret/token", "../secret/token"])
def test_no_link_is_followed_on_the_way(out: OutFolder, tmp_path: Path, path: str) -> None:
    (out.root / "secret").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFileError):
        out.read(path, limit=100)
    with pytest.raises(UnsafeFileError):
        out.stage(path, tmp_path / "staged")


def test_out_itself_as_a_link_is_refused(tmp_path: Path, out: OutFolder) -> None:
    out.root.rmdir()
    out.root.symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFileError):
        out.read("token", limit=100)
    assert not out.has_folder("token")
    remove_tree(out.root)
    assert (tmp_path / "secret" / "token").read_bytes() == SECRET


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "a/../b", "..", ".", "a//b", "a/", "a\nb", "a\x00b", "\x1b]52;", "a\x7f", "n" * 256,
     "a/" * DEPTH + "b", "a" * 200 + ("/" + "a" * 200) * 5, "\udcff", "\ud800"],
)  # fmt: skip
def test_a_path_that_leaves_out_or_suits_no_storage_is_refused(path: str) -> None:
    with pytest.raises(UnsafeFileError):
        checked_parts(path)


def test_a_file_of_another_user_is_refused(out: OutFolder, tmp_path: Path) -> None:
    """As a hard link to a file of the host would be, where the kernel lets a trainer make one."""
    os.link(tmp_path / "secret" / "token", out.root / "weights")
    hostile = OutFolder(out.root, owner=os.geteuid() + 1)
    with pytest.raises(UnsafeFileError, match="expected a file of the trainer's user"):
        hostile.read("weights", limit=100)
    with pytest.raises(UnsafeFileError):
        hostile.stage("weights", tmp_path / "staged")
    assert out.read("weights", limit=100) == SECRET


def test_a_folder_is_staged_whole(out: OutFolder, tmp_path: Path) -> None:
    (out.root / "checkpoints" / "step-1" / "sub").mkdir(parents=True)
    (out.root / "checkpoints" / "step-1" / "sub" / "a").write_bytes(b"a")
    out.stage("checkpoints/step-1", tmp_path / "staged" / "step-1")
    assert (tmp_path / "staged" / "step-1" / "sub" / "a").read_bytes() == b"a"
    assert (tmp_path / "staged" / "step-1" / "sub" / "a").stat().st_nlink == 2


@pytest.mark.parametrize("make", KINDS)
def test_a_manifest_that_is_no_file_is_none(out: OutFolder, tmp_path: Path, make: Make) -> None:
    make(out.root / "manifest.json", tmp_path / "secret")
    assert "manifest.json: expected" in str(manifest_read(out))


def naming(path: str) -> str:
    return json.dumps({"outcome": "succeeded", "files": [{"path": path, "size": 18, "sha256": ""}]})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 200_000, "cannot be read"),
        (b"{" + b" " * MAX_BYTES + b"}", "more than"),
        (naming("../secret/token"), "not inside"),
        (naming("link"), "refused"),
        (naming("/etc/passwd"), "not inside"),
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused_with_a_sentence(
    out: OutFolder, tmp_path: Path, content: bytes | str, sentence: str
) -> None:
    (out.root / "link").symlink_to(tmp_path / "secret" / "token")
    (out.root / "manifest.json").write_bytes(content.encode() if isinstance(content, str) else content)
    assert sentence in str(manifest_read(out))


def test_a_whole_manifest_is_read(out: OutFolder) -> None:
    (out.root / "a").write_bytes(b"a")
    record = {"path": "a", "size": 1, "sha256": "x"}
    (out.root / "manifest.json").write_text(json.dumps({"outcome": "succeeded", "files": [record]}))
    assert isinstance(manifest_read(out), Manifest)


@pytest.mark.parametrize("make", KINDS)
def test_events_that_are_no_file_are_none_and_do_not_wait(out: OutFolder, tmp_path: Path, make: Make) -> None:
    make(out.root / "events.jsonl", tmp_path / "secret")
    tail = EventTail(out, Masker([]))
    assert tail.read() == tail.read() == []


def line(seq: int, size: int = 0) -> bytes:
    data: dict[str, Any] = {"kind": "warning", "message": "x" * size}
    return json.dumps({"seq": seq, "time": 1.0, "data": data}).encode() + b"\n"


def test_events_are_read_in_pieces_and_a_line_too_long_is_set_aside(out: OutFolder) -> None:
    events = out.root / "events.jsonl"
    events.write_bytes(line(1) + line(2, 3 * PIECE_BYTES) + line(3) + line(4, LINE_BYTES) + line(5, LINE_BYTES // 2))
    tail, result = EventTail(out, Masker([])), []
    for _ in range(20):
        result += tail.read()
        assert len(tail._rest) <= LINE_BYTES
        if not tail.behind:
            break
    assert [event.seq for event in result] == [1, 2, 3, 4, 5]
    texts = [event.data.message for event in result if event.data.kind == "warning"]
    assert [text.startswith("An event of") for text in texts] == [False, True, False, True, False]
    assert len(texts[4]) == LINE_BYTES // 2
    with events.open("ab") as file:
        file.write(line(6)[:10])
    assert tail.read() == []
    with events.open("ab") as file:
        file.write(line(6)[10:])
    assert [event.seq for event in tail.read()] == [6]


def test_an_endless_line_takes_no_memory(out: OutFolder) -> None:
    (out.root / "events.jsonl").write_bytes(b"x" * (4 * PIECE_BYTES))
    tail = EventTail(out, Masker([]))
    for _ in range(5):
        assert tail.read() == [] and len(tail._rest) <= LINE_BYTES


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "", "link", "folder"])
def test_what_is_not_safe_is_not_staged_for_upload(out: OutFolder, tmp_path: Path, api: FakeApi, path: str) -> None:
    (out.root / "link").symlink_to(tmp_path / "secret" / "token")
    (out.root / "folder").mkdir()
    (out.root / "folder" / "token").symlink_to(tmp_path / "secret" / "token")
    (out.root / "safe").write_bytes(b"safe")
    speaker = Api(api.url, "anw_x").attempt("a", "ana_x", Lease(0.0, 1e9))
    publisher = Publisher(speaker, httpx.Client(), out, tmp_path / "staging", 0.001)
    assert publisher.stage("sample", 1, path, {}) is None and publisher.problem is None
    assert publisher.stage("checkpoint", 1, path, {}) is None and publisher.problem is not None
    assert not list((tmp_path / "staging").glob("*/*"))
    artifact = publisher.stage("sample", 1, "safe", {})
    assert artifact and artifact.staged.read_bytes() == b"safe"


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "out"
    top.mkdir()
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    (top / "link").symlink_to(tmp_path)
    (top / "deep").chmod(0o500)
    remove_tree(top)
    assert list(tmp_path.iterdir()) == []


def test_steps_count_as_before(out: OutFolder) -> None:
    data = {"kind": "step", "step": 1, "total": 2, "epoch": 0.0, "metrics": {"loss": 1.0}, "per_second": 1.0,
            "unit": "images", "peak_memory_bytes": 1, "eta_seconds": 0.0}  # fmt: skip
    (out.root / "events.jsonl").write_text(json.dumps({"seq": 1, "time": 1.0, "data": data}) + "\n")
    (event,) = EventTail(out, Masker([])).read()
    assert isinstance(event.data, Step)


def test_half_a_character_in_an_event_is_cleaned(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"seq": 1, "time": 1.0, "data": {"kind": "warning", "message": "\\u0000 \\ud800"}}\n'
    )
    (event,) = EventTail(OutFolder(tmp_path), Masker([])).read()
    assert isinstance(event.data, Warning_)


def test_usage_counts_names_and_bytes_and_follows_no_link(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "b" / "file").write_bytes(b"x" * 100)
    (out / "link").symlink_to("/usr")
    usage = OutFolder(out).usage(most_entries=10)
    assert usage.entries == 4 and 100 <= usage.size_bytes < 200
    assert OutFolder(out).usage(most_entries=2).entries == 3, "more than that is not counted"
    assert OutFolder(tmp_path / "none").usage(most_entries=2) == (0, 0)


def test_bounds_name_what_is_exceeded(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "large").write_bytes(b"x" * 101)
    folder = OutFolder(tmp_path / "out")
    assert OutBounds([folder], most_files=1, most_bytes=101).problem() == ""
    assert OutBounds([folder], most_files=1, most_bytes=100).problem() == (
        "Expected at most 100 bytes in out/, found 101."
    )
    assert "at most 1 files" in OutBounds([folder, folder], most_files=1, most_bytes=1000).problem()
    (tmp_path / "out" / "/".join("d" * 40)).mkdir(parents=True)
    assert "expected at most 32 folders" in OutBounds([folder], most_files=100, most_bytes=1000).problem()
