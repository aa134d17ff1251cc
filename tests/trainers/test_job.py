"""The program: exit codes, Reasons, and the manifest that says that all is whole."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.patience import PATIENCE_SECONDS
from tests.trainers.job import Job
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.job import reason_of
from trainers.optional.libraries import OPTIONAL

UNUSED = (
    "diffusers.loaders.textual_inversion",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "scipy",
    "torch.utils.tensorboard",
    "transformers.models.clip.image_processing_clip",
    "transformers.optimization",
    "transformers.trainer_utils",
)
"""Modules of installed libraries that a plain image training has no use for; each takes seconds or warns."""
ROOT = Path(__file__).resolve().parents[2]


def test_a_job_run_as_a_program_leaves_a_complete_manifest(job: Job) -> None:
    ended = run_as_program(job)
    assert not imported_modules(job) & {*OPTIONAL, *UNUSED}
    assert not imported_distributions(job) & unneeded_distributions()
    assert not mentions(ended.stderr, OPTIONAL)
    assert job.events()[-1].data.kind == "finished"
    assert job.of_kind("progress")[0].stage == "loading", "said when the libraries are imported"
    lines = ended.stdout.decode().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["3 steps", "step 1/3", "step 2/3", "step 3/3"]
    notices = ended.stderr.decode().splitlines()
    assert all(line.startswith("keys of the base model's files") for line in notices), "nothing foreign in the log"
    manifest = job.manifest
    assert manifest["outcome"] == "succeeded"
    assert manifest["steps"] == 3
    assert manifest["params"]["lora_r"] == 8
    assert manifest["inputs"]["dataset"]["sha256"] == "0" * 64
    assert manifest["world_size"] == manifest["thread_count"] == 1
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["seconds"]["training"] > 0
    assert manifest["metrics"]["loss"] == job.losses()[3]
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    assert "adaptor/pytorch_lora_weights.safetensors" in listed
    for path, digest in listed.items():
        assert hashlib.sha256((job.out / path).read_bytes()).hexdigest() == digest


def run_as_program(job: Job) -> subprocess.CompletedProcess[bytes]:
    """`python -m trainers.run`, which leaves the names of all imported modules in `modules.json`."""
    program = (
        "import atexit, json, runpy, sys;"
        "names = lambda: sorted(name for name, module in sys.modules.items() if module is not None);"
        "atexit.register(lambda: json.dump(names(), open('modules.json', 'w')));"
        f"sys.argv[1:] = ['spec.json', 'in', 'out', {str(job.cache)!r}];"
        "runpy.run_module('trainers.run', run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], cwd=job.root, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended


def imported_modules(job: Job) -> set[str]:
    return set(json.loads((job.root / "modules.json").read_bytes()))


def imported_distributions(job: Job) -> set[str]:
    """Names of the installed distributions that a module was imported of."""
    owners = packages_distributions()
    return {canonicalize_name(owner) for name in imported_modules(job) for owner in owners.get(name, ())}


def unneeded_distributions() -> set[str]:
    """What our other extras bring and training does not need."""
    others = {
        name for extra in distribution("anneal").metadata.get_all("Provides-Extra") or () for name in direct(extra)
    }
    return others - needed("train") - {"nvidia-ml-py"}  # torch.cuda imports that one


def needed(extra: str) -> set[str]:
    """The distributions that anneal with `extra` needs, transitively."""
    collected: set[str] = set()
    pending = direct(extra)
    while pending:
        name = pending.pop()
        if name not in collected:
            collected.add(name)
            pending |= direct("", name)
    return collected


def direct(extra: str, name: str = "anneal") -> set[str]:
    requirements = map(Requirement, distribution(name).requires or ())
    return {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or one.marker.evaluate({"extra": extra})
    }


def mentions(output: bytes, names: Iterable[str]) -> list[str]:
    return [name for name in names if re.search(rf"\b{name}\b", output.decode())]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lora_r": 3}, "lora_r"),
        ({"lora_rank": 8}, "lora_rank"),
        ({"lr_warmup_steps": 5}, "lr_warmup_steps=5 does nothing"),
    ],
)
def test_wrong_parameters_fail_with_their_reason(params: dict[str, int], message: str, job: Job) -> None:
    assert job.spec(**params).run() == 1
    assert job.failure().reason.code == "bad_parameters"
    assert message in job.failure().reason.message
    assert not (job.out / "manifest.json").exists()


def test_a_bad_dataset_fails_and_names_the_faulty_image(job: Job) -> None:
    job.dataset.joinpath("2.png").write_bytes(b"no image")
    assert job.run() == 1
    assert job.failure().reason.code == "bad_dataset"
    assert "2.png" in job.failure().reason.message


def test_a_bad_base_model_fails_with_its_reason(job: Job) -> None:
    job.inputs.joinpath("model").unlink()
    job.inputs.joinpath("model").mkdir()
    assert job.run() == 1
    assert job.failure().reason.code == "bad_base_model"


def test_a_loss_that_is_not_finite_fails_and_names_the_step(job: Job) -> None:
    assert job.spec(max_train_steps=50, learning_rate=1.0, max_grad_norm=1e12, lora_alpha=128, lora_r=4).run() == 1
    reason = job.failure().reason
    assert reason.code == "non_finite_loss"
    assert f"step {max(job.losses()) + 1} was refused" in reason.message
    assert not (job.out / "adaptor").exists()


def test_a_known_failure_is_a_sentence_in_the_log(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    (job.dataset / "0.png").write_bytes(b"no image")
    assert job.run() == 1
    error = capsys.readouterr().err
    assert "failed: " in error and "0.png" in error and "Traceback" not in error


def test_more_processes_requested_than_started_is_refused(job: Job) -> None:
    assert job.spec(processes=2).run() == 1
    assert "torchrun --nproc-per-node 2" in job.failure().reason.message


def test_a_peer_that_fails_gives_its_reason_not_a_broken_connection(make_job: Callable[..., Job]) -> None:
    job = make_job().spec(processes=2, center_crop=False, resolution=72)
    job.dataset.joinpath("1.png").write_bytes((job.dataset / "0.png").read_bytes()[:-200])
    for process in job.start(world_size=2):
        process.join()
        assert process.exitcode == 1
    assert job.failure().reason.code == "bad_dataset"
    assert "1.png" in job.failure().reason.message


def test_a_finished_job_is_never_overwritten(job: Job) -> None:
    assert job.run() == 0
    adaptor = job.adaptor
    assert job.run() == 1
    assert "holds a finished job" in job.failure().reason.message
    assert job.adaptor == adaptor
    assert job.manifest["outcome"] == "succeeded"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), ReasonCode.OUT_OF_MEMORY),
        (MemoryError(), ReasonCode.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ReasonCode.OUT_OF_MEMORY),
        (OSError(28, "No space left on device"), ReasonCode.DISK_FULL),
        (TrainerError(ReasonCode.BAD_ADAPTOR, "x"), ReasonCode.BAD_ADAPTOR),
        (KeyError("x"), ReasonCode.INTERNAL),
    ],
)
def test_every_exception_has_its_reason(error: Exception, code: ReasonCode) -> None:
    assert reason_of(error).code == code


def test_an_unknown_exception_keeps_the_end_of_its_traceback() -> None:
    assert "KeyError: 'lost'" in reason_of(KeyError("lost")).detail


def test_a_full_disk_is_a_reason_and_leaves_no_manifest(job: Job) -> None:
    job.out.joinpath("checkpoints").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(job.out / "checkpoints")]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        assert job.run() == 1
    finally:
        subprocess.run(["umount", str(job.out / "checkpoints")], check=True)
    assert job.failure().reason.code == "disk_full"
    assert not (job.out / "manifest.json").exists()


@pytest.mark.slow
def test_torchrun_starts_two_ranks(job: Job) -> None:
    job.spec(processes=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, "-m", "trainers.run", "spec.json", "in", "out", str(job.cache)]
    ended = subprocess.run(command, cwd=job.root, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    assert json.loads((job.out / "manifest.json").read_bytes())["world_size"] == 2


@pytest.mark.slow
def test_sigterm_to_torchrun_stops_well(job: Job) -> None:
    job.spec(processes=2, max_train_steps=1_000_000, checkpoint_every_steps=1_000_000)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, "-m", "trainers.run", "spec.json", "in", "out", str(job.cache)]
    with subprocess.Popen(command, cwd=job.root, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        job.wait_for_step(2)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)
    assert job.manifest["outcome"] == "stopped"
