"""Exact resume: stop or kill -9 at any step, go on, and nothing differs from the job that was never interrupted."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.job import Job, job_make
from trainers.atomic import file_list
from trainers.checkpoint import newest_checkpoint

DEMANDING: dict[str, Any] = {
    "max_train_steps": 6,
    "checkpoint_every_steps": 2,
    "gradient_accumulation_steps": 2,
    "lora_dropout": 0.3,
    "caption_dropout_rate": 0.3,
    "random_flip": True,
    "center_crop": False,
    "noise_offset": 0.05,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "validation_split": 0.25,
    "eval_every_steps": 2,
    "eval_prompt": "a cat",
    "eval_num_inference_steps": 2,
}
"""Everything that draws at random, with checkpoints between which steps are lost."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, shared_cache: Path) -> Job:
    """The job that nothing interrupts."""
    job = new_job(tmp_path_factory.mktemp("whole"), tiny_sd, shared_cache).spec(**DEMANDING)
    assert job.run() == 0
    return job


def new_job(root: Path, base: Path, cache: Path) -> Job:
    return job_make(root / "job", base, cache, sizes=((80, 64),) * 5)


def go_on_elsewhere(job: Job, make_job: Callable[..., Job]) -> Job:
    """As after the loss of a worker: a fresh out/, the last checkpoint in in/checkpoint."""
    checkpoint = newest_checkpoint(job.out / "checkpoints")
    other = make_job("elsewhere", sizes=((80, 64),) * 5)
    if checkpoint:
        shutil.copytree(checkpoint, other.inputs / "checkpoint")
    return other


def assert_equal(resumed: Job, whole: Job) -> None:
    assert resumed.losses() == {step: loss for step, loss in whole.losses().items() if step in resumed.losses()}
    assert max(resumed.losses()) == max(whole.losses())
    assert resumed.adaptor == whole.adaptor
    expected = {sample.path: (whole.out / sample.path).read_bytes() for sample in whole.of_kind("sample")}
    assert all((resumed.out / s.path).read_bytes() == expected[s.path] for s in resumed.of_kind("sample"))
    validation = {event.step: event.metrics for event in whole.of_kind("validation")}
    assert all(event.metrics == validation[event.step] for event in resumed.of_kind("validation"))
    assert not resumed.of_kind("warning")


def test_a_job_killed_at_a_step_goes_on_to_the_same_bits(whole: Job, make_job: Callable[..., Job]) -> None:
    job = make_job("killed", sizes=((80, 64),) * 5).spec(**DEMANDING)
    (process,) = job.start()
    job.wait_for_step(3)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (job.out / "manifest.json").exists()
    assert job.run() == 0
    assert_equal(job, whole)
    assert job.of_kind("started")[-1].step in (2, 4)


def test_a_job_stopped_by_command_goes_on_in_another_folder(whole: Job, make_job: Callable[..., Job]) -> None:
    job = make_job("stopped", sizes=((80, 64),) * 5).spec(**DEMANDING)
    job.start()
    job.wait_for_step(3)
    job.command(1, "stop")
    job.wait_until(lambda: bool(job.of_kind("finished")))
    job.processes[0].join()
    assert job.processes[0].exitcode == 0
    assert job.manifest["outcome"] == "stopped"
    step = job.manifest["steps"]
    assert 3 <= step < 6
    assert step == job.of_kind("checkpoint")[-1].step == max(job.losses())
    assert job.adaptor  # the partial one
    resumed = go_on_elsewhere(job, make_job).spec(**DEMANDING)
    resumed.command(1, "stop")  # the old command is still there: it counts as obeyed
    assert resumed.run() == 0
    assert min(resumed.losses()) == step + 1
    assert_equal(resumed, whole)


def test_sigterm_means_stop(make_job: Callable[..., Job]) -> None:
    job = make_job("signalled").spec(max_train_steps=10_000, checkpoint_every_steps=10_000)
    (process,) = job.start()
    job.wait_for_step(2)
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0
    assert job.manifest["outcome"] == "stopped"
    assert newest_checkpoint(job.out / "checkpoints") is not None


