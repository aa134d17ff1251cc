"""A step of text training never waits for the device, and makes its tensors there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainers.no_sync import META, backward_on_meta, steps_without_sync
from tests.trainers.text.training.test_unmasking import micro_batch, recipe_for
from trainers.text.adaptors.lora import attach_text_lora
from trainers.text.models.base import TextBase
from trainers.text.models.load import load_text
from trainers.text.training.unmasking import Unmasking

CPU = torch.device("cpu")
FAMILIES = ("llada", "dream", "bert", "modernbert", "qwen2")
PACKINGS = (True, False)


def trained(folder: Path) -> tuple[TextBase, list[nn.Parameter]]:
    base = load_text(folder, torch.float32)
    settings = {"r": 2, "alpha": 2, "dropout": 0.1, "targets": "all-linear", "seed": 1}
    return base, attach_text_lora(base, train_mask_embedding=True, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_for_the_device_only_to_read_metrics(
    family: str, packing: bool, tiny_text: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base, parameters = trained(tiny_text(family))
    micro = micro_batch(base, replace(recipe_for(base), packing=packing))
    objective = Unmasking(base, CPU, torch.float32, base.mask_id)
    mode = steps_without_sync(objective, micro, parameters, monkeypatch, tmp_path, ("masked_nll",))
    assert mode.calls > 500


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_makes_its_tensors_on_the_device_of_the_network(
    family: str, packing: bool, tiny_text: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = trained(tiny_text(family))
    micro = micro_batch(base, replace(recipe_for(base), packing=packing))
    base.model.to(META)
    parameters = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    backward_on_meta(Unmasking(base, META, torch.float32, base.mask_id), micro, parameters, monkeypatch)
