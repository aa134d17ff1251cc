"""A JobContext for tests that call a method in their own process: one rank, the CPU, no signals."""

from pathlib import Path

import torch

from trainers.contract.events import EventWriter
from trainers.contract.spec import JobSpec
from trainers.core.context import JobContext, ModelCache
from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.reporting import Reporter


def context_make(
    spec: JobSpec, inputs: Path, out: Path, cache: Path, events: EventWriter, models: ModelCache | None = None
) -> JobContext:
    processes, reporter = Processes(0, 1, torch.device("cpu")), Reporter(events)
    control = Control(inputs / "control", processes, reporter, takes_signals=False)
    return JobContext(spec, spec.params, inputs, out, cache, processes, control, reporter, models or ModelCache())