def test_two_processes_killed_go_on_to_the_same_bits(make_job: Callable[..., Job]) -> None:
    settings = {**DEMANDING, "eval_prompt": "", "max_train_steps": 4}
    undisturbed = make_job("undisturbed", sizes=((80, 64),) * 5).spec(processes=2, **settings)
    killed = make_job("killed", sizes=((80, 64),) * 5).spec(processes=2, **settings)
    for process in undisturbed.start(world_size=2):
        process.join()
        assert process.exitcode == 0
    first, second = killed.start(world_size=2)
    killed.wait_for_step(3)
    second.kill()
    first.join()
    assert first.exitcode == 1  # its peer is gone
    for process in killed.start(world_size=2):
        process.join()
        assert process.exitcode == 0
    assert killed.losses() == undisturbed.losses()
    assert killed.adaptor == undisturbed.adaptor


def test_another_world_size_goes_on_with_a_warning(make_job: Callable[..., Job]) -> None:
    job = make_job().spec(max_train_steps=2)
    assert job.run() == 0
    resumed = go_on_elsewhere(job, lambda name, **_: make_job(name)).spec(max_train_steps=2, processes=2)
    for process in resumed.start(world_size=2):
        process.join()
        assert process.exitcode == 0
    (warning,) = resumed.of_kind("warning")
    assert "world_size was 1, is 2" in warning.message


def test_a_checkpoint_of_other_parameters_is_refused(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert job.run() == 0
    other = go_on_elsewhere(job, lambda name, **_: make_job(name)).spec(learning_rate=1e-5)
    assert other.run() == 1
    assert other.failure().reason.code == "bad_checkpoint"
    assert not (other.out / "manifest.json").exists()


def test_a_damaged_checkpoint_is_refused(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert job.run() == 0
    other = go_on_elsewhere(job, lambda name, **_: make_job(name))
    weights = other.inputs / "checkpoint" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert other.run() == 1
    assert other.failure().reason.code == "bad_checkpoint"
    assert "weights.safetensors" in other.failure().reason.message


def test_a_cache_rebuilt_to_other_bits_gives_a_warning(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert job.run() == 0
    other = go_on_elsewhere(job, lambda name, **_: make_job(name))
    state = other.inputs / "checkpoint" / "state.json"
    digest = job.manifest["cache_digest"]
    state.write_text(state.read_text().replace(digest, "f" * 64))
    manifest = other.inputs / "checkpoint" / "manifest.json"
    entries = file_list(other.inputs / "checkpoint")
    manifest.write_text(json.dumps({"step": 3, "files": [e for e in entries if e["path"] != "manifest.json"]}))
    assert other.run() == 0
    assert "cached inputs were rebuilt" in other.of_kind("warning")[0].message


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 7))
def test_killed_at_every_step(step: int, whole: Job, make_job: Callable[..., Job]) -> None:
    job = make_job("killed", sizes=((80, 64),) * 5).spec(**DEMANDING)
    (process,) = job.start()
    job.wait_for_step(step)
    process.kill()
    process.join()
    resumed = go_on_elsewhere(job, make_job).spec(**DEMANDING)
    assert resumed.run() == 0
    assert_equal(resumed, whole)


def ended_or_grown(process: ForkServerProcess, events: Path, size: int) -> bool:
    return process.exitcode is not None or (events.exists() and events.stat().st_size >= size)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_again_and_again_at_any_moment(seed: int, whole: Job, make_job: Callable[..., Job]) -> None:
    """Killed once a random number of bytes of events was written: in the cache, a checkpoint, a sample, the export."""
    draw = random.Random(seed)
    job = make_job("killed", sizes=((80, 64),) * 5).spec(**DEMANDING)
    events = job.out / "events.jsonl"
    for _ in range(4):
        (process,) = job.start()
        size = events.stat().st_size if events.exists() else 0
        wanted = size + draw.randrange(4000)
        job.wait_until(partial(ended_or_grown, process, events, wanted))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
    if not (job.out / "manifest.json").exists():
        assert job.run() == 0
    assert_equal(job, whole)
