"""kill -9 of host process, shim, torchrun, or one of two ranks: nothing of the tree is left, the job resumes."""

import os
import signal

import pytest

from tests.faults.host import TWO_RANKS, Host
from tests.faults.platform import eventually
from tests.faults.scene import HELD, Scene

SHIM, LAUNCHER = "worker.process.shim", "torch.distributed.run"


def kill(scene: Scene, host: Host, job: str, victim: str) -> None:
    """SIGKILL to one process of the tree, or to the host itself; what is left of the tree goes by itself."""
    if victim == "host":
        host.kill()
    else:
        os.kill(pid_of(scene, host, job, victim), signal.SIGKILL)


def pid_of(scene: Scene, host: Host, job: str, victim: str) -> int:
    (shim,) = host.pids(SHIM)
    if victim == "shim":
        return shim
    if victim == "torchrun":
        (launcher,) = set(host.pids(LAUNCHER)) - {shim}
        return launcher
    ranks = {stamp.rank: stamp.pid for stamp in scene.stamps(job)}
    return ranks[max(ranks)]


def survive(scene: Scene, host: Host, victim: str) -> str:
    job = scene.submit(hold_at=HELD)
    scene.held(job)
    before = host.tree()
    if os.environ.get("ANNEAL_TEST_PREFORK") == "1":
        assert all(host.is_forked(shim) for shim in host.pids(SHIM))
    kill(scene, host, job, victim)
    eventually(lambda: not before & host.tree(), what=f"the tree is gone after kill -9 of the {victim}")
    scene.release(job)
    if victim == "host":
        host.start()
    lives = scene.one_result(job, ["lost", "succeeded"])
    assert [life.first_step for life in lives] == [0, HELD]
    reason = scene.show(job)["attempts"][0]["reason"]
    assert (reason["code"], reason["retry_helps"]) == ("worker_lost", True)
    return job


@pytest.mark.parametrize("prefork", ["0", "1"])
@pytest.mark.parametrize("victim", ["host", "shim", "trainer"])
def test_kill_9_leaves_nothing_and_the_job_resumes(
    scene: Scene, victim: str, prefork: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both ways of starting: as a new program, and forked from a prepared process."""
    monkeypatch.setenv("ANNEAL_TEST_PREFORK", prefork)
    survive(scene, scene.host(), victim)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["host", "shim", "torchrun", "rank"])
def test_kill_9_with_two_ranks_leaves_nothing_and_the_job_resumes(scene: Scene, victim: str) -> None:
    host = scene.host(ANNEAL_TRAINER_COMMAND=" ".join(TWO_RANKS))
    job = survive(scene, host, victim)
    assert {stamp.rank for stamp in scene.stamps(job)} == {0, 1}
