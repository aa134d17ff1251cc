"""Runs a training plan by the real loop, without a job folder: no events, no checkpoints."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.loop import Progress, TrainingPlan, fit
from trainers.core.reporting import Reporter

NEVER = 10**9
"""Interval of checkpoints and evaluations that no bench reaches."""


def loop_run(plan: TrainingPlan[Any], device: torch.device) -> None:
    """Returns when the last step's metrics are read."""
    processes, reporter = Processes(rank=0, world_size=1, device=device), Reporter(None)
    with tempfile.TemporaryDirectory() as folder:
        control = Control(Path(folder) / "control", processes, reporter, takes_signals=False)
        try:
            outcome = fit(plan, Progress(), processes=processes, control=control, reporter=reporter)
        finally:
            control.close()
    assert outcome == "succeeded"
