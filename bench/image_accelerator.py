"""Speed of LoRA training of full-size image networks on an accelerator, compared with a large matrix product.

    python -m bench.image_accelerator [--shapes sd15 sdxl flux] [--no-compile | --compiled] [--tiny]

Networks of the real shapes with random weights, bf16, LoRA r 16 on attention, in the real loop
(`trainers.core.loop.fit`); batches are drawn from a cache on disk as a job draws them. Achieved TFLOP/s are images per
second times the operations of a trained image (1.73, 14.2 and 164 TFLOP); the ratio is to a large bf16 matrix product
in the same run. Peak memory is that of torch's allocator. Flux trains with gradient checkpointing. A row that exceeds
its time budget says so. Below the table: where the time of a step goes.
--tiny: the same program with tiny networks, also on a CPU, to see that it runs; its numbers say nothing.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.image_shapes import SHAPES, TINY_SHAPES, Shape
from bench.image_steps import Steps
from bench.rows import (
    Measuring,
    RowWriter,
    device_here,
    header,
    memory_text,
    product_tflops,
    row_or_problem,
    units_per_second,
)

HEADS = ("network", "batch", "compile", "images/s", "peak memory", "TFLOP/s", "of the matrix product", "target")
PROFILED = 12
"""Number of kernels listed."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20, help="measured steps per row, at most")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-compile", action="store_true", help="skip the rows with torch.compile")
    which.add_argument("--compiled", action="store_true", help="only the rows with torch.compile")
    parser.add_argument("--largest", action="store_true", help="only the largest batch of each shape")
    parser.add_argument("--seconds", type=float, default=120, help="time budget of a row")
    parser.add_argument("--out", type=Path, help="file that the rows are appended to")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to check that the program runs")
    args = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or args.tiny):
        print("nothing measured: no CUDA accelerator here; --tiny checks on the CPU that the program runs")
        return 0
    device = device_here()
    measuring = Measuring(device, product_tflops(device, 256 if args.tiny else 8192), args.steps, args.seconds)
    print(header(measuring))
    compiled = [True] if args.compiled else [False] if args.no_compile else [False, True]
    writer, shares = RowWriter(HEADS, args.out), []
    for name, shape in (TINY_SHAPES if args.tiny else {name: SHAPES[name] for name in args.shapes}).items():
        for batch in shape.batches[-1:] if args.largest else shape.batches:
            for compile_ in compiled:
                row, kernels = measured(name, shape, batch, measuring, compile_=compile_)
                writer.row(row)
                shares += kernels
    if shares:
        kernel_writer = RowWriter(("network", "kernel", "share of the time"), args.out)
        for share in shares:
            kernel_writer.row(share)
    return int(writer.has_failed)


def measured(
    name: str, shape: Shape, batch: int, measuring: Measuring, *, compile_: bool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row, and for the largest batch without torch.compile the kernels of a step."""
    device, is_largest = measuring.device, batch == shape.batches[-1]
    kernels: list[tuple[str, ...]] = []

    def cells() -> tuple[str, ...]:
        with tempfile.TemporaryDirectory() as cache:
            training = Steps(shape, batch, device, Path(cache), compile_=compile_)
            rate = units_per_second(training.run, batch, measuring)
            memory = memory_text(device)
            if is_largest and not compile_:
                kernels.extend(profiled(name, training, device))
        achieved = rate * shape.tflop_per_image
        target = f"{shape.target:.2f}" if is_largest and shape.target else ""
        ratio = achieved / measuring.best_tflops
        missed = " (missed)" if target and ratio < shape.target else ""
        return f"{rate:.2f}", memory, f"{achieved:.1f}", f"{ratio:.2f}{missed}", target

    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row_or_problem(cells, (name, str(batch), "yes" if compile_ else "no"), measuring.seconds), kernels


def profiled(name: str, training: Steps, device: torch.device) -> Iterator[tuple[str, ...]]:
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
    for share, key in sorted(shares)[::-1][:PROFILED]:
        yield name, key[:70].replace("|", "/"), f"{share / total:.0%}"


if __name__ == "__main__":
    sys.exit(main())
