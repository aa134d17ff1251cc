"""Two ranks under torchrun: each has a session of its own, and still nothing outlives the shim."""

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundation.boottime import boottime
from tests.worker.conftest import eventually
from tests.worker.process.test_supervise import end_of
from worker.process.supervise import Spawner, Supervisor, sweep
from worker.process.tree import ATTEMPT_MARK, marked

pytestmark = pytest.mark.slow
RANK = """
import os, sys, time
from foundation.lifeline import tie_to_parent
tie_to_parent()
print(f"rank {os.environ['RANK']} pid={os.getpid()} parent={os.getppid()}.", flush=True)
time.sleep(1000)
"""


TwoRanks = tuple[str, Supervisor, int, list[int]]
"""Attempt, supervisor, torchrun's pid, and those of its ranks."""


@pytest.fixture
def two_ranks(tmp_path: Path) -> Iterator[TwoRanks]:
    attempt, spawner = str(uuid.uuid4()), Spawner()
    (tmp_path / "rank.py").write_text(RANK)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    supervisor = Supervisor(
        spawner,
        attempt=attempt,
        command=[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "rank.py"],
        folder=tmp_path,
        env={"PATH": os.environ["PATH"], ATTEMPT_MARK: attempt, "OMP_NUM_THREADS": "1"},
        log=log,
        kill_seconds=1,
        deadline=boottime() + 300,
    )
    os.close(log)
    eventually(lambda: (tmp_path / "log").read_text().count("rank ") == 2)
    words = (tmp_path / "log").read_text().replace(".", " ").split()
    ranks = [int(word.removeprefix("pid=")) for word in words if word.startswith("pid=")]
    launcher = next(int(word.removeprefix("parent=")) for word in words if word.startswith("parent="))
    yield attempt, supervisor, launcher, ranks
    sweep(ATTEMPT_MARK, attempt)
    spawner.close()


def test_kill_9_of_the_shim_ends_both_ranks(two_ranks: TwoRanks) -> None:
    attempt, supervisor, _, _ = two_ranks
    os.kill(supervisor.shim_pid, signal.SIGKILL)
    assert end_of(supervisor).shim_died and not marked(ATTEMPT_MARK, attempt)


def test_kill_9_of_torchrun_ends_both_ranks(two_ranks: TwoRanks) -> None:
    attempt, supervisor, launcher, _ = two_ranks
    os.kill(launcher, signal.SIGKILL)
    assert end_of(supervisor).code == -9 and not marked(ATTEMPT_MARK, attempt)


def test_kill_9_of_one_rank_ends_the_other_and_is_told_from_a_crash(two_ranks: TwoRanks, tmp_path: Path) -> None:
    attempt, supervisor, _, ranks = two_ranks
    os.kill(ranks[0], signal.SIGKILL)
    assert end_of(supervisor).code == 1 and not marked(ATTEMPT_MARK, attempt)
    assert "exitcode  : -9" in (tmp_path / "log").read_text()


def test_both_ranks_hear_the_deadman_by_themselves(two_ranks: TwoRanks) -> None:
    """Without any sweep of the host: the pipe on standard input goes through torchrun."""
    attempt, supervisor, launcher, ranks = two_ranks
    os.kill(launcher, signal.SIGSTOP)  # it cannot pass anything on
    os.kill(supervisor.shim_pid, signal.SIGSTOP)
    assert len({Path(f"/proc/{pid}/fd/0").readlink() for pid in (*ranks, launcher)}) == 1
    os.kill(supervisor.shim_pid, signal.SIGKILL)
    assert end_of(supervisor).shim_died and not marked(ATTEMPT_MARK, attempt)
