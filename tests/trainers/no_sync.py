"""Runs a loss where waiting for a device, or mixing devices, fails."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainers.dispatch import NoSync
from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.loop import Progress, StepBatch, TrainingPlan, fit
from trainers.core.optim import Group, optimizer_of, schedule
from trainers.core.reporting import Reporter, StepLog

META = torch.device("meta")
Loss = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]


def steps_without_sync(
    loss: Loss,
    micro: object,
    parameters: Sequence[nn.Parameter],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    further_metrics: tuple[str, ...] = (),
) -> NoSync:
    """Two steps of two micro-batches by the real loop; raises where the host would wait, except to read metrics."""
    mode = NoSync()
    monkeypatch.setattr(StepLog, "flush", mode.exempt(StepLog.flush))
    processes, reporter = Processes(rank=0, world_size=1, device=torch.device("cpu")), Reporter(None)
    plan: TrainingPlan[Any] = TrainingPlan(
        total_steps=2,
        seed=1,
        batch=lambda _step: StepBatch([micro, micro], count=2, units=2, epoch=0.0),
        loss=loss,
        parameters=parameters,
        optimizer=optimizer_of(
            "adamw", [Group("weights", parameters, 1e-3)], betas=(0.9, 0.999), weight_decay=0.1, epsilon=1e-8
        ),
        schedule=schedule("constant", warmup_steps=0, total_steps=2),
        max_grad_norm=1.0,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        checkpoint_every=10,
        evaluate_every=10,
        unit="images",
        save=lambda _progress: None,
        further_metrics=further_metrics,
    )
    control = Control(folder / "control", processes, reporter, takes_signals=False)
    try:
        with mode:
            fit(plan, Progress(), processes=processes, control=control, reporter=reporter)
    finally:
        control.close()
    return mode


def backward_on_meta(
    loss: Loss, micro: object, parameters: Sequence[nn.Parameter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward with all weights on `meta`, where a tensor of another device, or a copy to it, raises.

    So does a copy to `meta` for which an accelerator's queue would be waited for.
    """
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled

    def autocast_but_meta(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast_but_meta)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": kind != "meta" and is_enabled(kind))
    with NoSync():
        total, _ = loss(micro)
        assert total.device == META
        total.backward()  # type: ignore[no-untyped-call]
    assert {parameter.grad.device for parameter in parameters if parameter.grad is not None} == {META}
