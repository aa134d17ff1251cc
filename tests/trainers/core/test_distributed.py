"""Several ranks give what one gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.trainers.job import Job
from trainers.contract.errors import TrainerError
from trainers.contract.spec import Resources
from trainers.core.distributed import GlobalBatch, Processes, start_processes
from trainers.image.data.batches import Plan
from trainers.text.data.batches import TextPlan


@pytest.mark.parametrize("images", [6, 7])
def test_two_processes_give_the_curve_and_gradient_norms_of_one(images: int, make_job: Callable[..., Job]) -> None:
    """Two images are held out. Of 5 trained the last batch of an epoch is one: the second rank has none."""
    sizes = ((64, 64),) * images
    settings: dict[str, Any] = {"max_train_steps": 6, "validation_split": 0.3, "eval_every_steps": 3}
    settings |= {"eval_prompt": "a cat", "eval_num_inference_steps": 2}
    one, two = make_job("one", sizes=sizes), make_job("two", sizes=sizes)
    assert one.spec(train_batch_size=2, gradient_accumulation_steps=2, **settings).run() == 0
    two.spec(processes=2, train_batch_size=1, gradient_accumulation_steps=2, **settings)
    for process in two.start(world_size=2):
        process.join()
        assert process.exitcode == 0
    for metric, tolerance in (("loss", 1e-6), ("grad_norm", 1e-5)):
        curves = [[step.metrics[metric] for step in job.of_kind("step")] for job in (one, two)]
        assert curves[1] == pytest.approx(curves[0], rel=tolerance)
    validations = [[event.metrics["loss"] for event in job.of_kind("validation")] for job in (one, two)]
    assert len(validations[0]) == 3
    assert validations[1] == pytest.approx(validations[0], rel=1e-5)
    assert [sample.path for sample in two.of_kind("sample")] == [sample.path for sample in one.of_kind("sample")]
    assert two.manifest["world_size"] == 2


def test_missing_gradients_count_as_zero() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    Processes(0, 1, torch.device("cpu")).sum_gradients([parameter])
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0, 0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has an accelerator")
def test_a_missing_accelerator_is_a_reason() -> None:
    with pytest.raises(TrainerError, match="found 0 accelerators") as caught:
        start_processes(Resources(accelerators=1))
    assert caught.value.reason.code == "no_accelerator"


@pytest.mark.parametrize(
    ("before", "after", "accumulation"),
    [
        (GlobalBatch(2, 2, 1), GlobalBatch(2, 2, 2), 1),
        (GlobalBatch(1, 1, 4), GlobalBatch(1, 1, 1), 4),
        (GlobalBatch(3, 4, 2), GlobalBatch(3, 4, 4), 2),
        (GlobalBatch(3, 2, 2), GlobalBatch(3, 2, 2), 2),
    ],
)
def test_each_step_has_the_same_rows_on_another_world_size(
    before: GlobalBatch, after: GlobalBatch, accumulation: int
) -> None:
    resumed = after.with_rows(before.rows)
    assert (resumed.batch_size, resumed.world_size) == (after.batch_size, after.world_size)
    assert resumed.accumulation == accumulation
    parts = [(batch.batch_size, batch.accumulation, batch.world_size) for batch in (before, resumed)]
    first, second = (Plan(53, *sizes, seed=1, shapes=["square", "tall"] * 26 + ["wide"]) for sizes in parts)
    assert first.steps_per_epoch == second.steps_per_epoch
    assert all(first.rows(step) == second.rows(step) for step in range(2 * first.steps_per_epoch))
    one, other = (TextPlan(53, *sizes, seed=1) for sizes in parts)
    assert one.steps_per_epoch == other.steps_per_epoch
    assert all(one.documents(step) == other.documents(step) for step in range(2 * one.steps_per_epoch))


def test_rows_that_the_processes_cannot_make_are_refused_naming_both() -> None:
    batch = GlobalBatch(2, 3, 4)
    with pytest.raises(ValueError, match="4 processes with batches of 2 take 8 rows at a time") as refused:
        batch.with_rows(12)
    assert "global batch of 12" in str(refused.value)
    assert batch.world_sizes(12) == [1, 2, 3, 6]
    assert all(GlobalBatch(2, 1, count).with_rows(12).rows == 12 for count in batch.world_sizes(12))
    assert str(GlobalBatch(2, 6, 1)) == "global batch 12 = batch size 2 x accumulation 6 x 1 process"
