"""The ranks of a job, one or several: how they communicate, and how they share the rows of a step.

Gradients are summed by one explicit all-reduce of a flat buffer after the last micro-batch of a step. The loss of a
sample is already divided by the global sample count, so the sum over ranks is the gradient of one large batch, whatever
the split; a rank without a sample gives zeros. (DDP would average, and needs a forward on every rank.)
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import Resources

RANK_TIMEOUT = timedelta(days=1)
"""How long a rank waits for another that makes sample images; one that died closes its sockets at once."""


@dataclass(frozen=True)
class Processes:
    """This rank among the job's ranks."""

    rank: int
    world_size: int
    device: torch.device
    side: dist.ProcessGroup | None = None
    """A gloo group for small CPU values, so that decisions never wait for the accelerator. None: one process."""

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sums `.grad` over the ranks in place; a missing gradient counts as zero."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world_size == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        for grad, summed in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(summed.view_as(grad))

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks of a tensor on the job's device."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def agree(self, values: Sequence[int]) -> list[int]:
        """Elementwise maximum over ranks, so that all decide alike. Every rank must call it."""
        if self.world_size == 1:
            return list(values)
        agreed = torch.tensor(list(values), dtype=torch.int64)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.side)
        return [int(value) for value in agreed]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.side)
        return list(values)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier(group=self.side)

    def share(self, items: Iterable[Any]) -> list[Any]:
        """This rank's share: every world_size-th item."""
        return list(items)[self.rank :: self.world_size]


def start_processes(resources: Resources) -> Processes:
    """Joins the ranks that torchrun started, if any. TrainerError if their number is not that of `resources`."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size != resources.num_processes:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"resources ask for {resources.num_processes} processes, got {world_size}; start it with "
            f"torchrun --nproc-per-node {resources.num_processes} -m trainers.run",
        )
    device = _device(resources)
    if world_size == 1:
        return Processes(rank=0, world_size=1, device=device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=RANK_TIMEOUT)
    return Processes(rank, world_size, device, side=dist.new_group(backend="gloo", timeout=RANK_TIMEOUT))


def single_process_check(processes: Processes, method: str) -> None:
    """Raises TrainerError(BAD_PARAMETERS) where several processes run a method that runs as one."""
    if processes.world_size > 1:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"{method} runs as one process, got {processes.world_size}; choose resources.strategy='single'",
        )


def stop_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def accelerators_text(count: int) -> str:
    return f"{count} accelerator{'' if count == 1 else 's'}"


def _device(resources: Resources) -> torch.device:
    if not resources.num_accelerators:
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if index >= count:
        raise TrainerError(
            ReasonCode.NO_ACCELERATOR, f"expected an accelerator with index {index}, found {accelerators_text(count)}"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one optimizer step are batch_size x accumulation x world_size."""

    batch_size: int
    """Rows per rank and micro-batch."""
    accumulation: int
    """Micro-batches per rank and step."""
    world_size: int

    @property
    def rows(self) -> int:
        return self.batch_size * self.accumulation * self.world_size

    def with_rows(self, rows: int) -> "GlobalBatch":
        """The same batch size and ranks with the accumulation that makes `rows`. Raises ValueError naming both."""
        at_once = self.batch_size * self.world_size
        if rows % at_once:
            raise ValueError(
                f"{_processes(self.world_size)} with batches of {self.batch_size} take {at_once} rows at a time, "
                f"of which a global batch of {rows} is no multiple"
            )
        return replace(self, accumulation=rows // at_once)

    def world_sizes(self, rows: int) -> list[int]:
        """The numbers of processes on which batches of this size can make up `rows`."""
        micro_batches, rest = divmod(rows, self.batch_size)
        return [] if rest else [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]

    def __str__(self) -> str:
        parts = f"batch size {self.batch_size} x accumulation {self.accumulation} x {_processes(self.world_size)}"
        return f"global batch {self.rows} = {parts}"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
