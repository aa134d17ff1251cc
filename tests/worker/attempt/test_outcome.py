"""The table of ends: why we stopped, what was left, and only then the exit status."""

from pathlib import Path

import pytest

from trainers.contract.errors import ReasonCode, reason
from worker.attempt.outcome import Ending, Manifest, oom_kills, verdict_of
from worker.process.supervise import Exit

WHOLE = Manifest({}, "succeeded", ())
PARTIAL = Manifest({}, "stopped", ())
NONE = "there is no manifest.json"
MESSAGES = reason(ReasonCode.BAD_DATASET, "row 3")
TORCHRUN = "root cause\n  exitcode  : -9 (pid: 12)\n"

TABLE = [
    ("whole manifest", Ending(Exit(0), WHOLE), "succeeded", None),
    ("whole manifest, then a crash at interpreter exit", Ending(Exit(-11), WHOLE), "succeeded", None),
    ("finished before it heard of the stop", Ending(Exit(0), WHOLE, stop="cancel"), "succeeded", None),
    ("cancel", Ending(Exit(0), PARTIAL, stop="cancel"), "stopped", "cancelled"),
    ("cancel, torchrun answers SIGTERM with 1", Ending(Exit(1), PARTIAL, stop="cancel"), "stopped", "cancelled"),
    ("pause", Ending(Exit(0), PARTIAL, stop="pause"), "stopped", "paused"),
    ("drain", Ending(Exit(0), PARTIAL, stop="drain"), "drained", "drained"),
    ("cancel, killed after the grace", Ending(Exit(-9), NONE, stop="cancel", forced=True), "stopped", "cancelled"),
    ("what a forced trainer says", Ending(Exit(1), NONE, MESSAGES, stop="cancel", forced=True), "stopped", "cancelled"),
    ("failed while it stopped by itself", Ending(Exit(1), NONE, MESSAGES, stop="pause"), "failed", "bad_dataset"),
    ("told to stop from outside", Ending(Exit(0), PARTIAL), "drained", "preempted"),
    ("said why", Ending(Exit(1), NONE, MESSAGES), "failed", "bad_dataset"),
    ("exit 0, no manifest", Ending(Exit(0), NONE), "failed", "no_manifest"),
    ("killed from outside", Ending(Exit(-9), NONE), "lost", "worker_lost"),
    ("no room to say why", Ending(Exit(1), NONE, disk_full=True), "failed", "disk_full"),
    ("killed from outside on a full disk", Ending(Exit(-9), NONE, disk_full=True), "lost", "worker_lost"),
    ("one rank killed from outside", Ending(Exit(1), NONE, tail=TORCHRUN), "lost", "worker_lost"),
    ("killed for memory", Ending(Exit(-9), NONE, out_of_memory=True), "failed", "out_of_memory"),
    ("one rank killed for memory", Ending(Exit(1), NONE, out_of_memory=True, tail=TORCHRUN), "failed", "out_of_memory"),
    ("the shim was killed", Ending(Exit(None, shim_died=True), NONE), "lost", "worker_lost"),
    ("segmentation fault", Ending(Exit(-11), NONE), "failed", "internal"),
    ("crash", Ending(Exit(1), NONE), "failed", "internal"),
    ("wrote too much", Ending(Exit(-9), WHOLE, oversize="Expected less."), "failed", "output_too_large"),
    ("silent", Ending(Exit(-9), NONE, no_progress_seconds=60.0), "failed", "no_progress"),
]


@pytest.mark.parametrize(("ending", "outcome", "code"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_an_end_means(ending: Ending, outcome: str, code: str | None) -> None:
    verdict = verdict_of(ending)
    assert (verdict.outcome, verdict.reason and verdict.reason.code.value) == (outcome, code)


def test_the_reason_names_the_signal() -> None:
    result = verdict_of(Ending(Exit(-11), NONE)).reason
    assert result and "SIGSEGV" in result.message


def test_version_2_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "0::/jobs/a\n")
    (tmp_path / "sys/jobs/a").mkdir(parents=True)
    (tmp_path / "sys/jobs/a/memory.events").write_text("low 0\noom 2\noom_kill 3\n")
    assert oom_kills() == 3


def test_version_1_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "4:memory:/x\n1:cpu:/\n")
    (tmp_path / "sys/memory/x").mkdir(parents=True)
    (tmp_path / "sys/memory/x/memory.oom_control").write_text("oom_kill_disable 0\noom_kill 1\n")
    assert oom_kills() == 1


def test_the_machines_counter_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "")
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    assert oom_kills() == 7


def test_no_kill_is_reported_where_the_kernel_counts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _places(monkeypatch, tmp_path, "")
    assert oom_kills() is None


def _places(monkeypatch: pytest.MonkeyPatch, folder: Path, cgroup: str) -> None:
    (folder / "cgroup").write_text(cgroup)
    monkeypatch.setattr("worker.attempt.outcome.CGROUP", folder / "cgroup")
    monkeypatch.setattr("worker.attempt.outcome.ROOT", folder / "sys")
    monkeypatch.setattr("worker.attempt.outcome.VMSTAT", folder / "vmstat")
