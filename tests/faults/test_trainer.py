"""Trainers that lie, die or talk too much."""

import shutil
import subprocess

import pytest

from tests.faults.scene import Scene
from tests.faults.stamps import SECRETS

COUNTER = "/sys/fs/cgroup/memory.events"
OWN_COUNTERS = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs tmpfs /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir memory && echo 'oom_kill 0' > memory.events"
    ' && ln -s ../memory.events memory/memory.oom_control && cd / && exec "$@"',
    "sh",
)
"""Runs a command where the kernel's counters of memory kills are a file of ours."""


def test_exit_0_without_a_manifest_is_a_failure(scene: Scene) -> None:
    scene.host()
    job = scene.submit(mode="exit_0")
    record = scene.over(job)
    assert (record["state"], record["reason"]["code"]) == ("failed", "no_manifest")
    assert [attempt["exit_code"] for attempt in record["attempts"]] == [0]
    assert record["adaptor"] is None


def test_a_trainer_that_the_kernel_kills_for_memory_fails_with_that_reason(scene: Scene) -> None:
    if shutil.which("unshare") is None or subprocess.run([*OWN_COUNTERS, "true"], check=False).returncode:
        pytest.skip("needs `unshare --mount`, which only root may do here")
    writes = f"{scene.platform.stub_folder},{COUNTER}"  # what else only the kernel does
    scene.host(launcher=OWN_COUNTERS, ANNEAL_TRAINER_WRITES=writes)
    record = scene.over(scene.submit(mode="oom", counter=COUNTER))
    assert (record["state"], record["reason"]["code"]) == ("failed", "out_of_memory")
    assert "train_batch_size" in record["reason"]["hint"]
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["failed"]


def test_secrets_that_a_trainer_prints_are_masked_and_ours_never_reach_it(scene: Scene) -> None:
    scene.host()
    job = scene.submit(mode="secrets")
    scene.one_result(job, ["succeeded"])
    text = scene.log(job)
    assert "tokens:" in text and "STUB_FOLDER" in text
    assert not [secret for secret in SECRETS if secret in text]
    assert "TOKEN" not in text.partition("STUB_FOLDER")[0].partition("tokens:")[2]


@pytest.mark.slow
def test_a_trainer_that_dies_before_its_first_checkpoint_again_and_again_is_poison(scene: Scene) -> None:
    scene.host()
    job = scene.submit(mode="killed")
    record = scene.over(job)
    assert (record["state"], record["reason"]["code"]) == ("failed", "poison")
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["lost"] * 3
    assert len(scene.never_two(job)) == 3
    scene.plan(job)
    scene.ask(job, "resume")
    scene.one_result(job, ["lost", "lost", "lost", "succeeded"])
