"""Compares Muon with AdamW from scratch on real text: python -m bench.pretrain CORPUS [--steps N] [--seeds N].

CORPUS is a file of text or a folder of them, read byte by byte. Both optimizers train the same tiny qwen3_dllm with
equal settings and batches, as jobs of `pretrain_text`. Prints the validation nll on the way, the step at which Muon
reaches the nll that AdamW ends with, and the CPU time of a step.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import machine, python, table
from trainers.contract.events import Validation, read_events

PARAMS: dict[str, Any] = {
    "name": "bench",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 16,
    "packing_length": 256,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "dtype": "float32",
    "validation_documents": 200,
    "save_steps": 10_000,
    "log_to_tensorboard": False,
}
EVALUATIONS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="a text file, or a folder of text, JSON lines or Parquet files")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    print(machine())
    curves = {
        optimizer: [trained(args.corpus, optimizer, args.steps, seed) for seed in range(args.seeds)]
        for optimizer in ("adamw", "muon")
    }
    print(table(("validation nll a byte after", *curves), curve_rows(curves, args.steps)))
    print(table(("", *curves), list(summary_rows(curves, args.steps))))
    return 0


def trained(corpus: Path, optimizer: str, steps: int, seed: int) -> dict[str, Any]:
    """{nll: {step: value}, cpu: seconds of a step} of one job, run as a program."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        dataset = root / "in" / "dataset"
        if corpus.is_dir():
            dataset.symlink_to(corpus.resolve())
        else:
            dataset.mkdir()
            (dataset / corpus.name).symlink_to(corpus.resolve())
        every = max(1, steps // EVALUATIONS)
        params = PARAMS | {"optimizer": optimizer, "seed": seed, "max_steps": steps, "warmup_steps": steps // 20}
        params |= {"eval_steps": every, "logging_steps": every}
        inputs = {"dataset": {"name": "corpus", "key": "corpus", "sha256": "0" * 64}}
        spec = {"name": "bench", "method": "pretrain_text", "params": params, "inputs": inputs}
        (root / "spec.json").write_text(json.dumps(spec))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("-m", "trainers.run", str(root / "spec.json"), str(root / "in"), str(root / "out"), str(root / "cache"))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        events = [event.data for event in read_events(root / "out" / "events.jsonl")]
    return {
        "nll": {event.step: event.metrics["nll"] for event in events if isinstance(event, Validation)},
        "cpu": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / steps,
    }


def curve_rows(curves: dict[str, list[dict[str, Any]]], steps: int) -> list[tuple[str, ...]]:
    every = max(1, steps // EVALUATIONS)
    return [
        (f"{step} steps", *(_means(runs, step) for runs in curves.values()))
        for step in range(0, steps + 1, every)
        if all(step in run["nll"] for runs in curves.values() for run in runs)
    ]


def _means(runs: list[dict[str, Any]], step: int) -> str:
    values = [run["nll"][step] for run in runs]
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def summary_rows(curves: dict[str, list[dict[str, Any]]], steps: int) -> Any:
    last = {name: statistics.mean(run["nll"][steps] for run in runs) for name, runs in curves.items()}
    reached = []
    for run in curves["muon"]:
        reached.append(next((step for step, nll in sorted(run["nll"].items()) if nll <= last["adamw"]), steps))
    yield (
        "steps to AdamW's last nll",
        str(steps),
        f"{statistics.mean(reached):.0f} ({statistics.mean(reached) / steps:.2f})",
    )
    seconds = {name: statistics.mean(run["cpu"] for run in runs) for name, runs in curves.items()}
    yield "CPU-s of a step, start included", *(f"{value:.2f}" for value in seconds.values())


if __name__ == "__main__":
    sys.exit(main())
