"""Exact resume: stop or kill -9 at any step, go on, and nothing differs from the job that was never interrupted."""

import hashlib
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

from foundation.digests import file_list
from tests.trainers.job import SHA256, AtStep, Job, job_make
from trainers.contract.spec import canonical_json, spec_load
from trainers.core.checkpoint import newest_checkpoint
from trainers.core.resume import is_of_job

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
MUCH_EVALUATION = "sample images every 2 steps take 50% of the network's forwards"


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, shared_cache: Path) -> Job:
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


def assert_equal(resumed: Job, complete: Job) -> None:
    assert resumed.losses() == {step: loss for step, loss in complete.losses().items() if step in resumed.losses()}
    assert resumed.manifest["steps"] == max(
        complete.losses()
    )  # no step of its own where the last checkpoint was the end
    assert resumed.adaptor == complete.adaptor
    expected = {sample.path: (complete.out / sample.path).read_bytes() for sample in complete.of_kind("sample")}
    assert all((resumed.out / s.path).read_bytes() == expected[s.path] for s in resumed.of_kind("sample"))
    validation = {event.step: event.metrics for event in complete.of_kind("validation")}
    assert all(event.metrics == validation[event.step] for event in resumed.of_kind("validation"))
    assert {warning.message for warning in resumed.of_kind("warning")} <= {MUCH_EVALUATION}


@pytest.mark.numeric
def test_a_job_killed_at_a_step_resumes_bit_for_bit(complete: Job, make_job: Callable[..., Job]) -> None:
    job = make_job("killed", sizes=((80, 64),) * 5).spec(**DEMANDING)
    (process,) = job.start(at_step=AtStep(3, "kill"))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (job.out / "manifest.json").exists()
    assert job.run() == 0
    assert_equal(job, complete)
    assert job.of_kind("started")[-1].step in (2, 4)


def test_a_job_stopped_by_command_resumes_in_another_folder(complete: Job, make_job: Callable[..., Job]) -> None:
    job = make_job("stopped", sizes=((80, 64),) * 5).spec(**DEMANDING)
    job.start(at_step=AtStep(3, "stop"))
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
    assert_equal(resumed, complete)


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


@pytest.mark.numeric
def test_two_killed_processes_resume_bit_for_bit(make_job: Callable[..., Job]) -> None:
    settings = {**DEMANDING, "eval_prompt": "", "eval_num_inference_steps": 50, "max_train_steps": 4}
    undisturbed = make_job("undisturbed", sizes=((80, 64),) * 5).spec(processes=2, **settings)
    killed = make_job("killed", sizes=((80, 64),) * 5).spec(processes=2, **settings)
    for process in undisturbed.start(world_size=2):
        process.join()
        assert process.exitcode == 0
    first, second = killed.start(world_size=2, at_step=AtStep(3, "kill"))
    first.join()
    second.join()
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 1)  # the peer of the second is gone
    for process in killed.start(world_size=2):
        process.join()
        assert process.exitcode == 0
    assert killed.losses() == undisturbed.losses()
    assert killed.adaptor == undisturbed.adaptor


@pytest.mark.slow
def test_another_world_size_keeps_steps_rows_and_rate(make_job: Callable[..., Job]) -> None:
    """From 1 process to 2, and from there back to 1; the last batch of an epoch is short."""
    settings: dict[str, Any] = {"max_train_steps": None, "num_train_epochs": 3, "gradient_accumulation_steps": 2}
    settings |= {"lr_scheduler": "cosine", "lr_warmup_steps": 2, "checkpoint_every_steps": 2, "keep_checkpoints": 9}

    def make(name: str, *, checkpoint: Path | None = None, processes: int = 1) -> Job:
        job = make_job(name, sizes=((64, 64),) * 5).spec(processes=processes, **settings)
        if checkpoint:
            shutil.copytree(checkpoint, job.inputs / "checkpoint")
        return job

    undisturbed = make("undisturbed")
    assert undisturbed.run() == 0
    assert undisturbed.of_kind("started")[0].total == 9
    resumed = make("resumed", checkpoint=undisturbed.out / "checkpoints" / "step-00000002", processes=2)
    for process in resumed.start(world_size=2):
        process.join()
        assert process.exitcode == 0
    back = make("back", checkpoint=resumed.out / "checkpoints" / "step-00000004")
    assert back.run() == 0
    curves = [
        {step.step: (step.metrics["loss"], step.metrics["learning_rate"], step.epoch) for step in job.of_kind("step")}
        for job in (undisturbed, resumed, back)
    ]
    for job, curve, first in ((resumed, curves[1], 3), (back, curves[2], 5)):
        assert list(curve) == list(range(first, 10))
        assert job.of_kind("started")[0].total == job.manifest["steps"] == 9
        for step, values in curve.items():
            assert values == pytest.approx(curves[0][step], rel=1e-5)
    warnings = [[warning.message for warning in job.of_kind("warning")] for job in (resumed, back)]
    assert any("world_size was 1, is 2" in message for message in warnings[0])
    assert any("batch size 1 x accumulation 1 x 2 processes" in message for message in warnings[0])
    assert not any("accumulation" in message for message in warnings[1])  # as the parameters say


