"""Exact resume, to the last bit: killed in the middle of a write, an evaluation, the cache, and with two processes.

`tests/trainers/core/test_resume.py` holds the rest: killed at each step, again and again at any moment, stopped by
command.
"""

import importlib
import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.core.test_resume import DEMANDING, assert_equal
from tests.trainers.job import FORKSERVER, Job, job_make
from trainers.core.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow
SIZES = ((80, 64),) * 5
TWO = {**DEMANDING, "eval_prompt": "", "eval_num_inference_steps": 50, "max_train_steps": 6}
MOMENTS = {
    "in the build of the cache": ("trainers.core.cache", "file_write", 3),
    "in the first evaluation": ("trainers.image.training.drawing", "sample_images", 1),
    "in a later evaluation, with the image made": ("trainers.image.training.drawing", "image_write", 2),
    "in a validation": ("trainers.methods.image_lora", "validation_loss", 3),
    "in the first checkpoint, with one part written": ("trainers.core.checkpoint", "save_file", 2),
    "in a later checkpoint, with one part written": ("trainers.core.checkpoint", "save_file", 5),
    "in a checkpoint, before its manifest": ("trainers.core.checkpoint", "file_list", 2),
    "in the export of the adaptor": ("trainers.image.training.export", "adaptor_save", 1),
    "before the manifest": ("trainers.job", "manifest_write", 1),
}
"""Where the trainer gets kill -9: at the start of the so-manieth call of a function."""
LATER = [moment for moment in MOMENTS if "a later" in moment]


class Jobs:
    """Jobs below one folder; what they started is gone at the end."""

    def __init__(self, root: Path, base: Path) -> None:
        self._root, self._base = root, base
        self._jobs: list[Job] = []

    def new(self, name: str, cache: str = "cache") -> Job:
        self._jobs.append(job_make(self._root / name, self._base, self._root / cache, sizes=SIZES))
        return self._jobs[-1]

    def elsewhere(self, job: Job) -> Job:
        """As on another worker: a fresh out/ and cache, and the newest whole checkpoint, if there is one."""
        other = self.new(f"{job.root.name}-elsewhere", f"{job.root.name}-cache")
        checkpoint = newest_checkpoint(job.out / "checkpoints")
        if checkpoint:
            shutil.copytree(checkpoint, other.inputs / "checkpoint")
        return other

    def close(self) -> None:
        for process in (process for job in self._jobs for process in job.processes):
            process.kill()
            process.join()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Iterator[Jobs]:
    created = Jobs(tmp_path_factory.mktemp("exact"), tiny_sd)
    yield created
    created.close()


@pytest.fixture(scope="module")
def complete(jobs: Jobs) -> Job:
    """The job that nothing interrupts."""
    job = jobs.new("whole").spec(**DEMANDING)
    assert job.run() == 0
    return job


@pytest.fixture(scope="module")
def whole_of_two(jobs: Jobs) -> Job:
    """The same with two processes, which accumulate two micro-batches each."""
    job = jobs.new("whole-of-two").spec(processes=2, **TWO)
    run_two(job)
    return job


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=pytest.mark.long if moment in LATER else ()) for moment in MOMENTS]
)
def test_killed_in_the_middle_it_goes_on_to_the_same_bits(moment: str, complete: Job, jobs: Jobs) -> None:
    name = moment.replace(" ", "-")
    job = jobs.new(name, cache=f"{name}-first-cache").spec(**DEMANDING)
    process = FORKSERVER.Process(target=run_until, args=(job.root, job.cache, *MOMENTS[moment]))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"no kill {moment}"
    assert not (job.out / "manifest.json").exists()
    resumed = jobs.elsewhere(job).spec(**DEMANDING)
    assert resumed.run() == 0
    assert_same(job, resumed, complete)


def test_killed_in_the_build_of_the_cache_what_is_left_of_it_is_used_again(complete: Job, jobs: Jobs) -> None:
    job = jobs.new("same-cache", cache="same-cache").spec(**DEMANDING)
    process = FORKSERVER.Process(target=run_until, args=(job.root, job.cache, "trainers.core.cache", "file_write", 4))
    process.start()
    process.join()
    left = {path: path.stat().st_ino for path in job.cache.rglob("*.safetensors")}
    assert len(left) == 3
    assert job.run() == 0
    assert {path: path.stat().st_ino for path in left} == left
    assert_equal(job, complete)


@pytest.mark.parametrize("step", [2, 5, *(pytest.param(step, marks=pytest.mark.long) for step in (1, 3, 4, 6))])
def test_one_of_two_processes_killed_at_a_step_they_go_on_to_the_same_bits(
    step: int, whole_of_two: Job, jobs: Jobs
) -> None:
    job = jobs.new(f"two-{step}").spec(processes=2, **TWO)
    ranks = job.start(world_size=2)
    job.wait_for_step(step)
    ranks[step % 2].kill()
    for process in ranks:
        process.join()
    resumed = jobs.elsewhere(job).spec(processes=2, **TWO)
    run_two(resumed)
    assert_same(job, resumed, whole_of_two)


def assert_same(killed: Job, resumed: Job, complete: Job) -> None:
    """Both together have the undisturbed curve, and the result is the same file."""
    assert killed.losses().items() <= complete.losses().items()
    assert killed.losses() | resumed.losses() == complete.losses()
    assert resumed.adaptor == complete.adaptor
    if resumed.losses():  # none where it was killed after its last checkpoint
        assert_equal(resumed, complete)


def run_two(job: Job) -> None:
    for process in job.start(world_size=2):
        process.join()
        assert process.exitcode == 0


def run_until(root: Path, cache: Path, module: str, name: str, call: int) -> None:
    """Runs the job in this process, which gets kill -9 when `module.name` is called for the `call`th time."""
    place: Any = importlib.import_module(module)
    real, calls = getattr(place, name), itertools.count(1)

    def fatal(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(place, name, fatal)
    os._exit(Job(root, cache).run())
