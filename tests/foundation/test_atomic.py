"""Files that are whole or not there."""

import os
import stat
from pathlib import Path

import pytest

from foundation.atomic import bytes_write, text_write


def test_a_reader_of_a_folder_meets_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's outbox reads every *.json of its folder while another thread writes there."""
    received: list[list[str]] = []
    sync = os.fsync

    def synced(descriptor: int) -> None:
        received.append(sorted(path.name for path in tmp_path.glob("*.json")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    bytes_write(tmp_path / "new.json", b"{}")
    assert received == [[], ["new.json"]], "before the rename, and when the folder is synced"
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]


def test_a_failed_write_leaves_the_old_bytes_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_write(tmp_path / "a.json", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        bytes_write(tmp_path / "a.json", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"old")]


def test_a_file_has_the_requested_mode_and_missing_folders_are_created_only_on_request(tmp_path: Path) -> None:
    text_write(tmp_path / "token", "secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    with pytest.raises(FileNotFoundError):
        text_write(tmp_path / "missing" / "token", "secret")
    bytes_write(tmp_path / "made" / "a", b"a")
    assert (tmp_path / "made" / "a").read_bytes() == b"a"
