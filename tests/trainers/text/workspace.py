"""Jobs on tiny text models, as the worker lays them out: in/ with links, out/, an event file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.trainers.context import context_make
from trainers.contract.events import EventWriter, read_events
from trainers.contract.spec import JobSpec
from trainers.core.context import JobContext
from trainers.text.adaptors.lora import attach_text_lora, text_adaptor_save
from trainers.text.models.load import load_text

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


def told(work: JobContext) -> list[Any]:
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
