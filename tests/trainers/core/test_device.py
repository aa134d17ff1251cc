"""Precision on accelerators of any age, which torch is made to report."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.trainers.job import Job
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.device import auto_precision, precision_set, recorded_precision_check

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
AMPERE, VOLTA = (8, 0), (7, 0)
AGES = [(AMPERE, "bf16"), (VOLTA, "no")]


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[tuple[int, int]], None]]:
    """Makes torch report an accelerator of a compute capability."""
    allowed_before = torch.backends.cuda.matmul.allow_tf32

    def report(capability: tuple[int, int]) -> None:
        def is_bf16_supported(including_emulation: bool = True) -> bool:
            return including_emulation or capability >= AMPERE

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Some GPU")

    yield report
    torch.backends.cuda.matmul.allow_tf32 = allowed_before


@pytest.mark.parametrize(("capability", "precision"), AGES)
def test_auto_is_bf16_where_the_accelerator_computes_in_it(
    accelerator: Callable[[tuple[int, int]], None], capability: tuple[int, int], precision: str
) -> None:
    accelerator(capability)
    assert auto_precision(CUDA) == precision
    assert auto_precision(CPU) == "no"


def test_an_accelerator_without_bf16_refuses_a_job_that_began_in_bf16(
    accelerator: Callable[[tuple[int, int]], None],
) -> None:
    accelerator(VOLTA)
    with pytest.raises(TrainerError, match="Some GPU does not compute in bf16") as refusal:
        recorded_precision_check("bf16", CUDA)
    assert refusal.value.reason.code == ReasonCode.NO_ACCELERATOR
    recorded_precision_check("no", CUDA)
    recorded_precision_check("bf16", CPU)
    accelerator(AMPERE)
    recorded_precision_check("bf16", CUDA)


@pytest.mark.parametrize(
    ("capability", "dtype", "reported"),
    [
        (AMPERE, torch.float32, "tf32"),
        (VOLTA, torch.float32, "fp32"),
        (AMPERE, torch.bfloat16, "bf16"),
        (AMPERE, torch.float16, "fp16"),
    ],
)
def test_tf32_products_are_allowed_only_where_fp32_is_chosen(
    accelerator: Callable[[tuple[int, int]], None], capability: tuple[int, int], dtype: torch.dtype, reported: str
) -> None:
    accelerator(capability)
    for before in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = before
        assert precision_set(CUDA, dtype) == reported
        assert torch.backends.cuda.matmul.allow_tf32 == (dtype == torch.float32)


def test_a_cpu_changes_no_setting_of_cuda(accelerator: Callable[[tuple[int, int]], None]) -> None:
    accelerator(AMPERE)
    torch.backends.cuda.matmul.allow_tf32 = False
    assert precision_set(CPU, torch.float32) == "fp32"
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_precision_is_in_the_started_event_and_the_manifest(make_job: Callable[..., Job]) -> None:
    """Also of a resumed job, which keeps the precision of its checkpoint."""
    settings: dict[str, Any] = {"mixed_precision": "auto", "max_train_steps": 2, "checkpoint_every_steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.methods.image_lora.auto_precision", lambda _: "bf16")
        begun = make_job("begun").spec(**settings)
        assert begun.run() == 0
    resumed = make_job("resumed").spec(**settings)
    shutil.copytree(begun.out / "checkpoints" / "step-00000001", resumed.inputs / "checkpoint")
    assert resumed.run() == 0
    for job in (begun, resumed):
        assert job.of_kind("started")[0].details["precision"] == job.manifest["precision"] == "bf16"


def test_a_recorded_precision_is_checked_on_resume(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(
        "trainers.methods.image_lora.recorded_precision_check", lambda precision, _device: checked.append(precision)
    )
    assert make_job().spec(mixed_precision="auto", max_train_steps=1).run() == 0
    assert make_job("chosen").spec(mixed_precision="no", max_train_steps=1).run() == 0
    assert checked == ["no"]
