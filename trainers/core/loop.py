"""fit(): the training loop of every method. It knows steps, ranks, checkpoints and commands, but no modality."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from trainers.contract.events import Validation
from trainers.core.checkpoint import rng_load_state, rng_state
from trainers.core.context import Outcome
from trainers.core.control import Command, Control
from trainers.core.distributed import Processes
from trainers.core.noise import Purpose, integer
from trainers.core.optim import Schedule, skips_on_device
from trainers.core.reporting import Entry, Reporter, StepLog

Micro = TypeVar("Micro")
SMALLEST_LOSS_SCALE = 2.0**-10
"""Below it an fp16 scaler finds no finite gradient at any scale."""


@dataclass(frozen=True)
class StepBatch(Generic[Micro]):
    """One optimizer step as this rank sees it."""

    micro_batches: Sequence[Micro]
    """May be empty on a rank when the global batch is short."""
    count: int
    """Samples (or tokens) of the global batch: over all micro-batches and ranks. The loss is the sum divided by it."""
    units: int
    """Images or tokens of the global batch, for the throughput."""
    epoch: float
    """Epochs done when the step ends."""
    documents: int = 0
    """Of the global batch, where units are tokens."""


@dataclass(frozen=True)
class Hooks:
    """What a method does between steps; None: nothing. Each is called on every rank, with the steps done."""

    evaluate: Callable[[int], bool] | None = None
    """Makes sample images or texts. Returns False if it was stopped early."""
    validate: Callable[[int], dict[str, float]] | None = None
    """Metrics of the held-out rows."""
    after_update: Callable[[int], None] | None = None
    """Called after each optimizer step: a moving average of the weights."""


@dataclass(frozen=True)
class TrainingPlan(Generic[Micro]):
    """What a method hands to the loop."""

    total_steps: int
    seed: int
    batch: Callable[[int], StepBatch[Micro]]
    """Step 0, 1, ... -> its batch: a pure function, called one step ahead in a thread."""
    loss: Callable[[Micro], tuple[Tensor, dict[str, Tensor]]]
    """Micro-batch -> sum of the losses of its samples, and one further sum for each of `further_metrics`."""
    parameters: Sequence[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    max_grad_norm: float
    scaler: torch.amp.GradScaler
    """Disabled but for fp16."""
    checkpoint_every: int
    evaluate_every: int
    unit: Literal["images", "tokens"]
    save: Callable[["Progress"], None]
    """Writes a checkpoint of `Progress`; called on every rank."""
    hooks: Hooks = Hooks()
    further_metrics: tuple[str, ...] = ()
    """What `loss` sums beside the loss; reported as means over the global batch."""
    log_every: int = 1
    """Steps between two `step` events; the first and the last are always reported."""


@dataclass
class Progress:
    """Where a job stands; a checkpoint holds it."""

    step: int = 0
    evaluated_step: int = -1
    """Last step at which samples and validation were made."""
    seconds: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "evaluating": 0.0, "saving": 0.0})
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last step that was read."""


def fit(
    plan: TrainingPlan[Any], progress: Progress, *, processes: Processes, control: Control, reporter: Reporter
) -> Outcome:
    """Trains from `progress.step` to the end or to a stop. On return the last state is in a checkpoint.

    Raises TrainerError NON_FINITE_LOSS, naming the step, before a bad value reaches the weights.
    """
    base_rates = [group["initial_lr"] for group in _with_initial_rates(plan.optimizer)]
    log = StepLog(reporter, total=plan.total_steps, unit=plan.unit, device=processes.device, log_every=plan.log_every)
    update = _Update(plan, base_rates, processes)
    with ThreadPoolExecutor(1, "batches") as pool:
        ahead: Future[StepBatch[Any]] | None = None
        while True:
            command = control.agree()
            if command is not None:
                _obey(command, plan, progress, log, processes, control, reporter)
                if command.name == "stop":
                    return "stopped"
            if _evaluation_is_due(plan, progress):
                _evaluate(plan, progress, log, processes, reporter)
                continue
            if progress.step == plan.total_steps:
                return "succeeded"
            with _timed(progress, "training"):
                batch = (ahead or pool.submit(plan.batch, progress.step)).result()
                progress.step += 1
                last = progress.step == plan.total_steps
                ahead = None if last else pool.submit(plan.batch, progress.step)
                log.add(update(batch, progress.step))
            if last or progress.step % plan.checkpoint_every == 0:
                _save(plan, progress, log)


