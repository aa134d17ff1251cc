"""Compares an optimizer step of ours with torch's Muon and AdamW: python -m bench.muon [--device cuda] [--layers N].

The matrices of qwen3_dllm with random gradients: on an accelerator of hidden size 1024 with 24 layers, on a CPU one
layer of a quarter of the width. All sides take turns within one run; prints milliseconds of the step,
memory of the optimizer's state, and what batching the iterations gains for each shape.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.measure import machine, table
from trainers.core.muon import Muon, Route, batch_size, iteration_dtype, newton_schulz

REPEATS = 5
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, help="layers instead of 24, or 1 on a CPU")
    args = parser.parse_args()
    device = torch.device(args.device)
    layers = args.layers or (1 if device.type == "cpu" else 24)
    width = 256 if device.type == "cpu" else 1024
    print(machine())
    print(f"{layers} layers, hidden size {width}, iterations in {str(iteration_dtype(device)).removeprefix('torch.')}")
    print(table(("optimizer", "step", "of torch's Muon", "state"), optimizer_rows(width, layers, device)))
    print(table(("shape", "one by one", "batch of", "batched", "gain"), batch_rows(width, layers, device)))
    return 0


def shapes(width: int) -> list[tuple[int, int]]:
    """Of one layer of qwen3_dllm: q, k, v, o of 32 heads of 128 for a width of 1024, then gate, up, down."""
    return [*[(4 * width, width)] * 3, (width, 4 * width), *[(4 * width, width)] * 2, (width, 4 * width)]


def optimizer_rows(width: int, layers: int, device: torch.device) -> list[tuple[str, str, str, str]]:
    def parameters() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        matrices = [
            nn.Parameter(torch.randn(shape, generator=generator).to(device) / 32) for shape in shapes(width) * layers
        ]
        for parameter in matrices:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
        return matrices

    ours = [Route(str(index), p, "muon", True, "") for index, p in enumerate(parameters())]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "Muon of torch": torch.optim.Muon(parameters(), lr=1e-3, adjust_lr_fn="match_rms_adamw"),
        "Muon of ours": Muon(
            ours,
            learning_rate=1e-3,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            epsilon=1e-8,
            dtype=iteration_dtype(device),
        ),
        "AdamW, fused": torch.optim.AdamW(parameters(), lr=1e-3, fused=True),
    }
    seconds = turns({name: optimizer.step for name, optimizer in optimizers.items()}, device)
    reference = seconds["Muon of torch"]
    return [
        (name, f"{1000 * seconds[name]:.1f} ms", f"{seconds[name] / reference:.3f}", f"{state_bytes(o) / MIB:,.0f} MiB")
        for name, o in optimizers.items()
    ]


def batch_rows(width: int, layers: int, device: torch.device) -> list[tuple[str, str, str, str, str]]:
    dtype, rows = iteration_dtype(device), []
    for rows_columns in ((16, 64), (64, 64), (width // 4, width), (width, 4 * width)):
        count = min(16, 7 * layers)
        matrices = [torch.randn(rows_columns, device=device).to(dtype) for _ in range(count)]

        def one_by_one(matrices: list[Tensor] = matrices) -> None:
            for matrix in matrices:
                newton_schulz(matrix[None])

        def together(matrices: list[Tensor] = matrices) -> None:
            newton_schulz(torch.stack(matrices))

        seconds = turns({"one": one_by_one, "all": together}, device)
        ratio = seconds["one"] / seconds["all"]
        size = min(count, batch_size(matrices[0]))
        shape = " x ".join(map(str, rows_columns))
        times = [f"{1000 * seconds[side] / count:.2f} ms each" for side in ("one", "all")]
        rows.append((shape, times[0], str(count), times[1], f"{ratio:.2f}x (the optimizer takes {size} at once)"))
    return rows


def turns(sides: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Median seconds of each side, taking turns; of CPU time on a CPU, so that other processes do not count."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(REPEATS + 1):
        for name, run in sides.items():
            started = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            samples[name].append(clock() - started)
    return {name: statistics.median(values[1:]) for name, values in samples.items()}


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


if __name__ == "__main__":
    sys.exit(main())
