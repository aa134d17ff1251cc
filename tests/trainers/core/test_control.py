"""Commands to a running job: each obeyed once, on all ranks alike, and answered."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainers.job import Job
from trainers.contract.events import EventWriter, read_events
from trainers.core.control import Command, Control
from trainers.core.distributed import Processes
from trainers.core.reporting import Reporter

ENDLESS = {"max_train_steps": 100_000, "checkpoint_every_steps": 100_000}
ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control", ALONE, Reporter(EventWriter(tmp_path / "events.jsonl")))


def test_a_command_is_returned_until_it_is_obeyed(control: Control, tmp_path: Path) -> None:
    assert control.agree() is None
    tmp_path.joinpath("control").write_text('{"seq": 3, "command": "save_now"}')
    assert control.agree() == control.agree() == Command(3, "save_now")
    control.obeyed_seq = 3
    assert control.agree() is None
    tmp_path.joinpath("control").write_text('{"seq": 2, "command": "stop"}')
    assert control.agree() is None
    assert not control.stop_is_wanted()
    tmp_path.joinpath("control").write_text('{"seq": 4, "command": "stop"}')
    assert control.stop_is_wanted()
    assert control.agree_to_stop()
    control.close()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"seq": 1}', '{"seq": "x", "command": "stop"}', '{"seq": 1, "command": "go"}']
)
def test_a_malformed_control_file_is_ignored_with_one_warning(text: str, control: Control, tmp_path: Path) -> None:
    tmp_path.joinpath("control").write_text(text)
    assert control.agree() is control.agree() is None
    (event,) = read_events(tmp_path / "events.jsonl")
    assert event.data.kind == "warning"
    assert "save_now, sample_now, stop" in event.data.message
    control.close()


def test_save_sample_and_stop_are_obeyed_and_acknowledged_during_training(make_job: Callable[..., Job]) -> None:
    job = make_job().spec(**ENDLESS, eval_prompt="a cat", eval_num_inference_steps=2, eval_every_steps=100_000)
    (process,) = job.start()
    job.wait_for_step(2)
    for seq, command in enumerate(("save_now", "sample_now", "stop"), start=1):
        job.command(seq, command)
        job.wait_until(lambda seq=seq: seq in [event.seq for event in job.of_kind("control")])  # type: ignore[misc]
    process.join()
    assert process.exitcode == 0
    answers = job.of_kind("control")
    assert [(event.seq, event.command) for event in answers] == [(1, "save_now"), (2, "sample_now"), (3, "stop")]
    saved, _, stopped = (event.step for event in answers)
    assert [event.step for event in job.of_kind("checkpoint")] == [saved, stopped]
    assert [event.step for event in job.of_kind("sample")] == [0, answers[1].step]
    assert job.manifest["outcome"] == "stopped"


def test_two_ranks_stop_at_the_same_step(make_job: Callable[..., Job]) -> None:
    job = make_job().spec(processes=2, **ENDLESS)
    processes = job.start(world_size=2)
    job.wait_for_step(2)
    job.command(1, "stop")
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert job.manifest["outcome"] == "stopped"
    assert job.of_kind("control")[0].step == job.manifest["steps"]


def test_a_stop_while_images_are_encoded_is_obeyed_before_the_first_step(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = make_job(sizes=((64, 64),) * 40)
    object.__setattr__(job, "cache", tmp_path / "empty")
    job.spec(resolution=128)
    job.command(1, "stop")
    assert job.run() == 0
    assert not job.losses()
    assert not list(tmp_path.joinpath("empty").rglob("*.safetensors"))
    assert job.of_kind("checkpoint")[0].step == 0
    assert job.manifest["outcome"] == "stopped"
    assert job.manifest["steps"] == 0
    job.inputs.joinpath("control").unlink()
    assert job.run() == 0  # goes on from step 0
    assert job.manifest["outcome"] == "succeeded"


def test_a_stop_during_sampling_ends_it_and_a_resume_samples_again(
    make_job: Callable[..., Job],
) -> None:
    job = make_job().spec(eval_prompt="a cat", eval_num_inference_steps=100, eval_every_steps=2, max_train_steps=2)
    (process,) = job.start()
    job.wait_until(lambda: bool(job.of_kind("started")))
    job.command(1, "stop")
    process.join()
    assert process.exitcode == 0
    assert job.manifest["outcome"] == "stopped"
    stopped_at = job.manifest["steps"]
    assert job.run() == 0
    assert sorted(sample.step for sample in job.of_kind("sample")) == [0, 2]
    assert job.of_kind("started")[-1].step == stopped_at
