"""What a zip may hold. Every archive is made by hand."""

import stat
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from api.catalog.checking import archive
from api.catalog.checking.archive import archive_unpack
from api.catalog.checking.report import Notices, Refused
from tests.api.archives import zipped, zipped_in_order
from tests.storage.hostile import HOSTILE_KEYS

IMAGE = {"a.png": b"a"}


def unpacked(tmp_path: Path, data: bytes) -> tuple[dict[str, bytes], Notices]:
    (tmp_path / "x.zip").write_bytes(data)
    notices = Notices()
    archive_unpack(tmp_path / "x.zip", "x.zip", tmp_path / "files", notices)
    result = (path for path in sorted((tmp_path / "files").rglob("*")) if path.is_file())
    return {path.relative_to(tmp_path / "files").as_posix(): path.read_bytes() for path in result}, notices


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(Refused) as caught:
        unpacked(tmp_path, data)
    assert caught.value.code == "bad_archive"
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside <= {"x.zip", "files"}, "nothing lies outside the folder"
    return str(caught.value)


def test_files_come_out_without_their_common_folder(tmp_path: Path) -> None:
    files = {"cats/a.png": b"a", "cats/sub/b.png": b"b"}
    assert unpacked(tmp_path, zipped(files))[0] == {"a.png": b"a", "sub/b.png": b"b"}


def test_a_lone_file_keeps_its_name(tmp_path: Path) -> None:
    assert unpacked(tmp_path, zipped(IMAGE))[0] == IMAGE


@pytest.mark.parametrize("name", [key for key in HOSTILE_KEYS if key and "\0" not in key and key != "\ud800"])
def test_a_hostile_name_is_refused(tmp_path: Path, name: str) -> None:
    if not name.endswith("/"):
        assert "x.zip" in refusal(tmp_path, zipped_in_order([(name, b"x"), ("b.png", b"b")]))


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, mode: int) -> None:
    data = zipped({**IMAGE, "link.png": b"/etc/passwd"}, {"link.png": mode | 0o777})
    assert "link.png" in refusal(tmp_path, data)


def test_encrypted_is_refused_and_named(tmp_path: Path) -> None:
    data = bytearray(zipped(IMAGE))
    directory = data.index(b"PK\1\2")
    struct.pack_into("<H", data, directory + 8, 1)
    assert "'a.png' is encrypted" in refusal(tmp_path, bytes(data))


def test_another_way_of_packing_is_refused(tmp_path: Path) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as opened:
        opened.writestr("a.png", b"a")
    assert "packed by method 14" in refusal(tmp_path, buffer.getvalue())


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_a_zip_that_was_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    assert "not a complete zip" in refusal(tmp_path, zipped(IMAGE)[:-cut])


def test_a_size_that_is_a_lie_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"liar.png": bytes(5000)}))
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 100)
    assert "liar.png" in refusal(tmp_path, bytes(data))
    assert (tmp_path / "files" / "liar.png").stat().st_size <= 100


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = zipped({f"{n}.png": bytes(4 << 20) for n in range(8)})
    assert "at most 100 times its size" in refusal(tmp_path, bomb)
    assert not list((tmp_path / "files").iterdir())


def test_too_many_entries_too_deep_and_too_long_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    assert "got 4" in refusal(tmp_path, zipped({f"{n}.png": b"" for n in range(4)}))
    for number, name in enumerate(("a/" * 20 + "b.png", "/".join(["x" * 200] * 5))):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert "at most 800 bytes and 16 folders" in refusal(folder, zipped({name: b""}))


def test_junk_is_ignored_and_of_equal_names_the_first_wins(tmp_path: Path) -> None:
    entries = [("a.png", b"first"), ("a.png", b"second"), ("A.PNG", b"third")]
    junk = [("__MACOSX/._a.png", b""), (".DS_Store", b""), ("sub/Thumbs.db", b"")]
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped_in_order([*entries, *junk])
    files, notices = unpacked(tmp_path, data)
    assert files == {"a.png": b"first"}
    assert [notice["file"] for notice in notices.listed] == ["a.png", "A.PNG"]


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    data = zipped_in_order([("a", b"x"), ("a/b.png", b"x")])
    assert "is a file and the folder of" in refusal(tmp_path, data)


def test_an_archive_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "got 0" in refusal(tmp_path, zipped({".DS_Store": b""}))
