"""Trains the base with our own `masked_text`: python -m examples.sums.train_base --work /tmp/sums

Writes <work>/job/out/model; run it again after a stop and it goes on from its last checkpoint. Takes about
an hour of one core.
"""

import argparse
import sys
from pathlib import Path

from examples.sums.rows import rows_write
from examples.sums.start import start_write
from foundation.atomic import json_write
from foundation.digests import file_list
from trainers.contract.spec import folder_digest
from trainers.job import run

PARAMS = {
    "adaptor_name": "sums",
    "training_method": "llada",
    "train_device": "cpu",
    "dtype": "float32",
    "batch_size": 64,
    "train_steps": 7000,
    "learning_rate": 2e-3,
    "warmup_ratio": 0.03,
    "weight_decay": 0.1,
    "eos_padding": "block:8",
    "max_length": 64,
    "validation_split": 0.02,
    "logging_steps": 50,
    "eval_steps": 500,
    "save_steps": 500,
    "keep_checkpoints": 1,
    "num_proc": 1,
    "log_to_tensorboard": False,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    work: Path = parser.parse_args().work
    inputs = {"dataset": work / "rows" / "base", "model": work / "start"}
    if not inputs["model"].exists():
        rows_write(work / "rows")
        start_write(inputs["model"])
    (work / "job" / "in").mkdir(parents=True, exist_ok=True)
    for role, folder in inputs.items():
        link = work / "job" / "in" / role
        if not link.exists():
            link.symlink_to(folder.resolve())
    json_write(work / "job" / "spec.json", spec(inputs))
    return run(work / "job" / "spec.json", work / "job" / "in", work / "job" / "out", work / "cache")


def spec(inputs: dict[str, Path]) -> dict[str, object]:
    refs = {
        role: {"name": f"sums-{role}", "key": role, "sha256": folder_digest(file_list(folder))}
        for role, folder in inputs.items()
    }
    return {"name": "sums base", "method": "masked_text", "params": PARAMS, "inputs": refs}


if __name__ == "__main__":
    sys.exit(main())
