"""Several ranks give what one gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.trainers.job import Job
from trainers.contract.errors import TrainerError
from trainers.contract.spec import Resources
from trainers.core.distributed import Processes, start_processes


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
def test_an_accelerator_that_is_not_there_is_a_reason() -> None:
    with pytest.raises(TrainerError, match="found 0 accelerators") as caught:
        start_processes(Resources(accelerators=1))
    assert caught.value.reason.code == "no_accelerator"
