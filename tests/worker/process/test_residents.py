"""Trainers that stay between jobs: the same promises as for any other, with real processes."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.conftest import HostProcess, StartHost, eventually
from tests.worker.fake_api import Attempt, FakeApi
from worker.process.tree import RESIDENT_MARK, mark_values

SERVING = Path(__file__).resolve().parents[1] / "stub_resident.py"
FIRST, SECOND, THIRD = "ab" * 32, "cd" * 32, "ef" * 32


def add(api: FakeApi, name: str, prompt: str = "ok", *, model: str = FIRST, **more: Any) -> None:
    job = {"id": f"job-{name}", "name": name, "project": "p", "method": "sample_image"}
    inputs = {"model": {"name": "base@1", "key": "models/1", "sha256": model}}
    spec = {"name": name, "method": "sample_image", "params": {"prompt": prompt}, "inputs": inputs, "resources": {}}
    with api.lock:
        api.queue.append({"job": job, "spec": spec, "inputs": {}, **more})


def ended(api: FakeApi, name: str) -> Attempt:
    def found() -> Attempt | None:
        return next((one for one in api.attempts.values() if one.claim["job"]["name"] == name and one.finish), None)

    attempt: Attempt = eventually(found, what=f"the end of {name}")
    return attempt


def begun(host: HostProcess, name: str) -> int:
    """Id of the process that works on `name`."""
    return int(eventually(lambda: pids(host, name), what=f"the start of {name}")[0])


def pids(host: HostProcess, name: str) -> list[int]:
    return [stamp["pid"] for stamp in host.stamped("start") if stamp["job"] == name]


@pytest.fixture
def host(start_host: StartHost) -> HostProcess:
    return start_host(ANNEAL_TRAINER_COMMAND=f"{sys.executable} {SERVING}")


def residents(host: HostProcess) -> set[str]:
    return mark_values(RESIDENT_MARK, host.tree())


def test_the_second_job_of_a_base_model_finds_the_process_of_the_first(api: FakeApi, host: HostProcess) -> None:
    for name in ("one", "two"):
        add(api, name)
        attempt = ended(api, name)
        assert (attempt.finish["outcome"], attempt.finish["exit_code"]) == ("succeeded", 0)
        assert attempt.kinds() == ["started", "finished"]
    assert pids(host, "one") == pids(host, "two") and len(residents(host)) == 1


@pytest.mark.usefixtures("host")
def test_each_job_has_its_own_log(api: FakeApi) -> None:
    for name in ("one", "two"):
        add(api, name)
        assert ended(api, name).log.decode() == f"drawing {name} ok\n"


def test_another_base_model_ends_the_resident_of_the_first(api: FakeApi, host: HostProcess) -> None:
    add(api, "one")
    ended(api, "one")
    (before,) = residents(host)
    add(api, "two", model=SECOND)
    ended(api, "two")
    assert residents(host) and before not in residents(host)


@pytest.mark.slow
def test_two_base_models_stay_where_the_setting_says_so(api: FakeApi, start_host: StartHost) -> None:
    host = start_host(ANNEAL_TRAINER_COMMAND=f"{sys.executable} {SERVING}", ANNEAL_RESIDENT_MODELS="2")
    for name, model in (("one", FIRST), ("two", SECOND), ("three", FIRST), ("four", THIRD), ("five", FIRST)):
        add(api, name, model=model)
        ended(api, name)
    assert pids(host, "one") == pids(host, "three") == pids(host, "five"), "the least recently used one went"
    assert len(residents(host)) == 2


@pytest.mark.slow
def test_a_job_that_fails_leaves_the_resident_to_the_next(api: FakeApi, host: HostProcess) -> None:
    add(api, "bad", "fail")
    assert ended(api, "bad").finish["reason"]["code"] == "bad_adaptor"
    add(api, "good")
    assert ended(api, "good").finish["outcome"] == "succeeded"
    assert pids(host, "bad") == pids(host, "good")


@pytest.mark.slow
def test_a_resident_that_dies_fails_only_its_job(api: FakeApi, host: HostProcess) -> None:
    add(api, "one")
    ended(api, "one")
    add(api, "bad", "crash")
    bad = ended(api, "bad")
    assert bad.finish["outcome"] == "failed" and bad.finish["exit_code"] == 3
    assert "ended with status 3" in bad.finish["reason"]["message"]
    add(api, "two")
    assert ended(api, "two").finish["outcome"] == "succeeded"
    assert pids(host, "one") == pids(host, "bad") != pids(host, "two")


def test_a_resident_that_is_killed_makes_its_job_lost(api: FakeApi, host: HostProcess) -> None:
    add(api, "one", "wait")
    os.kill(begun(host, "one"), signal.SIGKILL)
    finish = ended(api, "one").finish
    assert (finish["outcome"], finish["reason"]["code"]) == ("lost", "worker_lost")
    assert not residents(host)


@pytest.mark.slow
def test_a_stop_is_obeyed_and_the_resident_stays(api: FakeApi, host: HostProcess) -> None:
    add(api, "one", "wait")
    begun(host, "one")
    api.only().stop = "cancel"
    assert ended(api, "one").finish["outcome"] == "stopped"
    add(api, "two")
    ended(api, "two")
    assert pids(host, "one") == pids(host, "two")


def test_what_a_job_left_running_is_gone_before_its_end_is_told(api: FakeApi, host: HostProcess) -> None:
    add(api, "one", "children")
    ended(api, "one")
    (resident,) = set(pids(host, "one"))
    assert len(host.tree() - {resident}) == 1, "the shim alone is left beside it"


@pytest.mark.slow
def test_a_lease_that_runs_out_ends_the_resident(api: FakeApi, host: HostProcess) -> None:
    api.times["self_fence_seconds"] = 3.0
    add(api, "one", "wait")
    begun(host, "one")
    api.down = True
    eventually(lambda: not host.tree())
    api.down = False


@pytest.mark.slow
def test_the_death_of_the_host_ends_its_residents(api: FakeApi, host: HostProcess) -> None:
    add(api, "one")
    ended(api, "one")
    assert host.tree()
    host.kill()
    eventually(lambda: not host.tree())
    host.start()
    eventually(lambda: len(api.hellos) == 2)
    assert all(len(gone) == 36 for gone in api.hellos[1].get("gone", [])), "only attempts are told, never residents"


@pytest.mark.slow
def test_a_drained_host_leaves_no_resident(api: FakeApi, host: HostProcess) -> None:
    add(api, "one")
    ended(api, "one")
    host.signal(signal.SIGTERM)
    assert host.wait() == 0 and not host.tree()


@pytest.mark.slow
def test_a_resident_that_nobody_wants_ends(api: FakeApi, start_host: StartHost) -> None:
    host = start_host(ANNEAL_TRAINER_COMMAND=f"{sys.executable} {SERVING}", ANNEAL_RESIDENT_SECONDS="0.3")
    add(api, "one")
    ended(api, "one")
    eventually(lambda: not residents(host))
    add(api, "two")
    assert ended(api, "two").finish["outcome"] == "succeeded"


@pytest.mark.usefixtures("host")
def test_a_job_with_secrets_never_shares_a_process(api: FakeApi) -> None:
    add(api, "one")
    ended(api, "one")
    add(api, "two", secrets={"HF_TOKEN": "hf_" + "x" * 20})
    assert "expected --serve" in ended(api, "two").log.decode(), "the stub can only serve, so it was started alone"


def test_no_resident_where_the_setting_says_none(api: FakeApi, start_host: StartHost) -> None:
    start_host(ANNEAL_TRAINER_COMMAND=f"{sys.executable} {SERVING}", ANNEAL_RESIDENT_MODELS="0")
    add(api, "one")
    assert "expected --serve" in ended(api, "one").log.decode()


def test_a_resident_ends_for_a_job_that_needs_its_accelerators(api: FakeApi, host: HostProcess) -> None:
    """Without accelerators all jobs share the CPU's memory."""
    add(api, "one")
    ended(api, "one")
    api.add_job("training")
    eventually(lambda: len([a for a in api.attempts.values() if a.finish]) == 2)
    assert not residents(host)
