"""Rows of an accelerator bench: each is printed and written as soon as it is measured, within a time budget."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from bench.measure import machine, table

FEWEST_STEPS = 2
WARM_UP_STEPS = 2
FAILED = "failed: "
"""Start of the cell of a row that broke."""


@dataclass(frozen=True)
class Measuring:
    """How rows are measured."""

    device: torch.device
    best_tflops: float
    """Of a large matrix product."""
    max_steps: int
    seconds: float
    """Time budget of a row."""


class OverBudgetError(Exception):
    """A row took longer than its time budget."""


class RowWriter:
    """A Markdown table that grows on the standard output and, if there is a path, in a file."""

    def __init__(self, heads: Sequence[str], path: Path | None) -> None:
        self._path = path
        self._width = len(heads)
        self.has_failed = False
        """Whether a row broke; one that runs out of time or memory did not."""
        self.text("\n" + table(heads, []))

    def row(self, cells: Sequence[str]) -> None:
        self.has_failed |= any(cell.startswith(FAILED) for cell in cells)
        filled = [*cells, *[""] * (self._width - len(cells))]
        self.text(table(filled, []).partition("\n")[0])

    def text(self, text: str) -> None:
        print(text, flush=True)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(f"{text}\n")


@contextmanager
def time_budget(seconds: float) -> Iterator[None]:
    """Raises OverBudgetError in the block after `seconds`, also within a compilation. In the main thread only."""

    is_over = False

    def over(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_over
        is_over = True
        raise OverBudgetError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Exception as error:
        if is_over:  # a compiler may wrap what was raised in it
            raise OverBudgetError from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def row_or_problem(measure: Callable[[], Sequence[str]], start: Sequence[str], seconds: float) -> tuple[str, ...]:
    """`start` with the cells of `measure`, or with the reason why there are none."""
    try:
        with time_budget(seconds):
            return (*start, *measure())
    except torch.cuda.OutOfMemoryError:
        return (*start, "out of memory")
    except OverBudgetError:
        return (*start, f"over {seconds:.0f} s")
    except RuntimeError as error:
        return (*start, f"{FAILED}{str(error).partition(chr(10))[0][:100]}")


def units_per_second(run: Callable[[int], None], units: int, measuring: Measuring) -> float:
    """Of `units` a step, after steps in which kernels are chosen and compiled. `run` takes a number of steps.

    Measures as many steps as fit a third of the time budget. The clock starts and stops with an idle device.
    """
    device = measuring.device
    run(WARM_UP_STEPS)
    step_seconds = seconds_of(run, FEWEST_STEPS, device) / FEWEST_STEPS
    steps = max(FEWEST_STEPS, min(measuring.max_steps, int(measuring.seconds / 3 / step_seconds)))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return steps * units / seconds_of(run, steps, device)


def seconds_of(run: Callable[[int], None], steps: int, device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    run(steps)
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def header(measuring: Measuring) -> str:
    """The machine and the speed of its matrix product."""
    name = torch.cuda.get_device_name() if measuring.device.type == "cuda" else "CPU"
    return f"{machine()}\n{name}: {measuring.best_tflops:.0f} TFLOP/s in a bf16 matrix product"


def memory_text(device: torch.device) -> str:
    """Peak memory of the accelerator's allocator; "" on a CPU."""
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""


def product_tflops(device: torch.device, side: int, repeats: int = 30) -> float:
    """TFLOP/s of a square matrix product in bf16."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run(count: int) -> None:
        for _ in range(count):
            a @ b

    run(3)
    return 2 * side**3 * repeats / seconds_of(run, repeats, device) / 1e12
