"""Metrics of every step without a device sync at every step: values stay on the device until they are flushed."""

import resource
import time
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Step
from trainers.core.reporting import Reporter

FLUSH_EVERY = 10
"""Steps between two reads of an accelerator's metrics. On the CPU every step is read at once."""


class Entry(NamedTuple):
    step: int
    """Counts from 1: the optimizer steps done when it ends."""
    epoch: float
    units: int
    documents: int
    numbers: dict[str, float]
    """Known on the host: learning rate, loss scale."""
    readings: dict[str, Tensor]
    """Scalars on the device: loss, grad_norm, ..."""
    refused: Tensor
    """1.0 once this step or an earlier one was refused for a value that is not finite."""


class StepLog:
    """Collects entries, says the `step` events, and raises where a step was refused."""

    def __init__(
        self,
        reporter: Reporter,
        *,
        total: int,
        unit: Literal["images", "tokens"],
        device: torch.device,
        log_every: int = 1,
    ) -> None:
        self.last_metrics: dict[str, float] = {}
        self._reporter = reporter
        self._total = total
        self._unit: Literal["images", "tokens"] = unit
        self._device = device
        self._log_every = log_every
        self._entries: list[Entry] = []
        self._started = self._flushed = time.monotonic()
        self._done = 0
        self._untold_units = self._untold_documents = 0

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        first_or_last = self._done == 0 or entry.step == self._total
        if self._device.type == "cpu" or first_or_last or len(self._entries) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Reads what is buffered. TrainerError NON_FINITE_LOSS names the first step that was refused."""
        entries, self._entries = self._entries, []
        if not entries:
            return
        names = list(entries[0].readings)
        table = torch.stack([torch.stack([*(e.readings[name].float() for name in names), e.refused]) for e in entries])
        rows = table.tolist()
        now = time.monotonic()
        self._untold_units += sum(entry.units for entry in entries)
        self._untold_documents += sum(entry.documents for entry in entries)
        seconds = max(now - self._flushed, 1e-9)
        for entry, (*values, refused) in zip(entries, rows, strict=True):
            metrics = dict(zip(names, values, strict=True))
            if refused:
                raise _refused(entry.step, metrics)
            self._done += 1
            self._note(entry, metrics)
            if self._is_told(entry.step):
                self._say(entry, seconds)
                self._clock_set(now)
            if self._done == 1:
                self._started = now  # the first step compiles and allocates; it says nothing of the others

    def _is_told(self, step: int) -> bool:
        return self._done == 1 or step == self._total or step % self._log_every == 0

    def resume_clock(self) -> None:
        """Leaves out of images per second the time since the last flush: evaluation, checkpoint."""
        self._clock_set(time.monotonic())

    def _clock_set(self, now: float) -> None:
        self._flushed, self._untold_units, self._untold_documents = now, 0, 0

    def _note(self, entry: Entry, metrics: dict[str, float]) -> None:
        finite = {name: value for name, value in metrics.items() if -float("inf") < value < float("inf")}
        self.last_metrics = {**finite, **entry.numbers}

    def _say(self, entry: Entry, seconds: float) -> None:
        """`seconds` that the steps since the last event took."""
        elapsed = time.monotonic() - self._started
        documents = {"documents_per_second": self._untold_documents / seconds} if self._unit == "tokens" else {}
        self._reporter.emit(
            Step(
                step=entry.step,
                total=self._total,
                epoch=entry.epoch,
                metrics=self.last_metrics | documents,
                per_second=self._untold_units / seconds,
                unit=self._unit,
                peak_memory_bytes=peak_memory_bytes(self._device),
                eta_seconds=elapsed / max(1, self._done - 1) * (self._total - entry.step),
            )
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of the accelerator's allocator, or of this process's resident set on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _refused(step: int, metrics: dict[str, float]) -> TrainerError:
    named = ", ".join(f"{name} {value}" for name, value in metrics.items())
    return TrainerError(
        ReasonCode.NON_FINITE_LOSS, f"step {step} was refused before the update: expected finite values, got {named}"
    )
