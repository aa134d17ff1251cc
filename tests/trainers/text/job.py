"""Real `masked_text` jobs on tiny bases: made in a folder, run here or as processes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.trainers.job import SHA256, Job

WORDS = ("the cat", "on", "an one in", "dog", "two the on in three")
QUICK = {
    "adaptor_name": "tiny",
    "training_method": "llada",
    "train_steps": 3,
    "batch_size": 2,
    "dtype": "float32",
    "learning_rate": 1e-2,
    "learning_rate_schedule": "constant",
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_steps": 1000,
    "log_to_tensorboard": False,
    "num_proc": 1,
    "max_length": 96,
}
"""Three steps at a rate that shows."""


@dataclass(frozen=True)
class TextJob(Job):
    """The folders of one attempt."""

    def spec(self, *, processes: int = 1, accelerators: Any = 0, **params: Any) -> "TextJob":
        """Writes spec.json: QUICK with `params` over it."""
        resources = {"strategy": "ddp", "processes": processes} if processes > 1 else {"accelerators": accelerators}
        inputs = {role: {"name": role, "key": role, "sha256": SHA256} for role in ("dataset", "model")}
        content = {"name": "job", "method": "masked_text", "params": {**QUICK, **params}, "inputs": inputs}
        self.root.joinpath("spec.json").write_text(json.dumps({**content, "resources": resources}))
        return self

    @property
    def weights(self) -> bytes:
        """Of the fused model."""
        return (self.out / "model" / "model.safetensors").read_bytes()

    def finished(self) -> "TextJob":
        """Runs it here; the job must succeed."""
        assert self.run() == 0, self.of_kind("failed")
        return self

    def first_loss(self) -> float:
        return self.losses()[1]


def text_rows(count: int = 12) -> list[dict[str, str]]:
    return [
        {"prompt": f"{WORDS[index % 5]} {index}", "completion": f"{WORDS[(index * 3 + 1) % 5]} in {index * 7}"}
        for index in range(count)
    ]


def text_job(root: Path, base: Path, rows: list[dict[str, Any]] | None = None, **params: Any) -> TextJob:
    """A job on `rows` as JSON lines."""
    job = TextJob(root, root / "cache")
    job.dataset.mkdir(parents=True)
    (job.inputs / "model").symlink_to(base)
    (job.dataset / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in (rows or text_rows())))
    return job.spec(**params)
