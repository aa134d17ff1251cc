"""The kernel's own counters of processes that it killed for memory."""

from pathlib import Path

import pytest

from worker.process import oom


def test_version_2_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "0::/jobs/a\n")
    (tmp_path / "sys/jobs/a").mkdir(parents=True)
    (tmp_path / "sys/jobs/a/memory.events").write_text("low 0\noom 2\noom_kill 3\n")
    assert oom.oom_kills() == 3


def test_version_1_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "4:memory:/x\n1:cpu:/\n")
    (tmp_path / "sys/memory/x").mkdir(parents=True)
    (tmp_path / "sys/memory/x/memory.oom_control").write_text("oom_kill_disable 0\noom_kill 1\n")
    assert oom.oom_kills() == 1


def test_the_machines_counter_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "")
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    assert oom.oom_kills() == 7


def test_no_kill_is_reported_where_the_kernel_counts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "")
    assert oom.oom_kills() is None


def _places(monkeypatch: pytest.MonkeyPatch, folder: Path, cgroup: str) -> None:
    (folder / "cgroup").write_text(cgroup)
    monkeypatch.setattr(oom, "CGROUP", folder / "cgroup")
    monkeypatch.setattr(oom, "ROOT", folder / "sys")
    monkeypatch.setattr(oom, "VMSTAT", folder / "vmstat")
