"""Events of a job: to events.jsonl, the log, TensorBoard and Weights & Biases; and the metrics of its steps."""

import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import AnyPayload, EventWriter, Payload, Started, Step, Validation, Warning_
from trainers.optional.libraries import optional_module

if TYPE_CHECKING:
    from trainers.core.context import JobContext


class Reporter:
    """Writes each event and passes it to the listeners; does nothing on every rank but 0."""

    def __init__(self, events: EventWriter | None) -> None:
        self._events = events
        self._listeners: list[Callable[[Payload], None]] = []

    def listen(self, listener: Callable[[Payload], None]) -> None:
        self._listeners.append(listener)

    def emit(self, payload: AnyPayload) -> None:
        if self._events is None:
            return
        self._events.emit(payload)
        for listener in self._listeners:
            listener(payload)


def listeners_attach(
    job: "JobContext",
    stack: ExitStack,
    *,
    tensorboard: bool,
    wandb: bool,
    wandb_project: str,
    start_step: int,
) -> None:
    """Adds the listeners that the parameters ask for, on rank 0; `stack` closes them. TrainerError: one is missing."""
    if job.processes.rank != 0:
        return
    job.reporter.listen(LogLines())
    if tensorboard:
        board = optional_module("trainers.optional.tensorboard", "train").TensorBoard(job.out, start_step)
        stack.callback(board.close)
        job.reporter.listen(board)
    if wandb:
        library = optional_module("trainers.optional.wandb", "wandb")
        tracker = library.WandB(job.out, job.spec, wandb_project)
        stack.callback(tracker.close)
        job.reporter.listen(tracker)
        if tracker.problem:
            job.reporter.emit(
                Warning_(message=f"Weights & Biases refused the run; it is kept in files: {tracker.problem}")
            )


MAX_LINES = 500
"""Of steps in a job, roughly, and as many of validations."""


class LogLines:
    """Prints the first and the last step, and between them one in each of MAX_LINES equal stretches of the job."""

    def __init__(self) -> None:
        self._total = 1
        self._stretches: dict[str, int] = {}
        """By kind of event, the stretch of its last line."""

    def __call__(self, payload: Payload) -> None:
        if isinstance(payload, Started):
            self._total = max(1, payload.total)
            _print(f"{payload.total} steps" + (f", going on from step {payload.step}" if payload.step else ""))
        elif isinstance(payload, Step | Validation) and self._is_due(payload):
            _print(_step_line(payload) if isinstance(payload, Step) else _validation_line(payload))

    def _is_due(self, payload: Step | Validation) -> bool:
        stretch = payload.step * MAX_LINES // self._total
        is_new = self._stretches.get(payload.kind) != stretch
        self._stretches[payload.kind] = stretch
        return is_new or payload.step == self._total


def _print(line: str) -> None:
    print(line, flush=True)


def _step_line(step: Step) -> str:
    names = {"loss": "loss {:.4f}", "learning_rate": "rate {:.3g}"}
    numbers = [form.format(step.metrics[name]) for name, form in names.items() if name in step.metrics]
    minutes, seconds = divmod(round(step.eta_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    speed = f"{step.per_second:.1f} {step.unit}/s"
    return "  ".join([f"step {step.step}/{step.total}", *numbers, speed, f"ETA {hours}:{minutes:02d}:{seconds:02d}"])


def _validation_line(validation: Validation) -> str:
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in validation.metrics.items())
    return f"validation at step {validation.step}  {numbers}"


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
    """Buffers the metrics of steps on the device, emits `step` events, and raises if a step was refused."""

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
        self._pending_units = self._pending_documents = 0

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        first_or_last = self._done == 0 or entry.step == self._total
        if self._device.type == "cpu" or first_or_last or len(self._entries) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Reads the buffered entries. TrainerError NON_FINITE_LOSS names the first step that was refused."""
        entries, self._entries = self._entries, []
        if not entries:
            return
        names = list(entries[0].readings)
        table = torch.stack([torch.stack([*(e.readings[name].float() for name in names), e.refused]) for e in entries])
        rows = table.tolist()
        now = time.monotonic()
        self._pending_units += sum(entry.units for entry in entries)
        self._pending_documents += sum(entry.documents for entry in entries)
        seconds = max(now - self._flushed, 1e-9)
        for entry, (*values, refused) in zip(entries, rows, strict=True):
            metrics = dict(zip(names, values, strict=True))
            if refused:
                raise _refused(entry.step, metrics)
            self._done += 1
            self._metrics_set(entry, metrics)
            if self._is_logged(entry.step):
                self._emit(entry, seconds)
                self._clock_set(now)
            if self._done == 1:
                self._started = now  # the first step compiles and allocates, so its time is no estimate of the others

    def _is_logged(self, step: int) -> bool:
        return self._done == 1 or step == self._total or step % self._log_every == 0

    def resume_clock(self) -> None:
        """Excludes the time since the last flush (evaluation, checkpoint) from the throughput."""
        self._clock_set(time.monotonic())

    def _clock_set(self, now: float) -> None:
        self._flushed, self._pending_units, self._pending_documents = now, 0, 0

    def _metrics_set(self, entry: Entry, metrics: dict[str, float]) -> None:
        finite = {name: value for name, value in metrics.items() if -float("inf") < value < float("inf")}
        self.last_metrics = {**finite, **entry.numbers}

    def _emit(self, entry: Entry, seconds: float) -> None:
        """`seconds`: since the last event."""
        elapsed = time.monotonic() - self._started
        documents = {"documents_per_second": self._pending_documents / seconds} if self._unit == "tokens" else {}
        self._reporter.emit(
            Step(
                step=entry.step,
                total=self._total,
                epoch=entry.epoch,
                metrics=self.last_metrics | documents,
                per_second=self._pending_units / seconds,
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
