"""Speed of LoRA training of full-size image networks on an accelerator, compared with a large matrix product.

    python -m bench.image_accelerator [--shapes sd15 sdxl flux] [--no-compile] [--tiny]

Networks of the real shapes with random weights, bf16, LoRA r 16 on attention, latents and embeddings at hand as from
the cache, in the real loop (`trainers.core.loop.fit`). Achieved TFLOP/s are images per second times the operations of a
trained image (1.73, 14.2 and 164 TFLOP); the ratio is to a large bf16 matrix product in the same run. Peak memory is
that of torch's allocator. Flux trains with gradient checkpointing. Below the table: where the time of a step goes.
--tiny: the same program with tiny networks, also on a CPU, to see that it runs; its numbers say nothing.
"""

import argparse
import sys
import time
from collections.abc import Iterator

import torch

from bench.image_shapes import SHAPES, TINY_SHAPES, Shape
from bench.image_steps import Steps
from bench.measure import machine, table

HEADS = ("network", "batch", "compile", "images/s", "peak memory", "TFLOP/s", "of the matrix product", "target")
PROFILED = 12
"""Number of kernels listed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20, help="measured steps per row")
    parser.add_argument("--no-compile", action="store_true", help="skip the rows with torch.compile")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to check that the program runs")
    args = parser.parse_args()
    if not (torch.cuda.is_available() or args.tiny):
        print("nothing measured: no CUDA accelerator here; --tiny checks on the CPU that the program runs")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = TINY_SHAPES if args.tiny else {name: SHAPES[name] for name in args.shapes}
    best = product_tflops(device, 256 if args.tiny else 8192)
    rows, shares = [], []
    for name, shape in chosen.items():
        for row, where in measured(name, shape, device, args.steps, best, compiled=not args.no_compile):
            rows.append(row)
            shares += where
            print(" | ".join(row), file=sys.stderr)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{machine()}\n{name}: {best:.0f} TFLOP/s in a bf16 matrix product\n\n{table(HEADS, rows)}")
    print("\n" + table(("network", "kernel", "share of the time"), shares))
    return 0


def measured(
    name: str, shape: Shape, device: torch.device, steps: int, best: float, *, compiled: bool
) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """A row for each batch size, without and with torch.compile; the kernels of the largest batch without."""
    for batch in shape.batches:
        for compile_ in (False, True) if compiled else (False,):
            largest = batch == shape.batches[-1]
            try:
                training = Steps(shape, batch, device, compile_=compile_)
                rate = images_per_second(training, steps, device)
                row = row_of(name, shape, batch, compile_, rate, best, largest)
                where = kernels(name, training, device) if largest and not compile_ else []
            except torch.cuda.OutOfMemoryError:
                row, where = (name, str(batch), yes(compile_), "out of memory", "", "", "", ""), []
            training = None  # type: ignore[assignment]  # frees the network before the next one is made
            if device.type == "cuda":
                torch.cuda.empty_cache()
            yield row, where


def row_of(
    name: str, shape: Shape, batch: int, compile_: bool, rate: float, best: float, largest: bool
) -> tuple[str, ...]:
    achieved = rate * shape.tflop_per_image
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else ""
    target = f"{shape.target:.2f}" if largest and shape.target else ""
    ratio = achieved / best
    missed = " (missed)" if target and ratio < shape.target else ""
    return (name, str(batch), yes(compile_), f"{rate:.2f}", memory, f"{achieved:.1f}", f"{ratio:.2f}{missed}", target)


def images_per_second(training: Steps, steps: int, device: torch.device) -> float:
    """After steps in which kernels are chosen and compiled; the clock starts and stops with an idle device."""
    training.run(max(2, steps // 4))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    training.run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * training.batch_size / (time.perf_counter() - started)


def kernels(name: str, training: Steps, device: torch.device) -> list[tuple[str, ...]]:
    """The kernels of three steps by their share of the device's time, most first."""
    on_device = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CUDA if on_device else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        training.run(3)
    shares = [
        (event.self_device_time_total if on_device else event.self_cpu_time_total, event.key)
        for event in profile.key_averages()
    ]
    total = sum(share for share, _ in shares) or 1
    return [
        (name, key[:70].replace("|", "/"), f"{share / total:.0%}") for share, key in sorted(shares)[::-1][:PROFILED]
    ]


def product_tflops(device: torch.device, side: int, repeats: int = 30) -> float:
    """TFLOP/s of a square matrix product in bf16."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 2 * side**3 * repeats / (time.perf_counter() - started) / 1e12


def yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(main())