def test_a_global_batch_that_the_processes_cannot_make_is_refused(make_job: Callable[..., Job]) -> None:
    job = make_job().spec(max_train_steps=2)
    assert job.run() == 0
    resumed = go_on_elsewhere(job, lambda name, **_: make_job(name)).spec(max_train_steps=2, processes=2)
    for process in resumed.start(world_size=2):
        process.join()
        assert process.exitcode == 1
    reason = resumed.failure().reason
    assert reason.code == "bad_checkpoint"
    assert "global batch 1 = batch size 1 x accumulation 1 x 1 process" in reason.message
    assert "2 processes with batches of 1 take 2 rows at a time" in reason.message
    assert "another number of processes (1)" in reason.message


def test_the_choice_of_auto_is_recorded_and_stays_on_another_device(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job begun where bf16 is chosen goes on in bf16 where the first start would choose otherwise."""
    settings: dict[str, Any] = {"mixed_precision": "auto", "max_train_steps": 4, "checkpoint_every_steps": 2}
    monkeypatch.setattr("trainers.methods.image_lora.auto_precision", lambda _: "bf16")
    begun = make_job("begun").spec(**settings)
    assert begun.run() == 0
    monkeypatch.undo()
    resumed, fresh = make_job("resumed").spec(**settings), make_job("fresh").spec(**settings)
    shutil.copytree(begun.out / "checkpoints" / "step-00000002", resumed.inputs / "checkpoint")
    assert resumed.run() == 0
    assert json.loads((resumed.out / "checkpoints" / "step-00000004" / "state.json").read_bytes())["choices"] == {
        "mixed_precision": "bf16"
    }
    assert resumed.adaptor == begun.adaptor
    assert fresh.run() == 0
    state = json.loads((fresh.out / "checkpoints" / "step-00000004" / "state.json").read_bytes())
    assert state["choices"] == {"mixed_precision": "no"}
    assert fresh.adaptor != begun.adaptor


def test_a_checkpoint_of_other_parameters_is_refused(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert job.run() == 0
    other = go_on_elsewhere(job, lambda name, **_: make_job(name)).spec(learning_rate=1e-5)
    assert other.run() == 1
    assert other.failure().reason.code == "bad_checkpoint"
    assert not (other.out / "manifest.json").exists()


def test_parameters_newer_than_a_job_leave_its_checkpoints_valid(job: Job) -> None:
    """The spec of an earlier release lists every parameter of its time, as do the digests in its checkpoints."""
    parameters = spec_load(job.root / "spec.json").params.model_dump(mode="json")
    del parameters["split"]  # as if it were newer
    inputs = {"dataset": SHA256, "model": SHA256, "adaptors": [], "further_datasets": [], "class_dataset": None}
    content = {"method": "image_lora", "params": parameters, **inputs}
    digest = hashlib.sha256(canonical_json(content)).hexdigest()
    assert is_of_job(digest, spec_load(job.spec(**parameters).root / "spec.json"))
    assert not is_of_job(digest, spec_load(job.spec(**parameters, split="test").root / "spec.json"))
    assert not is_of_job(digest, spec_load(job.spec(**{**parameters, "seed": 1}).root / "spec.json"))


def test_a_damaged_checkpoint_is_refused(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert job.run() == 0
    other = go_on_elsewhere(job, lambda name, **_: make_job(name))
    weights = other.inputs / "checkpoint" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert other.run() == 1
    assert other.failure().reason.code == "checkpoint_damaged"
    assert "weights.safetensors" in other.failure().reason.message


def test_a_cache_rebuilt_with_other_bits_causes_a_warning(make_job: Callable[..., Job]) -> None:
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
@pytest.mark.parametrize("step", [1, 4, 6, *(pytest.param(step, marks=pytest.mark.long) for step in (2, 3, 5))])
def test_killed_at_every_step(step: int, complete: Job, make_job: Callable[..., Job]) -> None:
    job = make_job("killed", sizes=((80, 64),) * 5).spec(**DEMANDING)
    (process,) = job.start(at_step=AtStep(step, "kill"))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = go_on_elsewhere(job, make_job).spec(**DEMANDING)
    assert resumed.run() == 0
    assert_equal(resumed, complete)


def ended_or_grown(process: ForkServerProcess, events: Path, size: int) -> bool:
    return process.exitcode is not None or (events.exists() and events.stat().st_size >= size)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 12))])
def test_killed_again_and_again_at_any_moment(seed: int, complete: Job, make_job: Callable[..., Job]) -> None:
    """Killed once a random number of bytes of events was written: in the cache, a checkpoint, a sample, the export."""
    draw = random.Random(seed)
    job = make_job("killed", sizes=((80, 64),) * 5).spec(**DEMANDING)
    events = job.out / "events.jsonl"
    for _ in range(4):
        (process,) = job.start()
        size = events.stat().st_size if events.exists() else 0
        expected = size + draw.randrange(4000)
        job.wait_until(partial(ended_or_grown, process, events, expected))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
    if not (job.out / "manifest.json").exists():
        assert job.run() == 0
    assert_equal(job, complete)


OF_DATA: dict[str, Any] = {
    "max_train_steps": 4,
    "checkpoint_every_steps": 2,
    "train_batch_size": 2,
    "aspect_ratio_buckets": True,
    "center_crop": False,
    "random_flip": True,
    "color_jitter": True,
    "random_rotation": True,
    "rotation_prob": 0.5,
    "caption_shuffle": True,
    "caption_dropout_rate": 0.3,
    "masked_loss": "alpha",
    "repeats": [2],
    "validation_split": 0.2,
    "eval_every_steps": 2,
}


@pytest.mark.numeric
def test_a_job_with_every_augmentation_resumes_bit_for_bit(make_job: Callable[..., Job]) -> None:
    sizes = ((96, 64), (64, 96), (64, 64), (96, 64), (80, 64))
    undisturbed, resumed = (make_job(name, sizes=sizes).spec(**OF_DATA) for name in ("undisturbed", "resumed"))
    for job in (undisturbed, resumed):
        (job.dataset / "0.txt").write_text("cat, dog, photo, of")
    assert undisturbed.run() == 0
    shutil.copytree(undisturbed.out / "checkpoints" / "step-00000002", resumed.inputs / "checkpoint")
    assert resumed.run() == 0
    assert list(resumed.losses()) == [3, 4]
    assert resumed.losses().items() <= undisturbed.losses().items()
    assert resumed.adaptor == undisturbed.adaptor
    validation = {event.step: event.metrics for event in undisturbed.of_kind("validation")}
    assert resumed.of_kind("validation")[-1].metrics == validation[4]


WITH_MORE_STATE: dict[str, tuple[str, dict[str, Any]]] = {
    "averaged, in 8 bits, with changed images": (
        "sd1",
        {
            "use_ema": True,
            "use_dora": True,
            "optimizer": "adamw8bit",
            "lora_r": 128,
            "lora_dropout": 0.2,
            "train_text_encoder": True,
            "aspect_ratio_buckets": True,
            "color_jitter": True,
            "random_rotation": True,
            "caption_shuffle": True,
            "caption_dropout_rate": 0.3,
            "center_crop": False,
            "validation_split": 0.25,
            "eval_every_steps": 2,
        },
    ),
}
SLOWLY: dict[str, tuple[str, dict[str, Any]]] = {
    "with a prior, prodigy and fp16": (
        "sd1",
        {
            "prior_preservation": True,
            "class_prompt": "photo of dog",
            "num_class_images": 2,
            "optimizer": "prodigy",
            "mixed_precision": "fp16",
            "conv_rank": 4,
        },
    ),
    "lion on 4 bits": ("sd1", {"optimizer": "lion", "base_quantization": "nf4", "gradient_checkpointing": True}),
    "adafactor on 8 bits": ("sd2", {"optimizer": "adafactor", "base_quantization": "int8", "use_ema": True}),
    "SDXL": ("sdxl", {"train_text_encoder": True, "lora_dropout": 0.2, "use_ema": True, "aspect_ratio_buckets": True}),
    "SD3": ("sd3", {"lora_dropout": 0.2, "timestep_sampling": "cosmap", "lora_targets": "all-linear"}),
    "Flux": ("flux", {"lora_dropout": 0.2, "use_ema": True, "mixed_precision": "bf16", "aspect_ratio_buckets": True}),
}


@pytest.mark.parametrize("name", [*WITH_MORE_STATE, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY)])
@pytest.mark.numeric
def test_a_job_with_more_state_resumes_bit_for_bit(name: str, tiny_base: Callable[[str], Path], tmp_path: Path) -> None:
    kind, settings = {**WITH_MORE_STATE, **SLOWLY}[name]
    sizes = ((96, 64), (64, 80), (64, 64), (64, 96), (64, 64))
    complete, resumed = (
        job_make(tmp_path / job, tiny_base(kind), tmp_path / "cache", sizes=sizes).spec(
            max_train_steps=4, train_batch_size=2, checkpoint_every_steps=2, **settings
        )
        for job in ("whole", "resumed")
    )
    assert complete.run() == 0
    shutil.copytree(complete.out / "checkpoints" / "step-00000002", resumed.inputs / "checkpoint")
    assert resumed.run() == 0
    assert resumed.losses() == {step: loss for step, loss in complete.losses().items() if step > 2}
    assert resumed.adaptor == complete.adaptor
    last = [
        {entry["path"]: entry["sha256"] for entry in file_list(job.out / "checkpoints" / "step-00000004")}
        for job in (complete, resumed)
    ]
    parts = {"weights.safetensors", "optimizer.safetensors", *(["ema.safetensors"] if settings.get("use_ema") else [])}
    assert parts <= last[0].keys()
    assert all(last[0][part] == last[1][part] for part in parts)