class _Update(Generic[Micro]):
    """One optimizer step. A value that is not finite sets a flag on the device, which blocks all later updates."""

    def __init__(self, plan: TrainingPlan[Micro], base_rates: list[float], processes: Processes) -> None:
        self._plan = plan
        self._base_rates = base_rates
        self._processes = processes
        self._refused = torch.zeros((), device=processes.device)
        self._loss_scale()  # initialises it, also on a rank that has no sample in its first step

    def __call__(self, batch: StepBatch[Micro], step: int) -> Entry:
        plan, optimizer = self._plan, self._plan.optimizer
        multiplier = plan.schedule(step - 1)
        for group, base in zip(optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * multiplier
        means = self._backward(batch, step)
        self._processes.sum_gradients(plan.parameters)
        plan.scaler.unscale_(optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(plan.parameters, plan.max_grad_norm)
        self._step(means["loss"], grad_norm)
        optimizer.zero_grad(set_to_none=True)
        if plan.hooks.after_update:
            plan.hooks.after_update(step)
        readings = {**means, "grad_norm": grad_norm}
        if plan.scaler.is_enabled():
            readings["loss_scale"] = self._loss_scale()
        return Entry(step, batch.epoch, batch.units, batch.documents, self._rates(), readings, self._refused.clone())

    def _backward(self, batch: StepBatch[Micro], step: int) -> dict[str, Tensor]:
        """Accumulates the gradients of this rank; returns the global means of the loss and the further metrics."""
        names = ("loss", *self._plan.further_metrics)
        sums = torch.zeros(len(names), device=self._processes.device)
        for index, micro in enumerate(batch.micro_batches):
            self._seed_layers(step, index)
            loss, further = self._plan.loss(micro)
            torch.autograd.backward(self._plan.scaler.scale(loss / batch.count))
            sums += torch.stack([loss.detach(), *(further[name] for name in self._plan.further_metrics)])
        means = self._processes.sum(sums) / batch.count
        return dict(zip(names, means.unbind(), strict=True))

    def _seed_layers(self, step: int, index: int) -> None:
        """Layer dropout is a function of (seed, step, micro-batch, rank): nothing before the step can change it."""
        position = index * self._processes.world_size + self._processes.rank
        torch.manual_seed(integer(2**63 - 1, self._plan.seed, Purpose.LAYER_DROPOUT, step, position))

    def _step(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Updates unless a value is not finite. With fp16 an overflowing gradient only lowers the loss scale."""
        scaler, optimizer = self._plan.scaler, self._plan.optimizer
        bad = ~torch.isfinite(loss)
        if scaler.is_enabled():
            scaler.step(optimizer)
            scaler.update()
            bad = bad | (self._loss_scale() < SMALLEST_LOSS_SCALE)
        else:
            bad = bad | ~torch.isfinite(grad_norm)
        self._refused = torch.maximum(self._refused, bad.float())
        if scaler.is_enabled():
            return
        if skips_on_device(optimizer):
            optimizer.grad_scale, optimizer.found_inf = None, self._refused  # type: ignore[attr-defined]
            optimizer.step()
        elif not self._refused.item():
            optimizer.step()

    def _loss_scale(self) -> Tensor:
        """The scaler's scale without a device sync, which `get_scale` makes."""
        scale: Tensor = self._plan.scaler.scale(torch.ones((), device=self._processes.device))
        return scale

    def _rates(self) -> dict[str, float]:
        groups = self._plan.optimizer.param_groups
        return {"learning_rate": groups[0]["lr"]} | {
            f"learning_rate/{group['name']}": group["lr"] for group in groups if "name" in group
        }


def _with_initial_rates(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer.param_groups


def _evaluation_is_due(plan: TrainingPlan[Any], progress: Progress) -> bool:
    last = progress.step == plan.total_steps
    return progress.evaluated_step < progress.step and (last or progress.step % plan.evaluate_every == 0)


def _evaluate(
    plan: TrainingPlan[Any], progress: Progress, log: StepLog, processes: Processes, reporter: Reporter
) -> None:
    """Validation and samples. Restores the random state, so that training continues as if they had not run."""
    log.flush()
    rng = rng_state()
    with _timed(progress, "evaluating"):
        if plan.hooks.validate:
            reporter.emit(Validation(step=progress.step, metrics=plan.hooks.validate(progress.step)))
        is_complete = plan.hooks.evaluate(progress.step) if plan.hooks.evaluate else True
    rng_load_state(rng)
    if not any(processes.agree([int(not is_complete)])):
        progress.evaluated_step = progress.step
    log.resume_clock()


def _save(plan: TrainingPlan[Any], progress: Progress, log: StepLog) -> None:
    log.flush()
    progress.metrics = log.last_metrics or progress.metrics
    with _timed(progress, "saving"):
        plan.save(progress)
    log.resume_clock()


def _obey(
    command: Command,
    plan: TrainingPlan[Any],
    progress: Progress,
    log: StepLog,
    processes: Processes,
    control: Control,
    reporter: Reporter,
) -> None:
    """Executes the command, then acknowledges it; a checkpoint that it writes already counts it as obeyed."""
    control.obeyed_seq = max(control.obeyed_seq, command.seq)
    if command.name == "sample_now":
        _evaluate(plan, progress, log, processes, reporter)
    else:
        _save(plan, progress, log)
    control.obeyed(command, progress.step)


@contextmanager
def _timed(progress: Progress, what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    progress.seconds[what] += time.monotonic() - started
