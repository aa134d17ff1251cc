"""Real `masked_text` jobs on tiny bases: made in a folder, run here or as processes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.trainers.context import context_make
from tests.trainers.job import SHA256, Job
from trainers.contract.events import EventWriter, read_events
from trainers.contract.spec import JobSpec
from trainers.core.context import JobContext
from trainers.text.adaptors.lora import attach_text_lora, text_adaptor_save
from trainers.text.models.load import load_text

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


MODEL = {"name": "tiny@1", "key": "models/1", "sha256": "ab" * 32}
ADAPTOR = {"name": "poet@1", "key": "adaptors/1", "sha256": "cd" * 32}
DATASET = {"name": "rows@1", "key": "datasets/1", "sha256": "ef" * 32}
Make = Callable[..., JobContext]


def workspace(
    folder: Path,
    method: str,
    model: Path,
    *,
    adaptors: Sequence[Path] = (),
    rows: Sequence[dict[str, Any]] = (),
    details: dict[str, Any] | None = None,
    **params: Any,
) -> JobContext:
    for name in ("in/adaptor", "out", "cache"):
        (folder / name).mkdir(parents=True)
    (folder / "in/model").symlink_to(model)
    for index, path in enumerate(adaptors):
        (folder / "in/adaptor" / str(index)).symlink_to(path)
    inputs: dict[str, Any] = {"model": MODEL, "adaptors": [ADAPTOR | {"details": details or {}} for _ in adaptors]}
    if rows:
        (folder / "in/dataset").mkdir()
        (folder / "in/dataset/rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        inputs["dataset"] = DATASET
    spec = {"name": "try", "method": method, "params": params, "inputs": inputs}
    events = EventWriter(folder / "out/events.jsonl")
    return context_make(JobSpec.model_validate(spec), folder / "in", folder / "out", folder / "cache", events)


def events_of(work: JobContext) -> list[Any]:
    return [event.data for event in read_events(work.out / "events.jsonl")]


def save_adaptor(model: Path, folder: Path, *, mask_row: bool = False, **metadata: str) -> Path:
    """A folder as a training job leaves it, of an adaptor that changes every answer."""
    base = load_text(model, torch.float32)
    generator = torch.Generator().manual_seed(0)
    parameters = attach_text_lora(
        base, r=4, alpha=8, dropout=0.0, targets="all-linear", seed=1, train_mask_embedding=mask_row
    )
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    text_adaptor_save(base, folder / "adaptor", metadata)
    return folder
