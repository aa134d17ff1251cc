"""A step of image training never waits for the device, and makes its tensors there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainers.dispatch import NoSync
from tests.trainers.image.training.test_denoising import FAMILIES, batch_of, params
from tests.trainers.no_sync import META, backward_on_meta, steps_without_sync
from trainers.core.lora import attach
from trainers.image.data.batches import MicroBatch
from trainers.image.models.base import Base
from trainers.image.models.families import image_family, load_base
from trainers.image.training.denoising import denoising

CPU = torch.device("cpu")


def trained(folder: Path) -> tuple[Base, MicroBatch, list[nn.Parameter]]:
    """A base with pairs on its attention, and a batch with a mask of the loss."""
    base = load_base(folder, torch.float32)
    batch = replace(batch_of(base), mask_B1HW=torch.ones(2, 1, 8, 8))
    targets = image_family(base.family).targets(base.network, "attention", False)
    return base, batch, attach(base.network, r=2, alpha=2, dropout=0.1, seed=1, targets=targets)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_for_the_device_only_to_read_metrics(
    family: str, tiny_base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base, batch, parameters = trained(tiny_base(family))
    settings = {} if image_family(base.family).is_flow else {"snr_gamma": 5.0}
    objective = denoising(base, CPU, params(loss_type="huber", **settings), torch.float32)
    mode = steps_without_sync(objective, batch, parameters, monkeypatch, tmp_path)
    assert mode.calls > 1000


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_makes_its_tensors_on_the_device_of_the_network(
    family: str, tiny_base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, batch, _ = trained(tiny_base(family))
    base.network.to(META)
    parameters = [parameter for parameter in base.network.parameters() if parameter.requires_grad]
    backward_on_meta(denoising(base, META, params(), torch.float32), batch, parameters, monkeypatch)


@pytest.mark.parametrize("wait", [Tensor.item, Tensor.nonzero, lambda x: x[x > 0], float, bool])
def test_calls_that_wait_are_refused(wait: Callable[[Tensor], object]) -> None:
    mode, x = NoSync(), torch.ones(1)
    with mode, pytest.raises(AssertionError, match="makes the host wait"):
        wait(x)
    with mode:
        mode.exempt(wait)(x)


def test_a_tensor_of_another_device_is_refused_on_meta() -> None:
    with pytest.raises(RuntimeError):
        torch.ones(2, device=META) + torch.ones(2)
    with pytest.raises(NotImplementedError):
        torch.ones(2, device=META).cpu()


def test_a_copy_to_the_device_that_blocks_is_refused() -> None:
    with NoSync(), pytest.raises(AssertionError, match="without non_blocking"):
        torch.ones(2).to(META)
    with NoSync():
        torch.ones(2).to(META, non_blocking=True)
